"""The learning rate of every update of a run that is still to come, as a picture or drawn with characters."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.optim import SGD

from .distributed import is_main
from .figures import keep, new_figure
from .schedulers import Schedule

POINTS = 1000  # of a curve, about; its corners, at the ends of the epochs and of the warm-up, are among them

Curve = list[tuple[float, float]]  # epochs and learning rates


def lr_curve(schedule: Schedule, improving: bool) -> list[Curve]:
    """The curve of each parameter group, by the schedule's own formula; the schedule stays where it is.

    Args:
        schedule: one as `build_schedule` makes it; what it has seen of evaluations does not count.
        improving: whether every evaluation is better than the one before, or none is. Where a schedule follows the
            evaluations, rates of no run are above the one curve or below the other.
    """
    timeline = schedule.timeline
    groups = [{"params": [torch.zeros(1)], "lr": float(b)} for b in schedule.base_lrs]
    twin = type(schedule)(SGD(groups), timeline)
    curves: list[Curve] = [[] for _ in groups]
    for epoch in range(timeline.epochs):
        for update in updates_of(epoch, schedule):
            twin.step(update)
            for curve, lr in zip(curves, twin.get_lr(), strict=True):
                curve.append((update / timeline.updates_per_epoch, float(lr)))
        twin.step((epoch + 1) * timeline.updates_per_epoch)
        gain = 1.001**epoch if improving else math.nan
        twin.after_evaluation({"loss": 1 / gain, timeline.key_metric: gain if timeline.key_mode == "max" else 1 / gain})
    return curves


def updates_of(epoch: int, schedule: Schedule) -> Iterator[int]:
    """Updates of an epoch, some tens of them, with the first and last and those at which the warm-up ends."""
    timeline = schedule.timeline
    first, per_epoch = epoch * timeline.updates_per_epoch, timeline.updates_per_epoch
    apart = max(1, per_epoch * timeline.epochs // POINTS)
    corners = {first + per_epoch - 1, schedule.total - 1, schedule.total}
    yield from sorted({*range(first, first + per_epoch, apart), *corners} & {*range(first, first + per_epoch)})


def curves_by_name(trainer: Any) -> dict[str, tuple[Curve, Curve]]:
    """The highest and the lowest curve of each part, lr/part0 ...; of further groups of it where theirs are others."""
    curves = {}
    for part, schedule in enumerate(trainer.lr_scheduler_list):
        pairs = list(zip(lr_curve(schedule, True), lr_curve(schedule, False), strict=True))
        curves[f"lr/part{part}"] = pairs[0]
        curves |= {f"lr/part{part}_group{group}": pair for group, pair in enumerate(pairs) if pair != pairs[0]}
    return curves


def title(trainer: Any) -> str:
    """Which schedule it is."""
    warm_up = "" if trainer.warm_up_mode == "none" else f", {trainer.warm_up_mode} warm-up"
    return f"{trainer.lr_scheduler_type}{warm_up}, {trainer.epochs} epochs of {trainer.updates_per_epoch():,} updates"


def draw_lr(trainer: Any, path: Path) -> None:
    """Draws the curves as PNG; between the highest and the lowest where evaluations decide."""
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
    keep(figure, path)


def save_lr(trainer: Any) -> None:
    """The same into the run's folder, as lr.png, where pictures are wanted."""
    if trainer.pictures != "none" and is_main():
        draw_lr(trainer, Path(trainer.ckpt_dir) / "lr.png")


def print_lr(trainer: Any, width: int = 68, height: int = 16) -> None:
    """The same with characters: each part by its number, and dots for its rates if nothing improves."""
    curves = curves_by_name(trainer)
    top = max(lr for high, _ in curves.values() for _, lr in high)
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
