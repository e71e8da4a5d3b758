"""Kills runs of a project's train.py at chosen instants, resumes them, and compares the end with that of a whole run.

Runs are forked from this process once it is warm, so that one takes a tenth of a second and not three: `python
faults.py PROJECT FOLDER KILLS FLAG...` prints "ok" and what it did, or what differs.
"""

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from engine import checkpoint, trainer
from engine.checkpoint import run_folder
from engine.logger import Logger
from engine.monitor.tensorboard import TensorBoardWriter
from engine.optim.gradients import Gradients
from engine.runtime import files
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from torch.optim.optimizer import register_optimizer_step_pre_hook

# Flags of a run that takes seconds.
BASE = ["--data", "small", "--batch_size", "4", "--workers", "0", "--lr", "0.02", "--precision", "fp32"]


class Countdown:
    """Counts the instants that a run passes; at number `last` the process gets the signal."""

    def __init__(self, last: int, deadly: signal.Signals) -> None:
        self.passed = 0
        self.last = last
        self.deadly = deadly

    def tick(self, *args: Any) -> None:
        """An instant: in an update, an evaluation, a save, a record."""
        self.passed += 1
        if self.passed == self.last:
            os.kill(os.getpid(), self.deadly)

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with an instant just before it."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            return function(*args, **kwargs)

        return counted

    def save_in_halves(self, state: Any, file: Any) -> None:
        """torch.save, with an instant when half of the file is written."""
        content = BytesIO()
        SAVE(state, content)
        half = len(content.getvalue()) // 2
        file.write(content.getvalue()[:half])
        file.flush()
        self.tick()
        file.write(content.getvalue()[half:])


SAVE = torch.save


@contextmanager
def instants(countdown: Countdown) -> Iterator[None]:
    """Inside, a run ticks wherever it could be hit."""
    places: list[tuple[Any, str]] = [
        (trainer, "to_device"),  # every micro-batch, of training and evaluation
        (Gradients, "clip"),
        (Gradients, "flag_non_finite"),
        (trainer.Trainer, "update_lr_scheduler"),
        (os, "fsync"),
        (os, "replace"),
        (files, "sync_folder"),
        (run_folder, "prune"),
        (TensorBoardWriter, "_attempt"),
        (Logger, "write"),
    ]
    hook = register_optimizer_step_pre_hook(countdown.tick)
    patches = [mock.patch.object(owner, name, countdown.before(getattr(owner, name))) for owner, name in places]
    patches.append(mock.patch.object(torch, "save", countdown.save_in_halves))
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        hook.remove()
        for patch in patches:
            patch.stop()


SECONDS = count(10**9)  # when each run starts: TensorBoard sorts its files by the second, and these runs are faster


def run(argv: list[str], output: Path, last: int = 0, deadly: signal.Signals = signal.SIGKILL) -> tuple[int, int]:
    """Runs train.py in a forked process; returns its exit status (minus a signal) and the instants it passed."""
    read, write = os.pipe()
    second = next(SECONDS)
    process = os.fork()
    if not process:
        with output.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status, countdown = 1, Countdown(last, deadly)
        try:
            clock = SimpleNamespace(time=lambda: second)
            with instants(countdown), mock.patch.object(event_file_writer, "time", clock):
                import_module("train").train(argv)
            status = 0
        except KeyboardInterrupt:
            status = 130
        except SystemExit as stop:
            status = int(stop.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        os.write(write, str(countdown.passed).encode())
        sys.stdout.flush()
        os._exit(status)
    os.close(write)
    _, status = os.waitpid(process, 0)
    with os.fdopen(read) as passed:
        return os.waitstatus_to_exitcode(status), int(passed.read() or 0)


# ---- what a run leaves ----


def scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar that TensorBoard shows but for speeds, which no two runs share, by tag: (step, value)."""
    found = {}
    for folder in [run_dir / "runs", *(run_dir / "runs").glob("loss_per_epoch*")]:
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        for tag in (tag for tag in events.Tags()["scalars"] if not tag.startswith("speed/")):
            found[f"{folder.name}/{tag}"] = [(event.step, event.value) for event in events.Scalars(tag)]
    return found


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two values differ by as much as a bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            found
            for name in sorted(one.keys() | other.keys(), key=str)
            for found in differences(one.get(name), other.get(name), f"{where}/{name}")
        ]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        return differences(dict(enumerate(one)), dict(enumerate(other)), where)
    both = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    same = torch.equal(one, other) if both else one == other
    return [] if same else [f"{where}: {str(one)[:200]} and {str(other)[:200]}"]


def end_of(root: Path) -> dict[str, Any]:
    """All that must not depend on whether a run was stopped: the states that are left, and the curves."""
    [run_dir] = [path for path in root.iterdir() if path.is_dir() and (path / "config.json").exists()]
    files = sorted(path.name for path in run_dir.iterdir())
    states = {path.name: checkpoint.load(path) for path in run_dir.glob("*.pth")}
    return {"files": files, "states": states, "scalars": scalars(run_dir)}


def check_nothing_is_broken(root: Path) -> None:
    """Whatever was being written: every file that bears the name of a state is whole."""
    for path in root.glob("*/*.pth"):
        assert checkpoint.is_intact(path), f"{path} is damaged"


# ---- the trial ----


def trial(folder: Path, flags: list[str], kills: list[list[tuple[int, signal.Signals]]]) -> str:
    """Kills runs as each entry of `kills` says, one kill after the other, and compares; returns what was tried."""
    output = folder / "output.txt"
    whole = folder / "whole"
    status, total = run([*flags, "--ckpt_dir", str(whole)], output)
    assert status == 0, output.read_text()
    expected = end_of(whole)
    killed = 0
    for number, one_run in enumerate(kills or [[(last, signal.SIGKILL)] for last in range(1, total + 1)]):
        root = folder / f"run{number}"
        for last, deadly in one_run:
            last = 1 + (last - 1) % total
            status, _ = run([*flags, "--ckpt_dir", str(root), "--resume", "auto"], output, last, deadly)
            assert status in (-deadly, 128 + deadly, 0), (number, one_run, status, output.read_text()[-3000:])
            killed += status != 0
            if root.exists():
                check_nothing_is_broken(root)
        status, _ = run([*flags, "--ckpt_dir", str(root), "--resume", "auto"], output)
        assert status == 0, (number, one_run, output.read_text()[-3000:])
        # A run that was killed before its first state leaves a folder without one.
        for empty in [path for path in root.iterdir() if not list(path.glob("epoch*.pth"))]:
            shutil.rmtree(empty)
        found = differences(expected, end_of(root))
        assert not found, (number, one_run, found[:5], output.read_text()[-3000:])
        shutil.rmtree(root)
    return f"{killed} kills at {total} instants of a run"


def random_kills(runs: int, seed: int) -> list[list[tuple[int, signal.Signals]]]:
    """For each run one to three instants, some of them of SIGTERM or SIGINT."""
    draw = random.Random(seed)
    kinds = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    return [[(draw.randrange(1, 10_000), draw.choice(kinds)) for _ in range(draw.randint(1, 3))] for _ in range(runs)]


def main(folder: str, kills: str, *flags: str) -> None:
    """Tries `kills` runs with random kills; 0 kills a run once at each of its instants."""
    torch.set_num_threads(1)  # a process that has started threads cannot be forked
    Path(folder).mkdir(parents=True, exist_ok=True)
    with open(os.devnull, "w") as silent, mock.patch("sys.stdout", silent), mock.patch("sys.stderr", silent):
        import_module("train").train([*flags, "--ckpt_dir", f"{folder}/warm", "--workers", "0"])
    print("ok:", trial(Path(folder), list(flags), random_kills(int(kills), seed=0) if int(kills) else []))


if __name__ == "__main__":
    main(*sys.argv[1:])
