"""What this project promises when things go wrong: a run can be stopped or killed at any time and loses nothing."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from config import Config
from engine import UserError, checkpoint, settings
from engine.trainer import Trainer
from task import Task
from test_project import SMALL, run

ROOT = Path(train.__file__).parent
FLAGS = ["--epochs", "3", "--num_parts", "2", "--lr_scheduler_type", "metric", "--warm_up_epochs", "1.5"]


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal to the last bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def assert_ends_like(whole: Path, stopped: Path) -> None:
    """Both runs have the same last state and the same best one, with all that is in them."""
    for name in ("epoch3.pth", "best.pth"):
        expected, found = checkpoint.load(whole / name), checkpoint.load(stopped / name)
        assert [key for key in expected if not same(expected[key], found[key])] == []


def start(folder: Path, *flags: str) -> "subprocess.Popen[str]":
    """Trains with these flags in a process of its own, which saves after each update: that takes its time."""
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # more would add up in another order
    argv = [sys.executable, "-B", "train.py", *SMALL, "--ckpt_dir", str(folder), "--save_per_steps", "1", *flags]
    return subprocess.Popen(argv, cwd=ROOT, env=threads, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(folder: Path, name: str, process: "subprocess.Popen[str]") -> Path:
    """The run's folder, once it has a state of that name."""
    deadline = time.monotonic() + 120
    while not (found := list(folder.glob(f"*/{name}"))):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.002)
    return found[0].parent


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    return run(tmp_path_factory.mktemp("whole"), *FLAGS)


def test_a_run_that_was_killed_ends_like_one_that_was_not(whole: Path, tmp_path: Path) -> None:
    process = start(tmp_path, *FLAGS)
    killed = wait_for(tmp_path, "epoch2*.pth", process)
    process.kill()
    process.communicate()
    train.train(["--resume", str(killed)])
    assert_ends_like(whole, killed)


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_a_run_that_was_stopped_saves_inside_the_epoch_and_ends_like_one_that_was_not(
    whole: Path, tmp_path: Path
) -> None:
    process = start(tmp_path, *FLAGS)
    stopped = wait_for(tmp_path, "epoch1*.pth", process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in output, output
    assert (stopped / "log.txt").read_text("utf-8").splitlines()[-1].startswith("stopped by SIGTERM after update")
    train.train(["--resume", "auto", "--ckpt_dir", str(tmp_path)])
    assert_ends_like(whole, stopped)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_state_is_named_and_the_one_before_it_is_used(
    damage: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "run"
    damaged.mkdir()
    for name in ("config.json", "best.pth", "epoch2.pth", "epoch3.pth"):
        (damaged / name).write_bytes((whole / name).read_bytes())
    content = bytearray((whole / "epoch3.pth").read_bytes())
    content[len(content) // 3] ^= 1
    (damaged / "epoch3.pth").write_bytes(content if damage == "flip" else content[:-9])
    train.train(["--resume", str(damaged)])
    output = capsys.readouterr().out
    assert "epoch3.pth is damaged" in output and f"continuing from {damaged / 'epoch2.pth'}" in output
    assert_ends_like(whole, damaged)


def test_a_full_disk_ends_a_run_with_one_line_and_leaves_its_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = 0

    def full(number: int) -> None:
        nonlocal saves
        saves += 1
        if saves > 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="cannot write .* free space") as refusal:
        run(tmp_path, *FLAGS)
    assert "\n" not in str(refusal.value)
    for state in tmp_path.glob("*/*.pth"):
        assert checkpoint.is_intact(state)
    assert not list(tmp_path.glob("*/.unfinished.tmp"))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_a_run_and_is_never_saved(
    bad: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Task.train_step

    def spoilt(self: Trainer, batch: Any) -> dict[str, Any]:
        losses = step(self, batch)  # type: ignore[arg-type]
        return {**losses, "loss": losses["loss"] * (bad if self.global_step + 1 == update else 1)}

    monkeypatch.setattr(Task, "train_step", spoilt)
    trainer = Task(settings.parse(Config(), [*SMALL, *FLAGS, "--log_per_step", "5"]))
    trainer.ckpt_dir = tmp_path
    trainer.check_init()
    update = trainer.updates_per_epoch() + min(4, trainer.updates_per_epoch())  # in the second epoch
    with pytest.raises(UserError, match=f"loss became {bad} at update {update}"):
        trainer.fit(3)
    assert trainer.global_step < update + 5
    assert checkpoint.states_in(tmp_path) == [tmp_path / "epoch1.pth"]


def test_a_checkpoint_is_never_executed(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, ("raise SystemExit('code was executed')",)

    torch.save({"model0": Code(), "meta": {}}, tmp_path / "best.pth")
    with pytest.raises(UserError, match="no plain value"):
        checkpoint.load(tmp_path / "best.pth")
