"""Several processes that train together: the same as one, to what addition in another order changes; and every end."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUESTIONS, Render
from engine import UserError
from engine.data.loaders import LocalBatchSampler
from engine.distributed import process_group
from engine.distributed.batches import cut, local_range, num_samples
from engine.distributed.fsdp import shard_parts
from faults import BASE, differences, end_of
from ranks import cases_of, end_of_run, end_ranks, free_port, run_ranks, said, start_ranks
from scripts import run_script
from torch import nn
from torchmetrics import MeanMetric

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")


def far(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two nests of numbers differ by more than 1e-6, or by anything where they are whole."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        return [line for key in one for line in far(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, list):
        assert len(one) == len(other), where
        return [line for i, pair in enumerate(zip(one, other, strict=True)) for line in far(*pair, f"{where}[{i}]")]
    close = one == other or (isinstance(one, float) and math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-6))
    return [] if close else [f"{where}: {one} and {other}"]


# ---- the same as one process ----


# gloo of torch 2.6 cannot do it, and nothing before this version was tried.
OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14)
NEW_TORCH = pytest.mark.skipif(OLD, reason="fsdp on CPUs needs a newer torch")
FSDP = pytest.param("fsdp", marks=NEW_TORCH)


@pytest.mark.parametrize(("world", "strategy"), [(2, "ddp"), (3, "ddp"), pytest.param(2, "fsdp", marks=NEW_TORCH)])
def test_weights_losses_and_scores_are_those_of_one_process(world: int, strategy: str, tmp_path: Path) -> None:
    run_ranks(tmp_path, [str(HERE / "ranks.py"), str(tmp_path), strategy], tmp_path, world)
    files = [json.loads((tmp_path / f"ends{rank}.json").read_text()) for rank in range(world)]
    assert [file["place"] for file in files] == [[rank, world, list(range(world))] for rank in range(world)]
    for number, (samples, batch_size) in enumerate(cases_of(strategy)):
        alone = json.loads(json.dumps(end_of_run(samples, batch_size, tmp_path / str(number), "ddp")))
        ends = [file["ends"][number] for file in files]
        assert all(end == ends[0] for end in ends), f"{samples} samples in batches of {batch_size}"  # to the last bit
        assert far(alone, ends[0], f"{samples} samples in batches of {batch_size}") == []


def test_ranges_of_a_batch_cover_it_and_none_is_a_single_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    for world in range(1, 6):
        for samples in range(1, 30):
            batch, ranges = list(range(samples)), []
            for rank in range(world):
                monkeypatch.setattr("engine.distributed.batches.world_size", lambda world=world: world)
                monkeypatch.setattr("engine.distributed.batches.rank", lambda rank=rank: rank)
                start, end = local_range(samples)
                [taken] = LocalBatchSampler([batch])
                assert taken == (batch[start:end] or batch[:2])
                ranges.append(batch[start:end])
            assert sum(ranges, []) == batch
            assert 1 not in map(len, ranges) or samples == 1


def test_what_cannot_be_divided_is_refused_in_one_line() -> None:
    batch = {"x": (torch.arange(4), [torch.ones(4, 2)])}
    assert cut(batch, slice(1, 3), 4)["x"][0].tolist() == [1, 2]
    for bad in ("text", torch.ones(3), 5):
        with pytest.raises(UserError, match="cannot be divided among processes; make the loaders with"):
            cut((torch.ones(4), bad), slice(1, 3), 4)


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (torch.ones(4), 4),
        ((torch.ones(4, 2), torch.ones(3)), 4),
        ({"names": ["a"] * 4, "x": torch.ones(4)}, 4),
        (((torch.ones(4), torch.ones(4, 2)), torch.ones(4)), 4),
        ((torch.arange(2), [torch.ones(3, 8, 8), torch.ones(3, 9, 9)]), 2),
    ],
)
def test_samples_of_a_batch_are_counted_by_its_first_tensor(batch: Any, samples: int) -> None:
    assert num_samples(batch) == samples


def test_samples_that_cannot_be_counted_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="holds no tensor"):
        num_samples(["a", "b"])
    with pytest.raises(UserError, match="starts with a list, and its tensors have the lengths 3, 3, 2"):
        num_samples(([torch.ones(3, 8, 8), torch.ones(3, 9, 9)], torch.ones(2)))


def test_a_metric_that_names_no_sums_is_refused_where_there_are_several_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hits:
        hits = 0

    monkeypatch.setattr(process_group, "world_size", lambda: 2)
    process_group.sum_over_processes(MeanMetric())
    with pytest.raises(UserError, match="Hits in dataset_metrics does not say what is added up over processes"):
        process_group.sum_over_processes(Hits())


@pytest.mark.parametrize("strategy", ["ddp", FSDP])
@pytest.mark.parametrize("task_type", QUESTIONS["task_type"])
def test_every_task_trains_in_two_processes(task_type: str, strategy: str, render: Render, tmp_path: Path) -> None:
    project = render(task_type=task_type, num_parts="3")
    flags = ["train.py", "--data", "synthetic", "--width", "8", "--epochs", "1", "--warm_up_mode", "none"]
    flags += ["--precision", "fp32", "--batch_size", "256", "--strategy", strategy]
    if task_type == "regression":  # without what each process draws for itself
        flags += ["--backbone", "mlp", "--dropout", "0"]
    found = []
    for world in (1, 2):
        first, *others = run_ranks(project, [*flags, "--ckpt_dir", str(tmp_path / str(world))], tmp_path, world)
        assert not any(others)
        [(names, values)] = re.findall(r"^epoch  (.*)  next lr .*\n  1/1 (.*)$", first, re.MULTILINE)
        found.append(dict(zip(re.split(r" {2,}", names), map(float, values.split()), strict=False)))
    assert found[0].keys() == found[1].keys() and len(found[0]) > 2
    if task_type == "regression":
        assert found[0] == pytest.approx(found[1], abs=1e-3)


# ---- runs of train.py ----


PAIR = ["--standalone", "--nproc-per-node=2"]


def torchrun(
    project: Path, output: Path, argv: list[str], *options: str, on: Sequence[str] = (), **environment: str
) -> subprocess.Popen[Any]:
    """Starts `torchrun *options train.py *argv`, in a group of its own; it prints into the file.

    The words `on` stand before the command.
    """
    call = [*on, sys.executable, "-m", "torch.distributed.run", *(options or PAIR), "train.py", *argv]
    with output.open("w") as file:
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"} | environment
        return subprocess.Popen(call, cwd=project, env=env, stdout=file, stderr=file, start_new_session=True)


def children(process: int) -> list[int]:
    """The processes that it has started, which torchrun gives groups of their own (Linux)."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):  # it has ended meanwhile
            if f"\nPPid:\t{process}\n" in status.read_text():
                found.append(int(status.parent.name))
    return found


FLAGS = [*BASE, "--epochs", "3", "--save_per_steps", "2", "--log_per_step", "2", "--num_parts", "2", "--keep_last", "9"]
FLAGS += ["--ema", "0.9"]


@pytest.fixture(scope="module")
def whole(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run by two processes that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run_ranks(project, ["train.py", *FLAGS, "--ckpt_dir", str(folder / "runs")], folder, 2)
    return folder


def test_only_rank_0_prints_and_log_txt_is_what_it_printed(whole: Path) -> None:
    first, second = said(whole, 2)
    assert second == ""
    [log] = (whole / "runs").glob("*/log.txt")
    assert log.read_text("utf-8").splitlines() == first.splitlines()
    assert re.findall(r"^  (\d/3)  ", first, re.MULTILINE) == ["1/3", "2/3", "3/3"]


def test_a_killed_process_is_replaced_and_the_run_ends_as_if_it_had_not_been(
    project: Path, whole: Path, tmp_path: Path
) -> None:
    older = tmp_path / "runs" / "2000-01-01_00-00-00"  # a run of the same folder, which must not be continued
    first = ["train.py", *FLAGS, "--epochs", "1", "--warm_up_mode", "none", "--ckpt_dir", str(tmp_path / "runs")]
    run_ranks(project, first, tmp_path, 1)
    next((tmp_path / "runs").iterdir()).rename(older)
    argv = [*FLAGS, "--ckpt_dir", str(tmp_path / "runs")]
    run = torchrun(project, tmp_path / "output", argv, *PAIR, "--max-restarts=1", FAULT_SEND="1:9:9")
    status = run.wait(120)
    printed = (tmp_path / "output").read_text("utf-8")
    assert status == 0 and "continuing from" in printed and "epoch2_step8.pth: epoch 2, update 8" in printed, printed
    shutil.rmtree(older)
    assert differences(end_of(whole / "runs"), end_of(tmp_path / "runs")) == []


@pytest.mark.parametrize("everyone", [False, True])
def test_sigterm_saves_once_and_all_stop_at_the_same_update(
    everyone: bool, project: Path, whole: Path, tmp_path: Path
) -> None:
    argv = [*FLAGS, "--save_per_steps", "0", "--ckpt_dir", str(tmp_path / "runs"), "--resume", "auto"]
    run = torchrun(project, tmp_path / "output", argv, FAULT_SLEEP="0.3")
    while "in training" not in (tmp_path / "output").read_text("utf-8"):
        assert run.poll() is None, (tmp_path / "output").read_text("utf-8")
        time.sleep(0.05)
    for process in [*(children(run.pid) if everyone else []), run.pid]:
        os.kill(process, signal.SIGTERM)
    assert run.wait(60) != 0
    printed = (tmp_path / "output").read_text("utf-8")
    assert printed.count("stopped by SIGTERM after update") == 1, printed
    [state] = (tmp_path / "runs").glob("*/epoch*.pth")
    run_ranks(project, ["train.py", *argv], tmp_path, 2)
    there, here = end_of(whole / "runs"), end_of(tmp_path / "runs")
    for name in ("best.pth", "epoch3.pth"):
        assert differences(there["states"][name], here["states"][name]) == []
    assert differences(there["scalars"], here["scalars"]) == []


def test_a_failing_process_ends_the_job(project: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    run = torchrun(project, tmp_path / "output", [*FLAGS, "--ckpt_dir", str(tmp_path)], FAULT_SEND="1:3:0")
    assert run.wait(60) == 1
    assert "RuntimeError: rank 1 fails" in (tmp_path / "output").read_text("utf-8")
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("strategy", ["ddp", FSDP])
def test_a_run_goes_on_with_another_number_of_processes(strategy: str, project: Path, tmp_path: Path) -> None:
    """2, 1, then 2: the same order of samples; weights differ by what the order of additions changes."""
    argv = ["train.py", *FLAGS, "--clip_grad", "1", "--resume", "auto", "--ckpt_dir"]
    assert run_script(project, [*argv, str(tmp_path / "alone")], tmp_path / "output", FAULT_PLAIN="1")[0] == 0
    for number, (world, updates) in enumerate([(2, 4), (1, 9), (2, 99)]):
        output = tmp_path / str(number)
        stop = {"FAULT_SEND": f"0:{updates}:{signal.SIGTERM:d}", "FAULT_PLAIN": "1"}
        flags = [str(tmp_path / "changed"), "--strategy", strategy]
        processes = start_ranks(project, [*argv, *flags], output, world, **stop)
        expected = 128 + signal.SIGTERM if updates < 99 else 0
        assert set(end_ranks(processes, output)) == {expected}, said(output, world)
    there, here = end_of(tmp_path / "alone"), end_of(tmp_path / "changed")
    for name in ("best.pth", "epoch3.pth"):
        one, other = there["states"][name], here["states"][name]
        assert list(one) == list(other)
        for part in one.keys() & {"model0", "model1", "ema0", "ema1"}:
            torch.testing.assert_close(one[part], other[part], rtol=1e-5, atol=1e-6)
        assert one["best_metric"].keys() == other["best_metric"].keys()
    assert there["scalars"].keys() == here["scalars"].keys()
    for tag, points in there["scalars"].items():
        steps, values = zip(*points, strict=True)
        assert [step for step, _ in here["scalars"][tag]] == list(steps)
        torch.testing.assert_close(torch.tensor([v for _, v in here["scalars"][tag]]), torch.tensor(values))


# ---- several machines, each with a torchrun of its own ----


def agent(
    project: Path, output: Path, endpoint: str, argv: list[str], *options: Any, rdzv: str = "", **more: Any
) -> subprocess.Popen[Any]:
    """Starts one machine's torchrun, with one process to train, which meets another's, if any, at that place."""
    options += ("--nproc-per-node=1", "--nnodes=1:2", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}")
    # Seconds until a machine that is silent is taken for lost, and until one begins without those that may still come.
    rdzv += "last_call_timeout=2,keep_alive_interval=1,keep_alive_max_attempt=2"
    options += ("--rdzv-id=test", f"--rdzv-conf={rdzv}", "--max-restarts=3", "--monitor-interval=0.2")
    return torchrun(project, output, argv, *options, FAULT_SLEEP="0.2", **more)


def await_state(run: subprocess.Popen[Any], output: Path, runs: Path) -> None:
    """Waits until a run, which prints into the file, has saved its first state."""
    deadline = time.monotonic() + 60
    while not list(runs.glob("*/epoch1_step2.pth")):
        assert time.monotonic() < deadline and run.poll() is None, output.read_text("utf-8")
        time.sleep(0.1)


def test_a_machine_that_dies_is_done_without(project: Path, tmp_path: Path) -> None:
    argv, endpoint = [*FLAGS, "--ckpt_dir", str(tmp_path / "runs")], f"127.0.0.1:{free_port()}"
    stays = agent(project, tmp_path / "stays", endpoint, argv)
    time.sleep(1)  # the first to come has the store at which they meet
    lost = agent(project, tmp_path / "lost", endpoint, argv)
    await_state(stays, tmp_path / "stays", tmp_path / "runs")
    workers = children(lost.pid)
    os.killpg(lost.pid, signal.SIGKILL)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    assert stays.wait(120) == 0, (tmp_path / "stays").read_text("utf-8")
    lost.wait(10)
    printed = (tmp_path / "stays").read_text("utf-8") + (tmp_path / "lost").read_text("utf-8")
    assert "continuing from" in printed
    assert max(end_of(tmp_path / "runs")["states"]) == "epoch3.pth"


@pytest.fixture
def hosts() -> Iterator[list[list[str]]]:
    """Two network namespaces with a cable between them, 10.77.0.1 and .2: of each the words before a command there."""
    inside: list[list[str]] = []
    with ExitStack() as stack:
        try:
            for unshare in (["unshare", "--map-root-user", "--net"], ["unshare", "--net"]):
                call = [*(inside[-1] if inside else []), *unshare, "sh", "-c", "echo; exec sleep 600"]
                host = stack.enter_context(subprocess.Popen(call, stdout=subprocess.PIPE, start_new_session=True))
                stack.callback(kill, host.pid)
                assert host.stdout and host.stdout.readline()
                inside.append(["nsenter", f"--target={host.pid}", "--user", "--net", "--preserve-credentials"])
            cable = f"ip link add cable type veth peer name cable netns {host.pid}"
            subprocess.run([*inside[0], *cable.split()], check=True)
            for number, words in enumerate(inside, 1):
                for what in (f"addr add 10.77.0.{number}/24 dev cable", "link set cable up", "link set lo up"):
                    subprocess.run([*words, "ip", *what.split()], check=True)
        except (OSError, AssertionError, subprocess.CalledProcessError):
            pytest.skip("network namespaces are not permitted here")
        yield inside


def kill(process: int) -> None:
    """Kills a process, with all of its group, should it still be there."""
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


def test_a_machine_that_falls_silent_is_done_without(hosts: list[list[str]], project: Path, tmp_path: Path) -> None:
    """Its network is cut: nothing tells the other, which gives up waiting after --sync_timeout."""
    argv = [*FLAGS, "--sync_timeout", "0.2", "--ckpt_dir", str(tmp_path / "runs")]
    outputs, runs = [tmp_path / "stays", tmp_path / "lost"], []
    with ExitStack() as stack:
        for number, (output, on) in enumerate(zip(outputs, hosts, strict=True), 1):
            rdzv, address = f"is_host={2 - number},", f"--local-addr=10.77.0.{number}"
            place: dict[str, Any] = {"rdzv": rdzv, "on": on, "GLOO_SOCKET_IFNAME": "cable"}
            run = stack.enter_context(agent(project, output, "10.77.0.1:29400", argv, address, **place))
            stack.callback(kill, run.pid)
            runs.append(run)
        await_state(runs[0], outputs[0], tmp_path / "runs")
        for worker in children(runs[1].pid):
            stack.callback(kill, worker)
        subprocess.run([*hosts[1], "ip", "link", "set", "cable", "down"], check=True)
        assert runs[0].wait(120) == 0, outputs[0].read_text("utf-8")
    assert "continuing from" in outputs[0].read_text("utf-8")
    assert max(end_of(tmp_path / "runs")["states"]) == "epoch3.pth"


def test_slurm_sends_a_run_that_has_to_stop_back_to_the_queue_and_it_goes_on(
    project: Path, whole: Path, tmp_path: Path
) -> None:
    """With Slurm's commands as short scripts: what they are asked for is written down."""
    commands = {
        "scontrol": f'if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> {tmp_path}/asked; fi',
        "srun": f'shift; echo $$ > {tmp_path}/step; exec "$@"',
        "scancel": f'[ "$1 $2" = "--signal=TERM 77" ] && kill -TERM $(cat {tmp_path}/step)',
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
    }
    for name, script in commands.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    env = os.environ | {"SLURM_JOB_NODELIST": "a", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_ID": "77"}
    env |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    call = ["bash", "scripts/slurm.sh", *FLAGS, "--ckpt_dir", str(tmp_path / "runs")]
    outputs = [tmp_path / "first", tmp_path / "second"]
    for output, slowly in zip(outputs, ("0.3", "0"), strict=True):
        with output.open("w") as file:
            job = subprocess.Popen(call, cwd=project, env=env | {"FAULT_SLEEP": slowly}, stdout=file, stderr=file)
        while slowly != "0" and "in training" not in output.read_text("utf-8"):
            assert job.poll() is None, output.read_text("utf-8")
            time.sleep(0.05)
        if slowly != "0":
            job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 0, output.read_text("utf-8")
    assert (tmp_path / "asked").read_text("utf-8") == "requeue 77\n"
    assert "stopped by SIGTERM" in outputs[0].read_text("utf-8")
    assert "continuing from" in outputs[1].read_text("utf-8")
    there, here = end_of(whole / "runs"), end_of(tmp_path / "runs")
    assert differences(there["states"]["epoch3.pth"], here["states"]["epoch3.pth"]) == []


@NEW_TORCH
def test_a_killed_process_of_sharded_weights_is_replaced_too(project: Path, tmp_path: Path) -> None:
    flags = ["--strategy", "fsdp", "--optimizer", "adamw", "--histograms", "--ckpt_dir"]
    run_ranks(project, ["train.py", *FLAGS, *flags, str(tmp_path / "whole")], tmp_path / "output", 2)
    run = torchrun(
        project, tmp_path / "killed.txt", [*FLAGS, *flags, str(tmp_path / "killed")], *PAIR, "--max-restarts=1",
        FAULT_SEND="1:9:9",
    )  # fmt: skip
    status, printed = run.wait(120), (tmp_path / "killed.txt").read_text("utf-8")
    assert status == 0 and "epoch2_step8.pth: epoch 2, update 8" in printed, printed
    assert differences(end_of(tmp_path / "whole"), end_of(tmp_path / "killed")) == []


def test_what_fsdp_cannot_shard_ends_with_a_line(project: Path, tmp_path: Path) -> None:
    for flags, line in (
        (["--optimizer", "muon"], "error: --strategy fsdp shards weights, and Muon needs them whole"),
        (["--precision", "fp16"], "error: fp16 does not go with the strategy fsdp; set precision to bf16 or fp32"),
    ):
        argv = ["train.py", *FLAGS, "--strategy", "fsdp", *flags, "--ckpt_dir", str(tmp_path / "runs")]
        processes = start_ranks(project, argv, tmp_path, 2)
        assert end_ranks(processes, tmp_path) == [1, 1]
        assert all(text.splitlines()[-1].startswith(line) for text in said(tmp_path, 2)), said(tmp_path, 2)


def test_weights_that_cannot_be_sharded_are_refused() -> None:
    tied, scalar = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Module()
    tied[1].weight = tied[0].weight
    scalar.scale = nn.Parameter(torch.tensor(1.0))
    cases: list[list[nn.Module]] = [[tied], [scalar], [tied[0], tied[1]]]
    for parts in cases:
        with pytest.raises(UserError, match="fsdp shards neither weights that two layers share nor scalar ones"):
            shard_parts(parts, [], torch.device("cpu"), 2)
