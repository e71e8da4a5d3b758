#!/usr/bin/env bash
# sbatch scripts/slurm.sh [flags of train.py]: trains on all GPUs of two machines; set the lines below to your cluster.
# Two minutes before the time is over the run saves its state and goes back into the queue. Then it goes on by itself:
# torchrun hands on the job's number, by which train.py finds the run that it began.
#SBATCH --job-name=train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.txt
set -uo pipefail

host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "$host:29400" --rdzv-id "$SLURM_JOB_ID" \
    train.py "$@" &
training=$!
# To the processes of the run; srun itself would kill them at once.
trap 'asked=yes; scancel --signal=TERM "$SLURM_JOB_ID"' TERM
wait "$training"
status=$?
if [ "${asked:-no}" = yes ]; then  # the signal ended the first wait, not the training
    wait "$training"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$status"
