"""Means over samples, and scores that need the whole set. A torchmetrics metric fits wherever a SetMetric does."""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from . import UserError
from .distributed import gather, merge

Sums = dict[str, tuple[float, int]]  # by name: the sum over samples, and their number


class SetMetric(Protocol):
    """A score over a whole set: fed batch by batch, read once, emptied. torchmetrics has the same three methods.

    Where several processes train together, each feeds its own samples. Then `sums` of the score names the attributes,
    numbers, tensors or lists, that add up to those of all samples; torchmetrics' own scores do this by themselves.
    """

    def update(self, pred: Any, y: Any) -> None:
        """Takes in a batch: what the network returned, and the truth."""

    def compute(self) -> Tensor:
        """The score of all that was taken in, a scalar."""

    def reset(self) -> None:
        """Forgets all that was taken in."""


def compute(set_metrics: Mapping[str, SetMetric]) -> dict[str, float]:
    """The scores, by name, over the samples of all processes."""
    for score in set_metrics.values():
        merge(score)
    return {name: float(score.compute()) for name, score in set_metrics.items()}


@contextmanager
def uncounted(trainer: Any, really: bool) -> Iterator[None]:
    """Inside, if `really`, the trainer's scores of the whole set are copies: what they take in does not count."""
    counted = trainer.set_metrics
    trainer.set_metrics = copy.deepcopy(counted) if really else counted
    try:
        yield
    finally:
        trainer.set_metrics = counted


class SampleMeans:
    """Means over samples, by name: each batch's value counts as many times as the batch has samples.

    Where several processes train together, each adds as often as the others, and reads the sums over all.

    Args:
        sums: of each name the sum over samples and their number, to go on from.
        read_after: batches whose values stay on their device before they are read; adding them waits for nothing.
    """

    def __init__(self, sums: Sums | None = None, read_after: int = 100) -> None:
        self.sums: Sums = dict(sums or {})
        self.read_after = read_after
        self.unread: dict[str, list[tuple[Tensor, int, int]]] = {}
        self.bad: list[tuple[int, str, float]] = []  # values that are inf or NaN: update, name, value

    def add(self, values: Mapping[str, Any], samples: int, update: int = 0) -> None:
        """Takes in the means of one batch, scalars by name, and the number of the update that it belongs to.

        Raises:
            UserError: a value of more than one number.
        """
        for name, value in values.items():
            value = value.detach() if torch.is_tensor(value) else torch.as_tensor(value)
            if value.dim():
                if value.numel() != 1:
                    shape = tuple(value.shape)
                    raise UserError(f"{name!r} has shape {shape}: return its mean over the batch, a scalar")
                value = value.reshape(())
            unread = self.unread.setdefault(name, [])
            unread.append((value, samples, update))
            if len(unread) >= self.read_after:
                self.read()

    def read(self) -> Sums:
        """The sums over all that was taken in. They do not depend on when they are read: values are added in turn."""
        rows = {}
        for name, unread in self.unread.items():
            values = torch.stack([value for value, _, _ in unread]).tolist()
            rows[name] = [(value, *of) for value, (_, *of) in zip(values, unread, strict=True)]
        by_process = gather(rows) if rows else []
        for name in rows:
            total, count = self.sums.get(name, (0.0, 0))
            for of_batch in zip(*(rows[name] for rows in by_process), strict=True):
                for value, samples, update in of_batch:
                    total, count = total + value * samples, count + samples
                    if not math.isfinite(value):
                        self.bad.append((update, name, value))
            self.sums[name] = (total, count)
        self.unread = {}
        return self.sums

    def means(self) -> dict[str, float]:
        """The means so far."""
        return {name: total / count for name, (total, count) in self.read().items()}


WORST = {"max": -math.inf, "min": math.inf}  # what everything improves on, by mode


def improves(value: float, best: float, mode: str, threshold: float = 0.0) -> bool:
    """Whether `value` is better than `best` by more than `threshold`, a part of `best`. No tie and no NaN ever is."""
    return value > best * (1 + threshold) if mode == "max" else value < best * (1 - threshold)


def note_best_values(best: dict[str, float], scores: Mapping[str, float], modes: Mapping[str, str]) -> None:
    """Keeps in `best` the best value of each score on its own; those that `modes` does not name are "max"."""
    for name, value in scores.items():
        mode = modes.get(name, "max")
        if improves(value, best.get(name, WORST[mode]), mode):
            best[name] = value
