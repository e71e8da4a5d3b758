"""The learning rate of every update of a run that is still to come, as a picture or drawn with characters."""

import math
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.optim import SGD

from .distributed import is_main
from .figures import keep, new_figure, rendered
from .records import by_part
from .schedulers import Schedule, Timeline, build_schedule

POINTS = 1000  # of a curve, about; its corners, at the ends of the epochs and of the warm-up, are among them

Curve = list[tuple[float, float]]  # epochs and learning rates


def lr_curve(lr_scheduler_type: str, timeline: Timeline, base_lrs: list[float], improving: bool) -> list[Curve]:
    """The curve of each base rate, by the schedule's own formula.

    Args:
        lr_scheduler_type: a key of SCHEDULES.
        timeline: the run's length and settings.
        base_lrs: of the parameter groups.
        improving: whether every evaluation is better than the one before, or none is. Where a schedule follows the
            evaluations, rates of no run are above the one curve or below the other.
    """
    optimizer = SGD([{"params": [torch.zeros(1)], "lr": float(b)} for b in base_lrs])
    schedule = build_schedule(lr_scheduler_type, optimizer, timeline)
    every = max(1, timeline.epochs // POINTS)  # of more epochs there is a point for some
    curves: list[Curve] = [[] for _ in base_lrs]
    for epoch in range(0, timeline.epochs, 1 if follows(schedule) else every):
        for update in updates_of(epoch, schedule) if epoch % every == 0 else ():
            schedule.step(update)
            for curve, lr in zip(curves, schedule.get_lr(), strict=True):
                curve.append((update / timeline.updates_per_epoch, float(lr)))
        schedule.step((epoch + 1) * timeline.updates_per_epoch)
        higher = getattr(schedule, "mode_of_watched", timeline.key_mode) == "max"
        score = (-1 / (epoch + 1) if higher else -(epoch + 1.0)) if improving else math.nan
        schedule.after_evaluation(defaultdict(partial(float, score)))
    return curves


def follows(schedule: Schedule) -> bool:
    """Whether the schedule takes note of evaluations."""
    return type(schedule).after_evaluation is not Schedule.after_evaluation


def updates_of(epoch: int, schedule: Schedule) -> Iterator[int]:
    """Updates of an epoch, some tens of them, with the first and last and those at which the warm-up ends."""
    timeline = schedule.timeline
    first, per_epoch = epoch * timeline.updates_per_epoch, timeline.updates_per_epoch
    apart = max(1, per_epoch * timeline.epochs // POINTS)
    corners = {first + per_epoch - 1, schedule.total - 1, schedule.total}
    yield from sorted({*range(first, first + per_epoch, apart), *corners} & {*range(first, first + per_epoch)})


def curves_by_name(trainer: Any) -> dict[str, tuple[Curve, Curve]]:
    """The highest and the lowest curve of each part, named as the rates that a run records."""
    parts = []
    for schedule in trainer.lr_scheduler_list:
        run = trainer.lr_scheduler_type, schedule.timeline, schedule.base_lrs
        high = lr_curve(*run, True)
        parts.append(list(zip(high, lr_curve(*run, False) if follows(schedule) else high, strict=True)))
    return by_part(parts)


def title(trainer: Any) -> str:
    """Which schedule it is."""
    warm_up = "" if trainer.warm_up_mode == "none" else f", {trainer.warm_up_mode} warm-up"
    return f"{trainer.lr_scheduler_type}{warm_up}, {trainer.epochs} epochs of {trainer.updates_per_epoch():,} updates"


def draw_lr(trainer: Any) -> Any:
    """A picture of the curves, as `rendered` gives it; of all between the highest and the lowest, where it depends."""
    figure, axes = new_figure()
    axis = axes[0, 0]
    for number, (name, (high, low)) in enumerate(curves_by_name(trainer).items()):
        epochs, rates = zip(*high, strict=True)
        axis.plot(epochs, rates, color=f"C{number}", label=name, linewidth=max(1, 3 - number))
        if low != high:
            axis.plot(epochs, [lr for _, lr in low], "--", color=f"C{number}", label=f"{name} if nothing improves")
            axis.fill_between(epochs, rates, [lr for _, lr in low], color=f"C{number}", alpha=0.15)
    axis.set(title=title(trainer), xlabel="epochs", ylabel="learning rate", ylim=(0, None))
    axis.legend()
    return rendered(figure)


def save_lr(trainer: Any) -> None:
    """The same into the run's folder, as lr.png, where pictures are wanted."""
    if trainer.pictures != "none" and is_main():
        keep(draw_lr(trainer), Path(trainer.ckpt_dir) / "lr.png")


def print_lr(trainer: Any, width: int = 68, height: int = 16) -> None:
    """The same with characters: each part by its number, and dots for its rates if nothing improves."""
    curves = curves_by_name(trainer)
    top = max(lr for pair in curves.values() for curve in pair for _, lr in curve)
    cells = [[" "] * width for _ in range(height)]
    marked = [(low, ".") for _, low in curves.values()]
    marked += [(high, name.removeprefix("lr/part")[0]) for name, (high, _) in curves.items()]
    for curve, mark in marked:
        for epoch, lr in curve:
            cells[round((1 - lr / top) * (height - 1))][int(epoch / trainer.epochs * width)] = mark
    print(title(trainer).center(79).rstrip())
    for row, line in enumerate(cells):
        tick = f"{top * (1 - row / (height - 1)):.3g}" if row % 5 == 0 else ""
        print(f"{tick:>9} |{''.join(line).rstrip()}")
    print(f"{'+':>11}{'-' * width}\n{'epoch':>9}  0{trainer.epochs:>{width - 1}}")
