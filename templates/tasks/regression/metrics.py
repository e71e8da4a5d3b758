"""The scale of the target, and metrics over a whole data set: R2, root mean squared error, prediction intervals."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from engine.metrics import KeptPredictions


class TargetScale:
    """What the network predicts, the standardised target or its logarithm, and the target in its own unit.

    Args:
        meta: what `load_data` returned: mean and standard deviation of the target and, if it is, of its logarithm.
    """

    def __init__(self, meta: Mapping[str, Any]) -> None:
        self.mean: float = meta["target_mean"]
        self.std: float = meta["target_std"]
        self.log: list[float] | None = meta.get("target_log")

    def standardised(self, values: Tensor) -> Tensor:
        """From targets in their own unit to what the network predicts, float32."""
        if self.log:
            return ((values.log() - self.log[0]) / self.log[1]).float()
        return ((values - self.mean) / self.std).float()

    def relative(self, standardised: Tensor) -> Tensor:
        """From what the network predicts to targets less their mean, in units of their deviation, float64."""
        values = standardised.cpu().double()
        return ((values * self.log[1] + self.log[0]).exp() - self.mean) / self.std if self.log else values

    def in_unit(self, standardised: Tensor) -> Tensor:
        """From what the network predicts to targets in their own unit, float64."""
        return self.relative(standardised) * self.std + self.mean


class SquaredErrors:
    """Sums over the whole data set: of squared errors, and what the variance of the targets needs.

    Args:
        scale: of the target.
    """

    sums = ("count", "errors", "sum", "squares")

    def __init__(self, scale: TargetScale) -> None:
        self.scale = scale
        self.reset()

    def reset(self) -> None:
        """Forgets all that was taken in."""
        self.count, self.errors, self.sum, self.squares = 0, 0.0, 0.0, 0.0

    def update(self, pred: Tensor, y: Tensor) -> None:
        """Takes in predictions and targets of shape (B,), as the network predicts them."""
        pred, y = self.scale.relative(pred), self.scale.relative(y)
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
    """The root of the mean squared error."""

    def compute(self) -> Tensor:
        """The error, a scalar, in the target's own unit."""
        return torch.tensor(self.scale.std * math.sqrt(self.errors / max(1, self.count)), dtype=torch.float64)


class IntervalWidth(KeptPredictions):
    """The mean width of prediction intervals, which go from one quantile of the residuals to another.

    Residuals are of the standardised target, or of its logarithm: an interval of a large prediction is then wider. It
    takes in predictions and targets of shape (B,), as the network predicts them.

    Args:
        scale: of the target.
        coverage: part of the residuals that is inside, above 0 and below 1.
    """

    def __init__(self, scale: TargetScale, coverage: float) -> None:
        super().__init__()
        self.scale = scale
        self.coverage = coverage

    def ends(self) -> list[float]:
        """What to add to a prediction for the lower and the upper end of its interval.

        Of N residuals these have rank (N + 1) (1 - coverage) / 2, rounded down, from below and from above: so that a
        new residual is inside with that probability or more (Lei et al. 2018); the ends if N is too small.
        """
        residuals = (torch.cat(self.targets) - torch.cat(self.preds)).double().sort().values
        outside = max(1, math.floor((len(residuals) + 1) * (1 - self.coverage) / 2))
        return [residuals[outside - 1].item(), residuals[-outside].item()]

    def compute(self) -> Tensor:
        """The mean width, a scalar, in the target's own unit."""
        pred = torch.cat(self.preds).double()
        low, high = (self.scale.in_unit(pred + end) for end in self.ends())
        return (high - low).mean()
