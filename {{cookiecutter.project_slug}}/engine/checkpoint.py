"""Checkpoint files: written so that a crash never leaves a broken one, checked when read, old ones removed."""

import hashlib
import json
import math
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import torch

from . import UserError
from .distributed import world_size
from .files import replacing, sync_folder

SEAL = b"sha256:"


def new_run_dir(root: str | Path) -> Path:
    """Makes `root`/<YYYY-mm-dd_HH-MM-SS>, the directory of one run; a second run in the same second gets "_2".

    Raises:
        UserError: it cannot be made there.
    """
    stem = Path(root) / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in range(1, 1000):
        path = stem if number == 1 else stem.with_name(f"{stem.name}_{number}")
        try:
            path.mkdir(parents=True)
            sync_folder(path.parent)
            return path
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"cannot make the run's directory {path}: {error.strerror}; set ckpt_dir") from error
    raise UserError(f"{stem} and 999 more exist already; set ckpt_dir")


def save(state: Mapping[str, Any], path: str | Path) -> None:
    """Writes `state` to `path`: whole or not at all, and on the disk when this returns.

    Raises:
        UserError: the disk is full or cannot be written; what was at `path` is still there.
    """
    with replacing(path) as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:
            # torch reports a full disk as an assertion of its own that failed.
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
        seal(file)


def load(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU, without executing code from it.

    Raises:
        UserError: no such file, or a file that is damaged or is no checkpoint.
    """
    if not Path(path).is_file():
        raise UserError(f"checkpoint {path} does not exist")
    if not is_intact(path):
        raise UserError(f"checkpoint {path} is damaged or is no checkpoint; use an older one")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=world_size() > 1)
    except pickle.UnpicklingError as error:
        raise UserError(f"checkpoint {path} was not loaded: reading it would run code that it contains") from error
    except RuntimeError as error:
        raise UserError(f"{path} is a zip file, but no checkpoint") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} holds no state but a {type(state).__name__}")
    return state


def seal(file: BinaryIO) -> None:
    """Ends a zip archive, which torch writes, with a comment that holds the digest of all bytes before it."""
    file.seek(-2, os.SEEK_END)
    file.write(struct.pack("<H", len(SEAL) + 64))  # the length of the comment, which was 0
    length = file.tell()
    file.write(SEAL + digest(file, length))


def digest(file: BinaryIO, length: int) -> bytes:
    """SHA-256 of the first `length` bytes, as 64 hexadecimal digits; the file then stands there."""
    file.seek(0)
    sha = hashlib.sha256()
    while block := file.read(min(2**20, length - file.tell())):
        sha.update(block)
    return sha.hexdigest().encode()


def is_intact(path: str | Path) -> bool:
    """Whether each bit of the file is as it was written. A file of torch.save alone has checksums of its contents."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            if not archive.comment:
                return archive.testzip() is None
            length = file.seek(-len(archive.comment), os.SEEK_END)
            return archive.comment == SEAL + digest(file, length)
    except Exception:  # a flipped bit in a length or an offset can raise about anything
        return False


def state_path(run_dir: str | Path, epoch: int, step: int) -> Path:
    """The file of the state after an epoch or, where `step` is not 0, after that update inside it."""
    return Path(run_dir) / (f"epoch{epoch}_step{step}.pth" if step else f"epoch{epoch}.pth")


def position(path: Path) -> tuple[int, float]:
    """How far the state of that name is: (epoch, update); (0, 0) where it is no state's name."""
    match = re.fullmatch(r"epoch(\d+)(?:_step(\d+))?\.pth", path.name)
    return (int(match[1]), float(match[2] or math.inf)) if match else (0, 0)


def states_in(run_dir: str | Path) -> list[Path]:
    """The states of one run, the furthest first: epoch<N>.pth, and epoch<N>_step<S>.pth of stops inside an epoch."""
    named = [path for path in Path(run_dir).glob("epoch*.pth") if any(position(path))]
    return sorted(named, key=position, reverse=True)


def prune(newest: Path, keep_last: int) -> None:
    """Removes states before `newest`, which is on the disk; 0 keeps all.

    The newest `keep_last` states of whole epochs stay, and as many inside the epoch in progress. Later ones, which are
    damaged where a run has gone on from an earlier one, neither count nor go.
    """
    states = [path for path in states_in(newest.parent) if position(path) <= position(newest)]
    whole = [path for path in states if position(path)[1] == math.inf]
    inside = [path for path in states if path not in whole and (not whole or position(path) > position(whole[0]))]
    for path in set(states) - {*whole[:keep_last], *inside[:keep_last]} if keep_last else ():
        with suppress(OSError):
            path.unlink(missing_ok=True)


def run_of_job(root: str | Path) -> Path | None:
    """The run that the same job began in `root`, before torchrun started its processes again; None if it began none."""
    job = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    for settings in sorted(Path(root).glob("*/config.json"), key=last_change, reverse=True) if job != "none" else ():
        with suppress(OSError, ValueError):
            if json.loads(settings.read_text("utf-8")).get("job") == job and states_in(settings.parent):
                return settings.parent
    return None


def find_state(resume: str, root: str | Path) -> Path | None:
    """The state that `--resume` names: "" for none, a file, a run's directory, or "auto" for the newest valid one.

    "auto" without any state gives None, so that a job can be started and restarted by the same command. Where torchrun
    restarts processes it is the newest state of their run, from which the first ones may have started.

    Raises:
        UserError: a path with no valid state, or a state with later ones beside it, which the run would mix up.
    """
    if (not resume or Path(resume).is_file()) and (run := run_of_job(root)):
        resume = str(run)
    if not resume:
        return None
    if Path(resume).is_file():
        here = position(Path(resume))
        later = [path.name for path in states_in(Path(resume).parent) if position(path) > here]
        if later and any(here):  # a file of another name stands nowhere in the run
            raise UserError(f"--resume {resume}: {', '.join(later)} beside it are later; move these and best.pth away")
        return Path(resume)
    runs = list(Path(root).glob("*")) if resume == "auto" else [Path(resume)]
    newest_first = sorted(filter(states_in, runs), key=lambda run: max(map(last_change, states_in(run))), reverse=True)
    for path in (path for run in newest_first for path in states_in(run)):
        if is_intact(path):
            return path
        print(f"{path} is damaged; trying the one before it")
    if resume == "auto":
        print(f"no state in {root} yet: a new run begins")
        return None
    raise UserError(f"--resume {resume}: no epoch<N>.pth there; give such a file, a run's directory, or auto")


def last_change(path: Path) -> float:
    """When the file was written, in seconds."""
    return path.stat().st_mtime
