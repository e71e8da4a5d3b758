"""What a state holds: the weights, and all else that a run needs to go on as if it had never stopped.

How a state becomes a file is in checkpoint.py.
"""

import math
from pathlib import Path
from typing import Any

from . import UserError, checkpoint
from .distributed import from_main, gather, rank
from .losses import EpochLosses
from .seeding import random_state, set_random_state
from .sharding import divided_model, divided_optimizer, whole

WITH_WEIGHTS = ("task_type", "meta", "epoch", "global_step", "key_metric", "best_metric")
TO_CONTINUE = ("epoch_step", "best_epoch", "best_values", "train_means", "last_point")


def collect(trainer: Any, optim: bool) -> dict[str, Any]:
    """The state of a trainer; without `optim` what inference needs."""
    state: dict[str, Any] = {f"model{i}": whole(model.state_dict()) for i, model in enumerate(trainer.model_list)}
    state |= {name: getattr(trainer, name) for name in WITH_WEIGHTS}
    if not optim:
        return state
    state |= {name: getattr(trainer, name) for name in TO_CONTINUE}
    state |= {f"optimizer{i}": whole(optimizer.state_dict()) for i, optimizer in enumerate(trainer.optimizer_list)}
    state |= {f"lr_scheduler{i}": schedule.state_dict() for i, schedule in enumerate(trainer.lr_scheduler_list)}
    return state | {
        "scaler": trainer.scaler.state_dict(),
        "losses": trainer.losses.state_dict(),
        "random_states": gather(random_state(trainer.device)),
        "data": sizes(trainer),
    }


def restore(trainer: Any, state: dict[str, Any], path: str | Path, optim: bool) -> None:
    """Puts a trainer where the state stood; without `optim` only its weights.

    Raises:
        UserError: the state in the file `path` is of another network, or cannot be continued here. Nothing was changed.
    """
    check_fits(state, trainer, path)
    if optim:
        check_continues(state, trainer, path)
    for number, model in enumerate(trainer.model_list):
        model.load_state_dict(divided_model(state[f"model{number}"], model))
        model.to(trainer.device)
    if not optim:
        return
    for number, optimizer in enumerate(trainer.optimizer_list):
        optimizer.load_state_dict(divided_optimizer(state[f"optimizer{number}"], optimizer))
    for number, schedule in enumerate(trainer.lr_scheduler_list):
        schedule.load_state_dict(state[f"lr_scheduler{number}"])
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.losses = EpochLosses(state["losses"])
    of_processes = state["random_states"]
    set_random_state(of_processes[rank() % len(of_processes)], trainer.device)
    for name in WITH_WEIGHTS + TO_CONTINUE:
        setattr(trainer, name, state[name])
    adopt_best(trainer, Path(path).with_name("best.pth"))
    print(f"going on from {path}: epoch {trainer.epoch}, update {trainer.global_step}")


def adopt_best(trainer: Any, path: Path) -> None:
    """Takes over the best epoch of best.pth where the state has not yet evaluated that epoch.

    The process that was killed had come further than the last state. The same epochs will come again; but should they
    come out otherwise, since settings have changed, then the file must still be what `best_metric` says.
    """
    epoch, scores = from_main(best_in, path)
    if epoch is None:
        print(f"{path} is damaged; the next epoch writes it anew")
        trainer.best_metric = {}
    elif epoch > trainer.epoch - (trainer.epoch_step > 0):
        trainer.best_epoch, trainer.best_metric = epoch, scores


def best_in(path: Path) -> tuple[int | None, dict[str, float]]:
    """The epoch of a best.pth and its scores; 0 where there is no such file, None where it is damaged."""
    if not path.is_file():
        return 0, {}
    if not checkpoint.is_intact(path):
        return None, {}
    best = checkpoint.load(path)
    return best["epoch"], best["best_metric"]


def sizes(trainer: Any) -> dict[str, int]:
    """What the order of samples and the schedule depend on."""
    loaders = {"training": trainer.train_loader, "evaluation": trainer.eval_loader}
    samples = {f"{name} samples": len(getattr(loader, "dataset", loader)) for name, loader in loaders.items()}
    return samples | {"updates per epoch": trainer.updates_per_epoch()}


def check_fits(state: dict[str, Any], trainer: Any, path: str | Path) -> None:
    """Raises a UserError that names the first difference where the state is of another task or network."""
    check_task(state, trainer.task_type, path)
    parts = num_parts(state)
    if parts != len(trainer.model_list):
        raise UserError(
            f"{path} holds {parts} parts and the network has {len(trainer.model_list)}; set num_parts to {parts}"
        )
    for number, model in enumerate(trainer.model_list):
        saved = {name: tuple(value.shape) for name, value in state[f"model{number}"].items()}
        own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        for name in sorted(saved.keys() | own.keys()):
            if saved.get(name) != own.get(name):
                raise UserError(
                    f"{path} is of another network: {name!r} of part {number} has shape "
                    f"{saved.get(name, 'none')} there and {own.get(name, 'none')} here"
                )


def check_task(state: dict[str, Any], task_type: str, path: str | Path) -> None:
    """Raises a UserError where the state is of another task."""
    if state.get("task_type") != task_type:
        raise UserError(
            f"{path} is of the task {state.get('task_type')!r} and this is {task_type!r}; "
            "give a checkpoint of this project"
        )


def num_parts(state: dict[str, Any]) -> int:
    """The number of parts of the network in a state; a UserError where there is none."""
    parts = sum(name.removeprefix("model").isdigit() for name in state)
    if not parts or "meta" not in state:
        raise UserError("the checkpoint holds no model0 or no meta: it was not written by save_state")
    return parts


def check_continues(state: dict[str, Any], trainer: Any, path: str | Path) -> None:
    """Raises a UserError where the trainer cannot continue from the state: other optimizers, data or epochs."""
    if "scaler" not in state:
        raise UserError(f"{path} holds weights only; continue from an epoch<N>.pth, or load it with optim=False")
    saved = sum(name.removeprefix("optimizer").isdigit() for name in state)
    if saved != (optimizers := len(trainer.optimizer_list)):
        raise UserError(f"{path} holds the states of {saved} optimizers and optimizer_list has {optimizers}")
    if missing := sorted({*WITH_WEIGHTS, *TO_CONTINUE, "losses", "random_states", "data"} - state.keys()):
        raise UserError(f"{path} lacks {', '.join(missing)}: it was written by another engine; start a new run")
    if state["epoch"] > trainer.epochs:
        raise UserError(f"{path} has {state['epoch']} epochs behind it; epochs is {trainer.epochs}, set it to more")
    there, here = {**state["meta"], **state["data"]}, {**trainer.meta, **sizes(trainer)}
    for name in sorted(there.keys() | here.keys()):
        if not alike(there.get(name), here.get(name)):
            what = f"{there[name]:,} {name}, not {here[name]:,}" if name in state["data"] else f"{name!r} differs"
            raise UserError(f"{path} was trained on other data: {what}; give the same, or start a new run")


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
