"""Means over samples, and metrics over a whole data set; a DatasetMetric can be any torchmetrics metric."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, SupportsFloat

import torch
from torch import Tensor

from .distributed.process_group import all_gather, sum_over_processes
from .runtime.errors import UserError

Sums = dict[str, tuple[float, int]]  # by name: the sum over samples, and their number


class DatasetMetric(Protocol):
    """A metric over a whole data set: updated batch by batch, computed once, reset. torchmetrics has the same methods.

    With several processes each updates with its own samples. `sums` of the metric then names the attributes, numbers,
    tensors or lists, that are added up over the processes; torchmetrics' own metrics do this by themselves.
    """

    def update(self, pred: Any, y: Any) -> None:
        """Adds a batch: outputs of the network, and targets."""

    def compute(self) -> Tensor:
        """The metric over all that was added, a scalar."""

    def reset(self) -> None:
        """Forgets all that was added."""


class KeptPredictions:
    """Keeps all outputs and targets of a data set, on the CPU; a subclass is one formula on them, `compute`."""

    sums = ("preds", "targets")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all that was taken in."""
        self.preds: list[Tensor] = []
        self.targets: list[Tensor] = []

    def update(self, pred: Tensor, y: Tensor) -> None:
        """Takes in outputs and targets of a batch."""
        self.preds.append(pred.cpu())
        self.targets.append(y.cpu())


def compute(dataset_metrics: Mapping[str, DatasetMetric]) -> dict[str, float]:
    """The metrics, by name, over the samples of all processes; a UserError for one that is no single number."""
    for metric in dataset_metrics.values():
        sum_over_processes(metric)
    values = {name: metric.compute() for name, metric in dataset_metrics.items()}
    for name, value in values.items():
        if not (torch.is_tensor(value) and value.numel() == 1) and not isinstance(value, (int, float)):
            what = f"values of shape {tuple(value.shape)}" if torch.is_tensor(value) else f"a {type(value).__name__}"
            raise UserError(f"dataset_metrics[{name!r}] computes {what}; each metric there must compute one number")
    return {name: float(value) for name, value in values.items()}


def check_scalars(values: Any, source: str) -> None:
    """Raises a UserError, which names the method that returned them, unless these are scalars by name."""
    if not isinstance(values, Mapping):
        raise UserError(f"{source} must return a dict of scalars by name, and returned a {type(values).__name__}")
    for name, value in values.items():
        if torch.is_tensor(value):
            if value.numel() != 1:
                raise UserError(f"{name!r} has shape {tuple(value.shape)}: return its mean over the batch, a scalar")
        elif not isinstance(value, SupportsFloat):
            raise UserError(f"{name!r} of {source} is a {type(value).__name__}; return a number or a scalar tensor")


class BadValue(NamedTuple):
    """A value that is NaN or inf."""

    update: int
    name: str
    value: float


class SampleMeans:
    """Means over samples, by name: the value of each batch counts as many times as the batch has samples.

    With several processes all must call `add` equally often, and the means are over the samples of all.

    Args:
        sums: by name, the sum over samples and their number, to continue from.
        read_after: batches whose values stay on their device before they are read; adding them does not synchronise.
    """

    def __init__(self, sums: Mapping[str, tuple[float, int]] | None = None, read_after: int = 100) -> None:
        self.sums: Sums = dict(sums or {})
        self.read_after = read_after
        self.unread: dict[str, list[tuple[Tensor, int, int]]] = {}
        self.bad: list[BadValue] = []

    def add(self, values: Mapping[str, Any], samples: int, update: int = 0) -> None:
        """Adds the means of one batch, scalars by name, and the number of the update that it belongs to."""
        for name, value in values.items():
            value = value.detach() if torch.is_tensor(value) else torch.as_tensor(value)
            if value.dim():
                value = value.reshape(())
            unread = self.unread.setdefault(name, [])
            unread.append((value, samples, update))
            if len(unread) >= self.read_after:
                self.read()

    def read(self) -> Sums:
        """The sums over all that was added. Values are summed in order, so it does not matter when this is called."""
        rows = {}
        for name, unread in self.unread.items():
            values = torch.stack([value for value, _, _ in unread]).tolist()
            rows[name] = [(value, *of) for value, (_, *of) in zip(values, unread, strict=True)]
        by_process = all_gather(rows) if rows else []
        for name in rows:
            total, count = self.sums.get(name, (0.0, 0))
            for of_batch in zip(*(rows[name] for rows in by_process), strict=True):
                for value, samples, update in of_batch:
                    total, count = total + value * samples, count + samples
                    if not math.isfinite(value):
                        self.bad.append(BadValue(update, name, value))
            self.sums[name] = (total, count)
        self.unread = {}
        return self.sums

    def means(self) -> dict[str, float]:
        """The means over all that was added."""
        return {name: total / count for name, (total, count) in self.read().items()}


class TrainingLosses:
    """The losses of the epoch in training: their means since the last log point, and over the epoch so far.

    Args:
        state: what `state_dict` returned, to continue within an epoch.
    """

    READ_AFTER = 10_000  # batches; log points come earlier, so this only bounds memory

    def __init__(self, state: Mapping[str, Sums] | None = None) -> None:
        self.logged: Sums = dict(state["logged"]) if state else {}  # up to the last log point
        self.since = SampleMeans(state["since"] if state else {}, self.READ_AFTER)

    def state_dict(self) -> dict[str, Sums]:
        """Plain numbers."""
        return {"logged": self.logged, "since": self.since.read()}

    def add(self, losses: Mapping[str, Any], samples: int, update: int) -> None:
        """Adds the mean losses of a batch, and the number of the update that it belongs to."""
        self.since.add(losses, samples, update)

    def bad_values(self) -> list[BadValue]:
        """The values since the last log point that are NaN or inf; waits for the device."""
        self.since.read()
        return self.since.bad

    def log_point(self) -> dict[str, float]:
        """The means since the last log point; this is the next one."""
        means, self.logged = self.since.means(), dict(self._all())
        self.since = SampleMeans(read_after=self.READ_AFTER)
        return means

    def epoch_means(self) -> dict[str, float]:
        """The means over the epoch so far."""
        return {name: total / count for name, (total, count) in self._all()}

    def _all(self) -> Iterator[tuple[str, tuple[float, int]]]:
        since = self.since.read()
        for name in dict.fromkeys((*self.logged, *since)):
            (total, count), (more, samples) = (sums.get(name, (0.0, 0)) for sums in (self.logged, since))
            yield name, (total + more, count + samples)


WORST = {"max": -math.inf, "min": math.inf}  # by mode, the best value before the first one


def improves(value: float, best: float, mode: str, threshold: float = 0.0) -> bool:
    """Whether `value` is better than `best` by more than the relative `threshold`. False for a tie, NaN and inf."""
    if not math.isfinite(value):
        return False
    return value > best * (1 + threshold) if mode == "max" else value < best * (1 - threshold)


# Whether a higher or a lower score is better, by words in its name.
MODES = {
    **dict.fromkeys(("acc", "accuracy", "ap", "auc", "auroc", "dice", "f1", "iou", "map", "miou", "precision"), "max"),
    **dict.fromkeys(("psnr", "r2", "recall", "ssim"), "max"),
    **dict.fromkeys(("ece", "err", "error", "loss", "mae", "mse", "nll", "perplexity", "rmse"), "min"),
}


def mode_by_name(name: str) -> str | None:
    """Whether "max" or "min" of a score is better, as the words of its name say ("acc_top5"); None if they do not."""
    modes = {MODES[word] for word in name.lower().split("_") if word in MODES}
    return modes.pop() if len(modes) == 1 else None


def update_best_values(best: dict[str, float], scores: Mapping[str, float], modes: Mapping[str, str]) -> None:
    """Keeps in `best` the best value of each score by itself; `modes` says whether "max" or "min" of it is better."""
    for name, value in scores.items():
        mode = modes[name]
        if improves(value, best.get(name, WORST[mode]), mode):
            best[name] = value
