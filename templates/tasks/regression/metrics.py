"""Metrics of regression over a whole data set: R2 and the root mean squared error."""

import math

import torch
from torch import Tensor


class SquaredErrors:
    """Sums over the whole data set: of squared errors, and what the variance of the targets needs."""

    sums = ("count", "errors", "sum", "squares")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all that was taken in."""
        self.count, self.errors, self.sum, self.squares = 0, 0.0, 0.0, 0.0

    def update(self, pred: Tensor, y: Tensor) -> None:
        """Takes in predictions and targets of shape (B,)."""
        pred, y = pred.cpu().double(), y.cpu().double()
        self.count += len(y)
        self.errors += float((pred - y).square().sum())
        self.sum, self.squares = self.sum + float(y.sum()), self.squares + float(y.square().sum())


class R2(SquaredErrors):
    """The coefficient of determination: 1 - squared errors / squared deviations of the targets from their mean.

    NaN if the targets are constant.
    """

    def compute(self) -> Tensor:
        """The score, a scalar: 1 at best, 0 for always predicting the mean, no lower limit."""
        deviations = self.squares - self.sum**2 / max(1, self.count)
        return torch.tensor(1 - self.errors / deviations if deviations > 0 else math.nan, dtype=torch.float64)


class RootMeanSquaredError(SquaredErrors):
    """The root of the mean squared error.

    Args:
        scale: what 1 of the standardised target is in the target's own unit.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def compute(self) -> Tensor:
        """The error, a scalar, in the target's own unit."""
        return torch.tensor(self.scale * math.sqrt(self.errors / max(1, self.count)), dtype=torch.float64)
