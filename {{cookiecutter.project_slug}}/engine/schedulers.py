"""Learning-rate schedules with their warm-up: the rate of each update is a formula of the update's number.

A new schedule is a subclass with one formula and an entry in SCHEDULES; a new warm-up is an entry in WARM_UPS.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from . import UserError
from .metrics import WORST, improves

# From the rate i at the start to the base rate b, when the part p (0 <= p < 1) of the warm-up is over.
WARM_UPS: dict[str, Callable[[float, float, float], float]] = {
    "linear": lambda i, b, p: i + (b - i) * p,
    "exponential": lambda i, b, p: i * (b / i) ** p,
    "constant": lambda i, b, p: i,
    "none": lambda i, b, p: b,
}


class WarmUpLR(LRScheduler):
    """Raises the rate from `init_lr` to the optimizer's own over the first `total` updates, then leaves it alone.

    Call `step()` after each update. The rate at update t < total, with i = init_lr, p = t / total and base rate b, is
    linear: i + (b - i) p; constant: i (both Goyal et al. 2017, 2.2); exponential: i (b / i)^p. At update `total` it is
    b; then whatever the group holds stays, so another scheduler can take over when `warming_up` turns False.

    Args:
        optimizer: the optimizer whose rates are scheduled; every group has its own base rate.
        total: length of the warm-up in updates; 0 for none.
        init_lr: rate of update 0; positive and below every base rate.
        mode: a key of WARM_UPS.

    Raises:
        UserError: an unknown mode, a negative total, or an init_lr that is not below a base rate.
    """

    def __init__(self, optimizer: Optimizer, total: int, init_lr: float = 1e-6, mode: str = "linear") -> None:
        if mode not in WARM_UPS:
            raise UserError(f"warm_up_mode {mode!r} is unknown; choose one of {', '.join(WARM_UPS)}")
        if total < 0:
            raise UserError(f"the warm-up cannot last {total} updates; give 0 or more")
        self.total = 0 if mode == "none" else total
        self.init_lr = init_lr
        self.mode = mode
        for group in optimizer.param_groups:
            base = float(group.get("initial_lr", group["lr"]))
            if self.total and not 0 < init_lr < base:
                raise UserError(
                    f"warm_up_init_lr {init_lr:g} must be above 0 and below the base learning rate {base:g}; "
                    "lower it or set warm_up_mode to none"
                )
        super().__init__(optimizer)

    @property
    def warming_up(self) -> bool:
        """Whether the next update still belongs to the warm-up."""
        return self.last_epoch < self.total

    def step(self, epoch: int | None = None) -> None:
        """Goes on to the next update, or to update `epoch`: the argument's name is torch's."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self.refresh()

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """The rate of the next update, one per parameter group."""
        if self.warming_up:
            p = self.last_epoch / self.total
            return [WARM_UPS[self.mode](self.init_lr, float(b), p) for b in self.base_lrs]
        return self.lr_after_warm_up(self.last_epoch - self.total)

    def lr_after_warm_up(self, s: int) -> list[float]:
        """The rates of the update that comes `s` updates after the warm-up's end."""
        if s == 0:
            return [float(b) for b in self.base_lrs]
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def refresh(self) -> None:
        """Writes the next update's rates into the optimizer, without taking a step."""
        self._last_lr = list(self.get_lr())
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr

    def rebase(self, lr: float) -> None:
        """Makes `lr` the base rate of every group; the schedule goes on from the same place on the new curve."""
        self.base_lrs = [lr for _ in self.base_lrs]
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"] = lr
        self.refresh()

    # Only progress is saved, not the settings: a run that continues with more epochs gets its curve from them.
    progress: tuple[str, ...] = ("last_epoch", "base_lrs")

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands: the number of updates made and the base rates."""
        return {name: getattr(self, name) for name in self.progress}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from where `state_dict` stood, on the curve of the present settings."""
        for name in self.progress:
            setattr(self, name, state_dict[name])
        self.refresh()


@dataclass(frozen=True)
class Timeline:
    """What a schedule may depend on: the run's length and the settings, named as in config.py."""

    epochs: int
    updates_per_epoch: int
    warm_up_mode: str = "none"
    warm_up_epochs: float = 0.0
    warm_up_init_lr: float = 1e-6
    eta_min: float = 0.0
    step_size: int = 1
    gamma: float = 0.1
    patience: int = 10
    key_metric: str = "loss"
    key_mode: str = "min"

    @cached_property
    def warm_up_updates(self) -> int:
        """W, the number of updates that the warm-up lasts."""
        return 0 if self.warm_up_mode == "none" else round(self.warm_up_epochs * self.updates_per_epoch)

    @cached_property
    def main_updates(self) -> int:
        """T, the number of updates after the warm-up; at least 1."""
        return max(1, self.epochs * self.updates_per_epoch - self.warm_up_updates)


class Schedule(WarmUpLR):
    """A warm-up, then a formula. On its own: the base rate for ever."""

    def __init__(self, optimizer: Optimizer, timeline: Timeline) -> None:
        self.timeline = timeline
        super().__init__(optimizer, timeline.warm_up_updates, timeline.warm_up_init_lr, timeline.warm_up_mode)

    def formula(self, b: float, s: int) -> float:
        """The rate of the update that comes `s` updates after the warm-up, for the base rate `b`."""
        return b

    def lr_after_warm_up(self, s: int) -> list[float]:
        """By `formula`, one rate per group."""
        return [self.formula(float(b), s) for b in self.base_lrs]

    def after_evaluation(self, scores: Mapping[str, float]) -> None:
        """Takes note of an evaluation: mean losses and scores by name."""


class Annealing(Schedule):
    """Half a cosine from the base rate to eta_min (Loshchilov & Hutter 2017, SGDR, eq. 5, without restarts)."""

    def formula(self, b: float, s: int) -> float:
        """eta_min + (b - eta_min) (1 + cos(pi s / T)) / 2, with T updates after the warm-up."""
        low, progress = self.timeline.eta_min, min(1.0, s / self.timeline.main_updates)
        return low + (b - low) * (1 + math.cos(math.pi * progress)) / 2


class Step(Schedule):
    """The base rate times gamma after every step_size epochs; the warm-up's epochs do not count."""

    def formula(self, b: float, s: int) -> float:
        """b gamma^floor(e / step_size), after e whole epochs since the warm-up: torch's StepLR."""
        epochs = s // self.timeline.updates_per_epoch
        return b * self.timeline.gamma ** (epochs // self.timeline.step_size)


class KeyMetricPlateau(Schedule):
    """The base rate times gamma whenever the key metric has not improved for more than `patience` evaluations.

    The rule is torch's ReduceLROnPlateau with its default relative threshold of 1e-4; a NaN never improves.
    """

    progress = (*Schedule.progress, "factor", "best", "bad_evaluations")
    threshold = 1e-4

    def __init__(self, optimizer: Optimizer, timeline: Timeline) -> None:
        self.watched, self.mode_of_watched = self.watch(timeline)
        self.factor = 1.0
        self.best = WORST[self.mode_of_watched]
        self.bad_evaluations = 0
        super().__init__(optimizer, timeline)

    def watch(self, timeline: Timeline) -> tuple[str, str]:
        """The name of the score that is watched, and whether "max" or "min" is better."""
        return timeline.key_metric, timeline.key_mode

    def formula(self, b: float, s: int) -> float:
        """b times all decays so far."""
        return b * self.factor

    def after_evaluation(self, scores: Mapping[str, float]) -> None:
        """Counts evaluations without progress, and decays after more than `patience`; none in the warm-up."""
        if self.warming_up:
            return
        if improves(scores[self.watched], self.best, self.mode_of_watched, self.threshold):
            self.best = scores[self.watched]
            self.bad_evaluations = 0
        else:
            self.bad_evaluations += 1
        if self.bad_evaluations > self.timeline.patience:
            self.factor *= self.timeline.gamma
            self.bad_evaluations = 0
        self.refresh()


class LossPlateau(KeyMetricPlateau):
    """The same on the evaluation loss, where less is better."""

    def watch(self, timeline: Timeline) -> tuple[str, str]:
        """The evaluation loss, and "min"."""
        return "loss", "min"


SCHEDULES: dict[str, type[Schedule]] = {
    "annealing": Annealing,
    "step": Step,
    "metric": KeyMetricPlateau,
    "loss": LossPlateau,
    "none": Schedule,
}


def build_schedule(lr_scheduler_type: str, optimizer: Optimizer, timeline: Timeline) -> Schedule:
    """The schedule of that type for one optimizer.

    Raises:
        UserError: an unknown type, a warm-up as long as the run, or a setting outside its range.
    """
    if lr_scheduler_type not in SCHEDULES:
        raise UserError(f"lr_scheduler_type {lr_scheduler_type!r} is unknown; choose one of {', '.join(SCHEDULES)}")
    if timeline.warm_up_updates >= timeline.epochs * timeline.updates_per_epoch:
        raise UserError(
            f"warm_up_epochs {timeline.warm_up_epochs:g} must be below epochs {timeline.epochs}: "
            "nothing would be left to train after the warm-up; lower it or set warm_up_mode to none"
        )
    if timeline.step_size < 1:
        raise UserError(f"step_size {timeline.step_size} must be at least 1 epoch")
    return SCHEDULES[lr_scheduler_type](optimizer, timeline)


def build_schedules(trainer: Any) -> list[Schedule]:
    """A schedule for each optimizer of a trainer, by its settings; those that it has hand on where they stand."""
    names = Timeline.__dataclass_fields__.keys() - {"updates_per_epoch"}
    timeline = Timeline(
        updates_per_epoch=trainer.updates_per_epoch(), **{name: getattr(trainer, name) for name in names}
    )
    progress = [schedule.state_dict() for schedule in trainer.lr_scheduler_list]
    schedules = [build_schedule(trainer.lr_scheduler_type, o, timeline) for o in trainer.optimizer_list]
    for schedule, state in zip(schedules, progress, strict=False):
        schedule.load_state_dict(state)
    return schedules
