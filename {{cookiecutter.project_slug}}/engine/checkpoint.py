"""Checkpoint files: written so that a crash never leaves a broken one, checked when read, old ones removed."""

import math
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import UserError


def new_run_dir(root: str | Path) -> Path:
    """Makes `root`/<YYYY-mm-dd_HH-MM-SS>, the directory of one run; a second run in the same second gets "_2"."""
    stem = Path(root) / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in range(1, 1000):
        path = stem if number == 1 else stem.with_name(f"{stem.name}_{number}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"cannot make the run's directory {path}: {error.strerror}; set ckpt_dir") from error
    raise UserError(f"{stem} and 999 more exist already; set ckpt_dir")


def save(state: Mapping[str, Any], path: str | Path) -> None:
    """Writes `state` to `path`: whole or not at all, and on the disk when this returns.

    Raises:
        OSError: the disk is full or cannot be written; what was at `path` is still there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # a rename is durable once its directory is; Windows cannot open one
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


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
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"checkpoint {path} was not loaded: reading it would run code that it contains") from error
    except RuntimeError as error:
        raise UserError(f"{path} is a zip file, but no checkpoint") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} holds no state but a {type(state).__name__}")
    return state


def num_parts(state: Mapping[str, Any]) -> int:
    """The number of parts of the network in a state; a UserError where there is none."""
    parts = sum(name.removeprefix("model").isdigit() for name in state)
    if not parts or "meta" not in state:
        raise UserError("the checkpoint holds no model0 or no meta: it was not written by save_state")
    return parts


def check_fits(state: Mapping[str, Any], model_list: list[nn.Module], path: str | Path) -> None:
    """Raises a UserError that names the first difference where the state is of another network than the models."""
    parts = num_parts(state)
    if parts != len(model_list):
        raise UserError(f"{path} holds {parts} parts and the network has {len(model_list)}; set num_parts to {parts}")
    for number, model in enumerate(model_list):
        there = {name: tuple(value.shape) for name, value in state[f"model{number}"].items()}
        here = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        for name in sorted(there.keys() | here.keys()):
            if there.get(name) != here.get(name):
                raise UserError(
                    f"{path} is of another network: {name!r} of part {number} has shape "
                    f"{there.get(name, 'none')} there and {here.get(name, 'none')} here"
                )


def alike(one: Any, other: Any) -> bool:
    """Whether two plain values are the same but for rounding."""
    match one, other:
        case dict(), dict():
            return one.keys() == other.keys() and all(alike(value, other[name]) for name, value in one.items())
        case list(), list():
            return len(one) == len(other) and all(map(alike, one, other))
        case float(), float():
            return math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-6)
    return bool(one == other)


def check_continues(state: Mapping[str, Any], trainer: Any, path: str | Path) -> None:
    """Raises a UserError where the trainer cannot continue from the state: other optimizers, data or epochs."""
    if "scaler" not in state:
        raise UserError(f"{path} holds weights only; continue from an epoch<N>.pth, or load it with optim=False")
    saved = sum(name.removeprefix("optimizer").isdigit() for name in state)
    if saved != (optimizers := len(trainer.optimizer_list)):
        raise UserError(f"{path} holds the states of {saved} optimizers and optimizer_list has {optimizers}")
    if state["epoch"] > trainer.epochs:
        raise UserError(f"{path} has {state['epoch']} epochs behind it; epochs is {trainer.epochs}, set it to more")
    for name in sorted(state["meta"].keys() | trainer.meta.keys()):
        if not alike(state["meta"].get(name), trainer.meta.get(name)):
            raise UserError(f"{path} was trained on other data: {name!r} differs; give the same, or start a new run")


def is_intact(path: str | Path) -> bool:
    """Whether the file is whole: torch saves a zip archive that holds a CRC-32 of everything in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError):
        return False


def epoch_of(path: Path) -> int:
    """N of epoch<N>.pth, or 0 where the name is another."""
    match = re.fullmatch(r"epoch(\d+)\.pth", path.name)
    return int(match[1]) if match else 0


def states_in(run_dir: str | Path) -> list[Path]:
    """The epoch<N>.pth of one run, newest first."""
    return sorted(filter(epoch_of, Path(run_dir).glob("epoch*.pth")), key=epoch_of, reverse=True)


def prune(run_dir: str | Path, keep_last: int) -> None:
    """Removes all but the newest `keep_last` epoch<N>.pth; 0 keeps all."""
    for path in states_in(run_dir)[keep_last:] if keep_last else []:
        path.unlink(missing_ok=True)


def find_state(resume: str, root: str | Path) -> Path | None:
    """The state that `--resume` names: "" for none, a file, a run's directory, or "auto" for the newest valid one.

    "auto" without any state gives None, so that a job can be started and restarted by the same command.

    Raises:
        UserError: a path with no valid state, or a state with later ones beside it, which the run would mix up.
    """
    if not resume:
        return None
    if Path(resume).is_file():
        later = [path.name for path in states_in(Path(resume).parent) if epoch_of(path) > epoch_of(Path(resume))]
        if later:
            raise UserError(f"--resume {resume}: {', '.join(later)} beside it are later; move these and best.pth away")
        return Path(resume)
    runs = Path(root).glob("*") if resume == "auto" else [Path(resume)]
    states = [path for run in runs for path in states_in(run)]
    for path in sorted(states, key=lambda path: (path.stat().st_mtime, epoch_of(path)), reverse=True):
        if is_intact(path):
            return path
        print(f"{path} is damaged; trying the one before it")
    if resume == "auto":
        print(f"no state in {root} yet: a new run begins")
        return None
    raise UserError(f"--resume {resume}: no epoch<N>.pth there; give such a file, a run's directory, or auto")
