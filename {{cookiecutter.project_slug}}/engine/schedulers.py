"""Learning-rate schedules with a warm-up: the learning rate of each update is a function of the update's number.

A new schedule is a subclass with one formula and an entry in SCHEDULES; a new warm-up is an entry in WARM_UPS. Name
either in config.py, too; a setting of its own is a field there, and a property in ScheduleConfig. `last_epoch`, torch's
name, is the number of the next update.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .metrics import WORST, improves
from .runtime.errors import UserError

# From the initial learning rate i to the base learning rate b; p, 0 <= p < 1, is the part of the warm-up that is over.
WARM_UPS: dict[str, Callable[[float, float, float], float]] = {
    "linear": lambda i, b, p: i + (b - i) * p,
    "exponential": lambda i, b, p: i * (b / i) ** p,
    "constant": lambda i, b, p: i,
    "none": lambda i, b, p: b,
}


EPOCHS = 20  # of a run whose settings and task do not say how many


class WarmUpLR(LRScheduler):
    """Raises the learning rate from `init_lr` to the optimizer's own over the first `total` updates.

    Call `step()` after each update. At update t < total, with i = init_lr, p = t / total and the base learning rate b,
    it is linear: i + (b - i) p; constant: i (both Goyal et al. 2017, 2.2); exponential: i (b / i)^p. At update `total`
    it is b. From then on it is left alone, so another scheduler can take over when `warming_up` becomes False.

    Args:
        optimizer: every parameter group has its own base learning rate.
        total: length of the warm-up in updates; 0 for none.
        init_lr: learning rate of update 0; 0 or more, above 0 for exponential, and below every base learning rate.
        mode: a key of WARM_UPS.

    Raises:
        UserError: an unknown mode, a negative total, or an init_lr that is not below a base learning rate.
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
            if self.total and not (0 < init_lr < base or init_lr == 0 and mode != "exponential"):
                least = "above 0" if mode == "exponential" else "0 or more"
                raise UserError(
                    f"warm_up_init_lr {init_lr:g} must be {least} and below the base learning rate {base:g}; "
                    f"change it or set warm_up_mode to {'linear' if init_lr == 0 else 'none'}"
                )
        super().__init__(optimizer)
        self.configured_lrs = [float(lr) for lr in self.base_lrs]

    @property
    def warming_up(self) -> bool:
        """Whether the next update still belongs to the warm-up."""
        return self.last_epoch < self.total

    def step(self, epoch: int | None = None) -> None:
        """Moves on to the next update, or to update `epoch`, which is torch's name for the argument."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self.refresh()

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """The learning rate of the next update, one per parameter group."""
        if self.warming_up:
            p = self.last_epoch / self.total
            return [WARM_UPS[self.mode](self.init_lr, float(b), p) for b in self.base_lrs]
        return self.lr_after_warm_up(self.last_epoch - self.total)

    def lr_after_warm_up(self, s: int) -> list[float]:
        """The learning rates of the update that comes `s` updates after the end of the warm-up."""
        if s == 0:
            return [float(b) for b in self.base_lrs]
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def refresh(self) -> None:
        """Writes the next update's learning rates into the optimizer, without taking a step."""
        self._last_lr = list(self.get_lr())
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr

    def change_lr(self, lr: float) -> None:
        """Makes `lr` the base learning rate of the first group and scales those of the others by the same factor.

        The schedule continues from the same place on the new curve.
        """
        first = self.base_lrs[0]
        self._set_base_lrs([lr * float(base / first) for base in self.base_lrs])

    def _set_base_lrs(self, base_lrs: list[float]) -> None:
        self.base_lrs = list(base_lrs)
        for group, lr in zip(self.optimizer.param_groups, base_lrs, strict=True):
            group["initial_lr"] = group["lr"] = lr
        self.refresh()

    # Attributes that are saved. Settings are not: a run that continues with more epochs follows their curve.
    progress: tuple[str, ...] = ("last_epoch",)

    def state_dict(self) -> dict[str, Any]:
        """How far the schedule is, and its base learning rates: as configured, and as `change_lr` has left them."""
        saved = {name: getattr(self, name) for name in self.progress}
        return saved | {"base_lrs": list(self.base_lrs), "configured_lrs": self.configured_lrs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from where `state_dict` was, on the curve of the present settings.

        Base learning rates come from the present settings too; what `change_lr` made of them is kept as long as they
        are the same as then.
        """
        for name in self.progress:
            setattr(self, name, state_dict[name])
        same = state_dict["configured_lrs"] == self.configured_lrs
        self._set_base_lrs(list(state_dict["base_lrs"] if same else self.configured_lrs))


class ScheduleConfig(Protocol):
    """The settings that a schedule reads; config.py explains them."""

    @property
    def lr_scheduler_type(self) -> str: ...
    @property
    def eta_min(self) -> float: ...
    @property
    def step_size(self) -> int: ...
    @property
    def gamma(self) -> float: ...
    @property
    def patience(self) -> int: ...
    @property
    def warm_up_mode(self) -> str: ...
    @property
    def warm_up_epochs(self) -> float | None: ...
    @property
    def warm_up_init_lr(self) -> float: ...


@dataclass(frozen=True)
class Timeline:
    """What a schedule depends on: the settings, and the length and the key metric of the run."""

    config: ScheduleConfig
    epochs: int
    updates_per_epoch: int
    key_metric: str
    key_mode: str  # "max" or "min"

    @property
    def warm_up_epochs(self) -> float:
        """The length of the warm-up: as set, or else 1 epoch, or a quarter of a run of fewer than 4."""
        return min(1.0, self.epochs / 4) if self.config.warm_up_epochs is None else self.config.warm_up_epochs

    @cached_property
    def warm_up_updates(self) -> int:
        """W, the number of updates that the warm-up lasts."""
        return 0 if self.config.warm_up_mode == "none" else round(self.warm_up_epochs * self.updates_per_epoch)

    @cached_property
    def main_updates(self) -> int:
        """T, the number of updates after the warm-up; at least 1."""
        return max(1, self.epochs * self.updates_per_epoch - self.warm_up_updates)

    def note(self) -> str:
        """What was shortened to suit a short run, in a line; empty for nothing."""
        if self.config.warm_up_mode == "none" or self.config.warm_up_epochs is not None or self.warm_up_epochs == 1:
            return ""
        return (
            f"note: a warm-up of {self.warm_up_epochs:g} epochs, since the run has {self.epochs}; see --warm_up_epochs"
        )

    def check(self) -> None:
        """Raises a UserError for a warm-up as long as the run, or a step_size below 1."""
        if self.warm_up_updates >= self.epochs * self.updates_per_epoch:
            raise UserError(
                f"warm_up_epochs {self.warm_up_epochs:g} must be below epochs {self.epochs}: "
                "nothing would be left to train after the warm-up; lower it or set warm_up_mode to none"
            )
        if self.config.step_size < 1:
            raise UserError(f"step_size {self.config.step_size} must be at least 1 epoch")


class Schedule(WarmUpLR):
    """A warm-up, then a formula; this one is constant at the base learning rate."""

    def __init__(self, optimizer: Optimizer, timeline: Timeline) -> None:
        self.timeline = timeline
        config = timeline.config
        super().__init__(optimizer, timeline.warm_up_updates, config.warm_up_init_lr, config.warm_up_mode)

    def set_timeline(self, timeline: Timeline) -> None:
        """Continues from the same update on the curve of a run of another length."""
        self.timeline = timeline
        self.total = timeline.warm_up_updates
        self.refresh()

    def formula(self, b: float, s: int) -> float:
        """The learning rate `s` updates after the warm-up, for the base learning rate `b`."""
        return b

    def lr_after_warm_up(self, s: int) -> list[float]:
        """By `formula`, one learning rate per group."""
        return [self.formula(float(b), s) for b in self.base_lrs]

    def after_evaluation(self, scores: Mapping[str, float]) -> None:
        """Is told the mean losses and scores of an evaluation, by name."""


class CosineAnnealing(Schedule):
    """Cosine annealing from the base learning rate to eta_min (Loshchilov & Hutter 2017, SGDR, eq. 5, no restarts)."""

    def formula(self, b: float, s: int) -> float:
        """eta_min + (b - eta_min) (1 + cos(pi s / T)) / 2, with T updates after the warm-up."""
        low, progress = self.timeline.config.eta_min, min(1.0, s / self.timeline.main_updates)
        return low + (b - low) * (1 + math.cos(math.pi * progress)) / 2


class Step(Schedule):
    """The base learning rate times gamma after every step_size epochs; those of the warm-up do not count."""

    def formula(self, b: float, s: int) -> float:
        """b gamma^floor(e / step_size), with e whole epochs since the warm-up: torch's StepLR."""
        epochs = s // self.timeline.updates_per_epoch
        return b * self.timeline.config.gamma ** (epochs // self.timeline.config.step_size)


class ReduceOnMetricPlateau(Schedule):
    """Reduce on plateau: times gamma whenever the key metric has not improved for more than `patience` evaluations.

    The rule is that of torch's ReduceLROnPlateau with its default relative threshold of 1e-4; a NaN is no improvement.
    """

    progress = (*Schedule.progress, "factor", "best", "bad_evaluations")
    threshold = 1e-4

    def __init__(self, optimizer: Optimizer, timeline: Timeline) -> None:
        self.monitored, self.monitored_mode = self.monitor(timeline)
        self.factor = 1.0
        self.best = WORST[self.monitored_mode]
        self.bad_evaluations = 0
        super().__init__(optimizer, timeline)

    def monitor(self, timeline: Timeline) -> tuple[str, str]:
        """The name of the score that decides, and whether "max" or "min" of it is better."""
        return timeline.key_metric, timeline.key_mode

    def formula(self, b: float, s: int) -> float:
        """b times gamma for every reduction so far."""
        return b * self.factor

    def after_evaluation(self, scores: Mapping[str, float]) -> None:
        """Counts evaluations without improvement and reduces after more than `patience`; not during the warm-up."""
        if self.warming_up:
            return
        if improves(scores[self.monitored], self.best, self.monitored_mode, self.threshold):
            self.best = scores[self.monitored]
            self.bad_evaluations = 0
        else:
            self.bad_evaluations += 1
        if self.bad_evaluations > self.timeline.config.patience:
            self.factor *= self.timeline.config.gamma
            self.bad_evaluations = 0
        self.refresh()


class ReduceOnLossPlateau(ReduceOnMetricPlateau):
    """The same on the evaluation loss."""

    def monitor(self, timeline: Timeline) -> tuple[str, str]:
        """The evaluation loss, and "min"."""
        return "loss", "min"


SCHEDULES: dict[str, Callable[[Optimizer, Timeline], Schedule]] = {
    "annealing": CosineAnnealing,
    "step": Step,
    "metric": ReduceOnMetricPlateau,
    "loss": ReduceOnLossPlateau,
    "none": Schedule,
}


def build_schedule(optimizer: Optimizer, timeline: Timeline) -> Schedule:
    """The schedule that the settings name, for one optimizer.

    Raises:
        UserError: an unknown type, a warm-up as long as the run, or a setting outside its range.
    """
    name = timeline.config.lr_scheduler_type
    if name not in SCHEDULES:
        raise UserError(f"lr_scheduler_type {name!r} is unknown; choose one of {', '.join(SCHEDULES)}")
    timeline.check()
    return SCHEDULES[name](optimizer, timeline)
