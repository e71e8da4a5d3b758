"""What a state holds, and the checks before a run continues from it: same task, network, optimizers and data."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import settings
from ..distributed.fsdp import load_model_state, load_optimizer_state, model_state, optimizer_state
from ..distributed.process_group import all_gather, on_rank_0, rank
from ..metrics import TrainingLosses
from ..optim.ema import NoAverage
from ..runtime.errors import UserError
from ..runtime.seeding import rng_state, set_rng_state
from ..schedulers import Schedule
from . import file

# Attributes of the trainer that are in every state, and those that are only in states from which a run can continue.
ALWAYS = ("epoch", "global_step", "key_metric", "best_metric", "meta")
TO_CONTINUE = ("epoch_step", "train_means", "last_point", "best_epoch", "best_values")


class Resumable(Protocol):
    """The attributes of a trainer that a state holds; Trainer explains each."""

    model_list: list[nn.Module]
    optimizer_list: list[Optimizer]
    lr_scheduler_list: list[Schedule]
    scaler: torch.amp.GradScaler
    weight_average: NoAverage
    training_losses: TrainingLosses
    device: torch.device
    config: Any
    meta: dict[str, Any]
    epochs: int
    epoch: int
    epoch_step: int
    global_step: int
    key_metric: str
    best_metric: dict[str, float]
    best_epoch: int
    best_values: dict[str, float]
    train_means: dict[str, float]
    last_point: tuple[int, dict[str, float]]
    sample_means: list[float]

    @property
    def task_type(self) -> str: ...
    def data_sizes(self) -> dict[str, int]: ...
    def prediction_meta(self) -> dict[str, Any]: ...


def collect(trainer: Resumable, optim: bool) -> dict[str, Any]:
    """The state of a trainer, as plain types and tensors; all ranks call it.

    model0 ... (weights and buffers), task_type, config (settings of the run) and the attributes in ALWAYS; without
    `optim` also what `prediction_meta` says, in meta. With `optim` also optimizer0 ..., lr_scheduler0 ..., scaler,
    training_losses, rng_states (of each process), data (sizes), sample_means, those in TO_CONTINUE and, with EMA, the
    averaged weights: ema0 ...
    """
    state: dict[str, Any] = {f"model{number}": model_state(model) for number, model in enumerate(trainer.model_list)}
    state |= {"task_type": trainer.task_type, "config": settings.of_run(trainer.config)}
    state |= {name: getattr(trainer, name) for name in ALWAYS}
    if not optim:
        return state | {"meta": {**trainer.meta, **trainer.prediction_meta()}}
    state |= {name: getattr(trainer, name) for name in TO_CONTINUE}
    state |= {f"ema{number}": model_state(model) for number, model in enumerate(trainer.weight_average.model_list)}
    for number, (optimizer, schedule) in enumerate(zip(trainer.optimizer_list, trainer.lr_scheduler_list, strict=True)):
        state[f"optimizer{number}"] = optimizer_state(optimizer, trainer.model_list)
        state[f"lr_scheduler{number}"] = schedule.state_dict()
    return state | {
        "scaler": trainer.scaler.state_dict(),
        "training_losses": trainer.training_losses.state_dict(),
        "rng_states": all_gather(rng_state(trainer.device)),
        "data": trainer.data_sizes(),
        "sample_means": trainer.sample_means,
    }


def restore(trainer: Resumable, state: dict[str, Any], path: str | Path, optim: bool) -> None:
    """Loads a state into a trainer; without `optim` the weights alone, which are the averaged ones if there are such.

    Learning rates are those of the present config, at the update from which the run continues.

    Raises:
        UserError: the state in the file `path` is of another task or network, or one from which this run cannot
            continue. Nothing was changed.
    """
    check_task(state, trainer.task_type, path)
    if optim:
        check_same_data(state, trainer, path)
    check_network(state, trainer.model_list, path)
    if optim:
        check_continues(state, trainer, path)
    averaged = [state.get(f"ema{number}", state[f"model{number}"]) for number in range(num_parts(state))]
    for number, model in enumerate(trainer.model_list):
        load_model_state(model, state[f"model{number}"] if optim else averaged[number])
        model.to(trainer.device)
    for number, model in enumerate(trainer.weight_average.model_list):
        load_model_state(model, averaged[number])
    if not optim:
        return
    for number, (optimizer, schedule) in enumerate(zip(trainer.optimizer_list, trainer.lr_scheduler_list, strict=True)):
        load_optimizer_state(optimizer, trainer.model_list, state[f"optimizer{number}"])
        schedule.load_state_dict(state[f"lr_scheduler{number}"])
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.training_losses = TrainingLosses(state["training_losses"])
    of_processes = state["rng_states"]
    set_rng_state(of_processes[rank() % len(of_processes)], trainer.device)
    for name in ALWAYS + TO_CONTINUE:
        setattr(trainer, name, state[name])
    use_later_best(trainer, Path(path).with_name("best.pth"))
    print(f"continuing from {path}: epoch {trainer.epoch}, update {trainer.global_step}")


def use_later_best(trainer: Resumable, path: Path) -> None:
    """Takes the best epoch from best.pth, if it is later than the state.

    A run that was killed may have written best.pth after its last state. It will come to that epoch again; but with
    other settings its scores may differ, and then `best_metric` must still be that of the file.
    """
    epoch, scores = on_rank_0(best_epoch_in, path)
    if epoch is None or not epoch and trainer.best_metric:
        print(f"{path} is {'damaged' if epoch is None else 'gone'}; the next epoch writes it again")
        trainer.best_metric = {}
    elif epoch > trainer.epoch - (trainer.epoch_step > 0):
        trainer.best_epoch, trainer.best_metric = epoch, scores


def best_epoch_in(path: Path) -> tuple[int | None, dict[str, float]]:
    """The epoch of a best.pth and its scores; 0 if there is no such file, None if it is damaged."""
    if not path.is_file():
        return 0, {}
    if not file.is_intact(path):
        return None, {}
    best = file.load(path)
    return best["epoch"], best["best_metric"]


# ---- what a state must agree with ----


def numbered(state: Mapping[str, Any], name: str) -> int:
    """How many entries are called by this name and a number, such as model0 and model1."""
    return sum(key.removeprefix(name).isdigit() for key in state)


def num_parts(state: Mapping[str, Any]) -> int:
    """The number of parts of the network in a state; a UserError if there is none."""
    parts = numbered(state, "model")
    if not parts or "meta" not in state:
        raise UserError("the checkpoint holds no model0 or no meta: it was not written by save_state")
    return parts


def stage_states(state: Mapping[str, Any], path: str | Path) -> list[dict[str, Tensor]]:
    """The weights of each stage of a network in a state, however many of them `merge_stages` has merged.

    Raises:
        UserError: the first part is no chain of stages.
    """
    merged: dict[str, dict[str, Tensor]] = {}
    for key, value in state["model0"].items():
        stage, _, name = key.partition(".")
        merged.setdefault(stage, {})[name] = value
    if not merged or not all(map(str.isdigit, merged)):
        raise UserError(f"{path} is of a network that is not made by merge_stages; load its weights in task.py")
    first = [merged.get(str(stage), {}) for stage in range(max(map(int, merged)) + 1)]
    return first + [state[f"model{number}"] for number in range(1, numbered(state, "model"))]


def check_task(state: Mapping[str, Any], task_type: str, path: str | Path) -> None:
    """Raises a UserError if the state is of another task."""
    if state.get("task_type") != task_type:
        raise UserError(
            f"{path} is of the task {state.get('task_type')!r} and this is {task_type!r}; "
            "give a checkpoint of this project"
        )


def check_network(state: Mapping[str, Any], model_list: Sequence[nn.Module], path: str | Path) -> None:
    """Raises a UserError that names the first difference where the state is of another network."""
    parts = num_parts(state)
    if parts != len(model_list):
        raise UserError(f"{path} holds {parts} parts and the network has {len(model_list)}; set num_parts to {parts}")
    if difference := first_difference(state, model_list):
        raise UserError(f"{path} is of another network: {difference}")


def first_difference(state: Mapping[str, Any], model_list: Sequence[nn.Module]) -> str:
    """The first weight or buffer in which model0, model1 ... of a state differ from these models; empty for none."""
    for number, model in enumerate(model_list):
        saved = {name: tuple(value.shape) for name, value in state[f"model{number}"].items()}
        own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        for name in sorted(saved.keys() | own.keys()):
            if saved.get(name) != own.get(name):
                shapes = f"{saved.get(name, 'none')} there and {own.get(name, 'none')} here"
                return f"{name!r} of part {number} has shape {shapes}"
    return ""


def check_continues(state: Mapping[str, Any], trainer: Resumable, path: str | Path) -> None:
    """Raises a UserError if the trainer cannot continue from the state: other optimizers, data or epochs."""
    if "scaler" not in state:
        raise UserError(f"{path} holds weights only; continue from an epoch<N>.pth (load_state: or with optim=False)")
    saved = numbered(state, "optimizer")
    if saved != (optimizers := len(trainer.optimizer_list)):
        raise UserError(f"{path} holds the states of {saved} optimizers and optimizer_list has {optimizers}")
    if ("ema0" in state) != bool(trainer.weight_average.model_list):
        what, ema = ("averaged weights", "as it was") if "ema0" in state else ("no averaged weights", "to 0")
        raise UserError(f"{path} holds {what}; set ema {ema}, or start a new run")
    needed = {*ALWAYS, *TO_CONTINUE, "training_losses", "rng_states", "data"}
    if missing := sorted(needed - state.keys()):
        raise UserError(f"{path} lacks {', '.join(missing)}: another version of the engine wrote it; start a new run")
    if state["epoch"] > trainer.epochs:
        raise UserError(f"{path} has {state['epoch']} epochs behind it; epochs is {trainer.epochs}, set it to more")


def check_same_data(state: Mapping[str, Any], trainer: Resumable, path: str | Path) -> None:
    """Raises a UserError that names the difference if the state is of a run with other settings or other data."""
    settings.check_same_run(state.get("config", {}), trainer.config, path)
    if "data" not in state:
        return
    there, here = {**state["meta"], **state["data"]}, {**trainer.meta, **trainer.data_sizes()}
    differing = [name for name in here if not alike(there.get(name), here[name])]
    differing += [name for name in there if name not in here]
    known = state.get("sample_means")  # earlier versions have not saved them
    if not differing and not (known and trainer.sample_means and not alike(known, trainer.sample_means)):
        return
    # Sizes and names first: a person knows them, unlike means.
    differing.sort(key=lambda name: (name not in state["data"], not is_names(here.get(name)), name))
    what = difference(differing[0], there, here) if differing else "its samples differ"
    raise UserError(f"{path} was trained on other data: {what}; give the same, or start a new run")


def is_names(value: Any) -> TypeGuard[list[str]]:
    """Whether a value is a list of strings."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def difference(name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """How a number, a list of names or another value differs, in words."""
    before, now = there.get(name), here.get(name)
    if is_names(before) and is_names(now) and set(before) != set(now):
        new, gone = ([repr(n) for n in one if n not in other] for one, other in ((now, before), (before, now)))
        words = [f"{', '.join(names[:5])} {word}" for names, word in ((new, "new"), (gone, "gone")) if names]
        return f"{name}: {' and '.join(words)}"
    if type(before) is int and type(now) is int:
        return f"{before:,} {name}, not {now:,}"
    return f"{name!r} differs"


def check_plain(value: Any, name: str) -> None:
    """Raises a UserError for a value that a checkpoint could not be read back with: one of no plain type."""
    if isinstance(value, (dict, list, tuple)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            check_plain(inner, f"{name}[{key!r}]")
    elif type(value) not in (str, int, float, bool, type(None)):
        raise UserError(
            f"{name} is a {type(value).__name__}, which a checkpoint cannot hold; make it numbers, strings, lists or "
            "dicts, for instance by .tolist() or str()"
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
