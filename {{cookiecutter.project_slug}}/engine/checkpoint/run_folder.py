"""The folder of a run: its name, its lock, the names of its states, which to resume from, which to remove.

A cross-validation has a folder of its own with those of its runs in it: fold1, fold2 ...
"""

import json
import math
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TextIO

from ..distributed.process_group import on_rank_0
from ..runtime.errors import UserError
from ..runtime.files import lock_file, sync_folder
from .file import is_intact


def run_name() -> str:
    """A name for a run that starts now: <YYYY-mm-dd_HH-MM-SS>."""
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def new_run_folder(root: str | Path) -> Path:
    """Makes `root`/<YYYY-mm-dd_HH-MM-SS>, the folder of one run; a second run in the same second gets "_2".

    Raises:
        UserError: it cannot be made there.
    """
    stem = Path(root) / run_name()
    for number in range(1, 1000):
        path = stem if number == 1 else stem.with_name(f"{stem.name}_{number}")
        try:
            path.mkdir(parents=True)
            sync_folder(path.parent)
            return path
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"cannot make the run's folder {path}: {error.strerror}; set ckpt_dir") from error
    raise UserError(f"{stem} and 998 more exist already; set ckpt_dir")


LOCKS: dict[Path, TextIO | None] = {}  # the runs that these processes train, and on rank 0 the locked files


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Inside, no other process can enter this for the same run; inside itself it does nothing more.

    It locks the file `.lock` in the folder. The system releases that when the process ends, however it ends, and on
    shared disks, too.

    Raises:
        UserError: another process trains this run, with its name.
    """
    path = Path(folder).resolve() / ".lock"
    if path in LOCKS:
        yield
        return
    LOCKS[path] = None
    try:
        on_rank_0(_lock, path)
        yield
    finally:
        if file := LOCKS.pop(path):
            file.close()


def _lock(path: Path) -> None:
    """Takes the lock of that file and writes into it whose it is."""
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); allow writing there") from error
    try:
        lock_file(file)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise UserError(f"{path.parent} is being trained by {owner}; wait for it, or stop it first") from error
    except OSError as error:
        print(f"note: {path} cannot be locked ({error.strerror}): let no second process train this run")
    with suppress(OSError):  # a full disk: the lock counts without a name in it
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}, since {run_name()}\n")
        file.flush()
    LOCKS[path] = file


def state_path(folder: str | Path, epoch: int, update: int) -> Path:
    """The file of the state after an epoch or, if `update` is not 0, after that update inside the epoch."""
    return Path(folder) / (f"epoch{epoch}_step{update}.pth" if update else f"epoch{epoch}.pth")


def position(path: Path) -> tuple[int, float]:
    """How far the state of that name is: (epoch, update); (0, 0) where it is no state's name."""
    match = re.fullmatch(r"epoch(\d+)(?:_step(\d+))?\.pth", path.name)
    return (int(match[1]), float(match[2] or math.inf)) if match else (0, 0)


def states_in(folder: str | Path) -> list[Path]:
    """The states of a run, the latest first: epoch<N>.pth, and epoch<N>_step<S>.pth of saves inside an epoch."""
    named = [path for path in Path(folder).glob("epoch*.pth") if any(position(path))]
    return sorted(named, key=position, reverse=True)


def prune(newest: Path, keep_last: int) -> None:
    """Removes older states than `newest`, which is on the disk; 0 keeps all.

    The last `keep_last` states of whole epochs stay, and as many inside the epoch in training. Later states than
    `newest` are ignored: they are damaged ones, which a resume has skipped.
    """
    if keep_last == 0:
        return
    states = [path for path in states_in(newest.parent) if position(path) <= position(newest)]
    whole = [path for path in states if position(path)[1] == math.inf]
    inside = [path for path in states if path not in whole and (not whole or position(path) > position(whole[0]))]
    for path in set(states) - {*whole[:keep_last], *inside[:keep_last]}:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def fold_folder(folder: str | Path, number: int) -> Path:
    """The folder of a run in that of a cross-validation."""
    return Path(folder) / f"fold{number}"


def runs_in(folder: str | Path) -> list[Path]:
    """The folders of the runs of a cross-validation, in their order; of a run it is its folder alone."""
    folds = [path for path in Path(folder).glob("fold*") if path.name[4:].isdigit()]
    return sorted(folds, key=lambda path: int(path.name[4:])) or [Path(folder)]


def resumed_folder(state: Path, resume: str) -> Path:
    """The folder of what goes on from a state: of its run, or of the cross-validation of which that is a fold.

    `--resume` that names the run of a fold, or a state in it, continues this run alone.
    """
    run, named = state.parent.resolve(), Path(resume).resolve()
    is_fold = state.parent in runs_in(state.parent.parent) and (state.parent.parent / "config.json").is_file()
    return state.parent.parent if is_fold and run not in (named, named.parent) else state.parent


def run_of_job(root: str | Path) -> Path | None:
    """The run in `root` that this torchrun job has started before torchrun restarted its processes; None for none."""
    job = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if job == "none":
        return None
    settings = [run / "config.json" for path in Path(root).glob("*") for run in runs_in(path)]
    for path in sorted(filter(Path.is_file, settings), key=modification_time, reverse=True):
        with suppress(OSError, ValueError):
            if json.loads(path.read_text("utf-8")).get("job") == job and states_in(path.parent):
                return path.parent
    return None


def find_state(resume: str, root: str | Path) -> Path | None:
    """The state that `--resume` names: "" for none, a file, a run's folder, or "auto" for the newest that is intact.

    Of a cross-validation it is the newest of all its runs.

    "auto" without any state gives None, so that one command can start and restart a job. Where torchrun restarts
    processes it is the newest state of their run, which may have started from the file that is named.

    Raises:
        UserError: a path without an intact state, or a state with later ones beside it, which the run would mix up.
    """
    if (not resume or Path(resume).is_file()) and (run := run_of_job(root)):
        resume = str(run)
    if not resume:
        return None
    if Path(resume).is_file():
        here = position(Path(resume))
        later = [path.name for path in states_in(Path(resume).parent) if position(path) > here]
        if later and any(here):  # a file of another name has no position
            raise UserError(f"--resume {resume}: {', '.join(later)} beside it are later; move these and best.pth away")
        return Path(resume)
    folders = list(Path(root).glob("*")) if resume == "auto" else [Path(resume)]
    runs = [run for folder in folders for run in runs_in(folder)]
    newest_first = sorted(
        filter(states_in, runs), key=lambda run: max(map(modification_time, states_in(run))), reverse=True
    )
    damaged = 0
    for path in (path for run in newest_first for path in states_in(run)):
        if is_intact(path):
            others = [run for run in runs if run not in newest_first and resumed_folder(path, "") not in run.parents]
            print_newer_runs(path, others)
            return path
        damaged += 1
        print(f"{path} is damaged; trying the one before it")
    if resume == "auto":
        print(f"no {'intact ' if damaged else ''}state in {root} yet: a new run begins")
        return None
    what = f"all {damaged} states there are damaged" if damaged else "no epoch<N>.pth there"
    raise UserError(f"--resume {resume}: {what}; give such a file, a run's folder, or auto")


def print_newer_runs(path: Path, stateless: list[Path]) -> None:
    """Names the runs without a state that are newer than the state which is resumed from."""
    for log in (run / "log.txt" for run in stateless):
        if log.is_file() and modification_time(log) > modification_time(path):
            print(f"{log.parent} is newer, but has no state: it ended before the first was saved")


def modification_time(path: Path) -> float:
    """When the file was last written, in seconds."""
    return path.stat().st_mtime
