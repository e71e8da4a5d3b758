"""The learning rate of every update of a run, before it is trained: as a figure, or drawn with characters."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.optim import SGD

from ..optim.optimizers import lr_per_part, name_by_part
from ..runtime.errors import UserError
from ..schedulers import EPOCHS, Schedule, ScheduleConfig, Timeline, build_schedule
from .figures import new_figure, render, write_png

POINTS = 1000  # of a curve, about; the first and last updates of epochs and of the warm-up are among them
UPDATES_SHOWN = 100  # per epoch, if their number is not known

Curve = list[tuple[float, float]]  # epochs and learning rates


def lr_curve(timeline: Timeline, base_lrs: Sequence[float], improving: bool) -> list[Curve]:
    """The curve of each base learning rate, by the schedule's own formula.

    Args:
        timeline: the settings and the length of the run.
        base_lrs: one for each curve.
        improving: whether every evaluation is better than the one before, or none is: the upper and the lower bound
            for reduce on plateau.
    """
    optimizer = SGD([{"params": [torch.zeros(1)], "lr": float(b)} for b in base_lrs])
    schedule = build_schedule(optimizer, timeline)
    every = max(1, timeline.epochs // POINTS)  # of more epochs only some have points
    curves: list[Curve] = [[] for _ in base_lrs]
    for epoch in range(0, timeline.epochs, 1 if follows_evaluations(schedule) else every):
        updates = points_of(epoch, schedule) if epoch % every == 0 else []
        for update in updates:
            schedule.step(update)
            for curve, lr in zip(curves, schedule.get_lr(), strict=True):
                curve.append((update / timeline.updates_per_epoch, float(lr)))
        schedule.step((epoch + 1) * timeline.updates_per_epoch)
        # Scores that improve in every epoch, or NaN, which is no improvement.
        higher_is_better = getattr(schedule, "monitored_mode", timeline.key_mode) == "max"
        score = (-1 / (epoch + 1) if higher_is_better else -(epoch + 1.0)) if improving else math.nan
        schedule.after_evaluation(defaultdict(partial(float, score)))
    return curves


def follows_evaluations(schedule: Schedule) -> bool:
    """Whether the schedule depends on the scores of evaluations."""
    return type(schedule).after_evaluation is not Schedule.after_evaluation


def points_of(epoch: int, schedule: Schedule) -> list[int]:
    """About POINTS / epochs of the updates of an epoch, with its first and last and those that end the warm-up."""
    timeline = schedule.timeline
    first, per_epoch = epoch * timeline.updates_per_epoch, timeline.updates_per_epoch
    apart = max(1, per_epoch * timeline.epochs // POINTS)
    corners = {first + per_epoch - 1, schedule.total - 1, schedule.total}
    return sorted({*range(first, first + per_epoch, apart), *corners} & {*range(first, first + per_epoch)})


def lr_curves(timeline: Timeline, parts: Sequence[Sequence[float]]) -> dict[str, tuple[Curve, Curve]]:
    """The highest and the lowest curve of each part, named as the learning rates that a run records.

    Args:
        timeline: the settings and the length of the run.
        parts: of each part the base learning rates of its parameter groups.
    """
    pairs = []
    for base_lrs in parts:
        high, low = (lr_curve(timeline, base_lrs, improving) for improving in (True, False))
        pairs.append(list(zip(high, low, strict=True)))
    return name_by_part(pairs)


class CurveConfig(ScheduleConfig, Protocol):
    """The settings that `show` reads."""

    @property
    def lr(self) -> tuple[float, ...]: ...
    @property
    def num_parts(self) -> int: ...
    @property
    def epochs(self) -> int | None: ...
    @property
    def resume(self) -> str: ...


def show(config: CurveConfig) -> None:
    """Prints the learning rates of a run that is still to come, and draws them into lr.png in the working directory.

    Raises:
        UserError: a run that has begun, whose curve is in its folder, or a file that cannot be written.
    """
    if config.resume:
        raise UserError("--resume: the curve of a run that has begun is lr.png in its folder; leave it out")
    parts = [[lr] for lr in lr_per_part(config.lr, config.num_parts)]
    timeline = Timeline(config, config.epochs or EPOCHS, UPDATES_SHOWN, "loss", "min")
    print_lr(timeline, parts)
    write_png(draw_lr(timeline, parts), Path("lr.png"))
    print(f"the same is in lr.png; drawn for {UPDATES_SHOWN} updates per epoch, since the data was not read")


def title(timeline: Timeline) -> str:
    """Which schedule it is, with which warm-up, and how long."""
    config = timeline.config
    warm_up = "" if config.warm_up_mode == "none" else f", {config.warm_up_mode} warm-up"
    length = f"{timeline.epochs} epochs of {timeline.updates_per_epoch:,} updates"
    return f"{config.lr_scheduler_type}{warm_up}, {length}"


def draw_lr(timeline: Timeline, parts: Sequence[Sequence[float]]) -> Any:
    """A picture of the curves as `render` gives it, with all that is possible if evaluations decide."""
    figure, axes = new_figure()
    axis = axes[0, 0]
    for number, (name, (high, low)) in enumerate(lr_curves(timeline, parts).items()):
        epochs, lrs = zip(*high, strict=True)
        axis.plot(epochs, lrs, color=f"C{number}", label=name, linewidth=max(1, 3 - number))
        if low != high:
            axis.plot(epochs, [lr for _, lr in low], "--", color=f"C{number}", label=f"{name} if nothing improves")
            axis.fill_between(epochs, lrs, [lr for _, lr in low], color=f"C{number}", alpha=0.15)
    axis.set(title=title(timeline), xlabel="epochs", ylabel="learning rate", ylim=(0, None))
    axis.legend()
    return render(figure)


def print_lr(timeline: Timeline, parts: Sequence[Sequence[float]], width: int = 68, height: int = 16) -> None:
    """The same with characters: each part as its number, and dots for its learning rates if nothing improves."""
    curves: Mapping[str, tuple[Curve, Curve]] = lr_curves(timeline, parts)
    top = max(lr for pair in curves.values() for curve in pair for _, lr in curve)
    cells = [[" "] * width for _ in range(height)]
    marked = [(low, ".") for _, low in curves.values()]
    marked += [(high, name.removeprefix("lr/part")[0]) for name, (high, _) in curves.items()]
    for curve, mark in marked:
        for epoch, lr in curve:
            cells[round((1 - lr / top) * (height - 1))][int(epoch / timeline.epochs * width)] = mark
    print(title(timeline).center(79).rstrip())
    for row, line in enumerate(cells):
        tick = f"{top * (1 - row / (height - 1)):.3g}" if row % 5 == 0 else ""
        print(f"{tick:>9} |{''.join(line).rstrip()}")
    print(f"{'+':>11}{'-' * width}\n{'epoch':>9}  0{timeline.epochs:>{width - 1}}")
