"""Means over samples, and scores that need the whole set. A torchmetrics metric fits wherever a SetMetric does."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from . import UserError


class SetMetric(Protocol):
    """A score over a whole set: fed batch by batch, read once, emptied. torchmetrics has the same three methods."""

    def update(self, pred: Any, y: Any) -> None:
        """Takes in a batch: what the network returned, and the truth."""

    def compute(self) -> Tensor:
        """The score of all that was taken in, a scalar."""

    def reset(self) -> None:
        """Forgets all that was taken in."""


class SampleMeans:
    """Means over samples, by name: each batch's value counts as many times as the batch has samples.

    Sums stay on the device until `means` is called, so adding never waits for it.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Any], samples: int) -> None:
        """Takes in the means of one batch: scalars by name."""
        for name, value in values.items():
            value = torch.as_tensor(value).detach()
            if value.numel() != 1:
                raise UserError(f"{name!r} has shape {tuple(value.shape)}: return its mean over the batch, a scalar")
            exact = torch.float32 if value.device.type == "mps" else torch.float64
            total = value.reshape(()).to(exact) * samples
            self.sums[name] = self.sums[name] + total if name in self.sums else total
            self.counts[name] = self.counts.get(name, 0) + samples

    def merge(self, other: "SampleMeans") -> None:
        """Takes in all that `other` holds."""
        for name, total in other.sums.items():
            self.sums[name] = self.sums[name] + total if name in self.sums else total
            self.counts[name] = self.counts.get(name, 0) + other.counts[name]

    def means(self) -> dict[str, float]:
        """The means so far."""
        if not self.sums:
            return {}
        sums = torch.stack([total.cpu() for total in self.sums.values()]).tolist()
        return {name: total / self.counts[name] for name, total in zip(self.sums, sums, strict=True)}


WORST = {"max": -math.inf, "min": math.inf}  # what everything improves on, by mode


def improves(value: float, best: float, mode: str, threshold: float = 0.0) -> bool:
    """Whether `value` is better than `best` by more than `threshold`, a part of `best`. No tie and no NaN ever is."""
    return value > best * (1 + threshold) if mode == "max" else value < best * (1 - threshold)
