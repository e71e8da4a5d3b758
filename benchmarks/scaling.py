"""Times the demo's updates in one process and in two on this machine's CPUs, and what they would send by formula.

Two processes share the cores that the one has alone, so what they take longer is what training together costs.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conftest import render_plainly, write_config  # noqa: E402

ROUNDS = 3
BATCH = 256
FLAGS = ["--data", "synthetic", "--epochs", "6", "--batch_size", str(BATCH), "--save_per_epochs", "6"]
FLAGS += ["--log_per_step", "8"]  # the updates of an epoch: the speed that is recorded is of these alone
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def speeds(run: Path) -> list[float]:
    """The samples per second that a run has recorded."""
    events = EventAccumulator(str(run / "runs"), size_guidance={"scalars": 0})
    events.Reload()
    return [event.value for event in events.Scalars("speed/samples_per_second")]


def main() -> None:
    """Prints the table: medians over rounds in turn, and of the ratios within each."""
    folder = Path(tempfile.mkdtemp())
    project = render_plainly(folder / "project", write_config(folder), task_type="image_classification")
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    ways = {
        f"1 process, {threads} threads": ([], threads),
        f"2 processes, ddp, {threads // 2} thread each": ([*TORCHRUN], threads // 2),
        f"2 processes, fsdp, {threads // 2} thread each": ([*TORCHRUN], threads // 2),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    weights = 0
    for _ in range(ROUNDS):
        for name, (start, count) in ways.items():
            flags = [*FLAGS, "--strategy", "fsdp" if "fsdp" in name else "ddp", "--ckpt_dir", str(folder / "runs")]
            call = [sys.executable, *start, "train.py", *flags]
            environment = os.environ | {"OMP_NUM_THREADS": str(count), "PYTHONDONTWRITEBYTECODE": "1"}
            done = subprocess.run(call, cwd=project, env=environment, check=True, capture_output=True, text=True)
            [run] = re.findall(r"files (.*)$", done.stdout, re.M)
            [images] = re.findall(r"^data: ([\d,]+) train", done.stdout, re.M)
            [parts] = re.findall(r"parameters ([\d,]+)$", done.stdout, re.M)
            weights = int(parts.replace(",", ""))
            samples = int(images.replace(",", ""))
            found[name].append(samples / median(speeds(Path(run))[1:]) / -(-samples // BATCH))
    first = found[next(iter(found))]
    print(f"{weights:,} weights, {BATCH} images per update, {threads} cores\n")
    print("| | ms per update | ratio | MB sent, by the formulas below |\n|---|---|---|---|")
    for name, times in found.items():
        ratio = median(time / base for time, base in zip(times, first, strict=True))
        # A ring of N processes sends each tensor 2 (N - 1) / N times, with fsdp 3 (N - 1) / N times: docs/scaling.md.
        sent = 0 if "1 process" in name else (3 if "fsdp" in name else 2) * 0.5 * 4 * weights / 1e6
        print(f"| {name} | {1e3 * median(times):.0f} | {ratio:.2f} | {sent:.1f} |")


if __name__ == "__main__":
    main()
