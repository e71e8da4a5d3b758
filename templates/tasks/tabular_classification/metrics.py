"""Metrics of probabilities over a whole data set: areas under ROC curves, and how well probabilities are calibrated."""

import torch
from torch import Tensor

from engine.metrics import KeptPredictions

BINS = 15  # of probabilities, all of one width


class RocAuc(KeptPredictions):
    """The mean over classes of the area under the ROC curve of this class against the rest.

    The same as scikit-learn's roc_auc_score(multi_class="ovr", average="macro"); of two classes both have one area. A
    class that no row or every row has is left out. It takes in logits (B, C) and class indices (B,).
    """

    def predictions(self) -> tuple[Tensor, Tensor]:
        """Probabilities (N, C), float64, and class indices (N,) of all that was taken in."""
        return torch.cat(self.preds).double().softmax(1), torch.cat(self.targets)

    def compute(self) -> Tensor:
        """The mean, a scalar; NaN if no class has both rows and others."""
        probabilities, y = self.predictions()
        areas = [area for number, p in enumerate(probabilities.T) if (area := area_under_roc(p, y == number)) >= 0]
        return torch.tensor(areas, dtype=torch.float64).mean()


def area_under_roc(scores: Tensor, positive: Tensor) -> float:
    """The probability that a positive sample has a higher score than a negative one; equal scores count one half.

    By ranks (Mann and Whitney 1947), equal ones averaged. -1 if all samples are alike.

    Args:
        scores: (N,).
        positive: booleans (N,).
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return -1.0
    _, place, counts = scores.unique(return_inverse=True, return_counts=True)
    ranks = counts.cumsum(0).double() - (counts - 1) / 2  # the mean rank of equal scores
    above = ranks[place[positive]].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def roc_curve(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """False and true positive rates at every threshold, from (0, 0) to (1, 1), each of shape (T + 1,).

    Args:
        scores: (N,).
        positive: booleans (N,), some of which are true and some false.
    """
    ordered, order = scores.sort(descending=True)
    hits = positive[order].double().cumsum(0)
    last = torch.cat([ordered[1:] != ordered[:-1], torch.tensor([True])])  # of equal scores
    true = hits[last]
    false = torch.arange(1, len(hits) + 1)[last] - true
    start = torch.zeros(1, dtype=torch.float64)
    return torch.cat([start, false / false[-1]]), torch.cat([start, true / true[-1]])


class CalibrationError:
    """Expected calibration error (Guo et al. 2017): how far the predicted class's probability is from the accuracy.

    In 15 bins of probability of one width, the mean over samples of |accuracy - mean probability| of their bin.
    """

    sums = ("counts", "hits", "confidence")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all that was counted."""
        self.counts, self.hits, self.confidence = torch.zeros(3, BINS, dtype=torch.float64)

    def update(self, pred: Tensor, y: Tensor) -> None:
        """Takes in logits (B, C) and class indices (B,)."""
        probability, predicted = pred.cpu().double().softmax(1).max(1)
        bins = (probability * BINS).ceil().long().sub(1).clamp(0, BINS - 1)  # each has its upper edge
        self.counts = self.counts + bins.bincount(minlength=BINS)
        self.hits = self.hits + bins.bincount((predicted == y.cpu()).double(), minlength=BINS)
        self.confidence = self.confidence + bins.bincount(probability, minlength=BINS)

    def compute(self) -> Tensor:
        """The error, a scalar."""
        error: Tensor = (self.hits - self.confidence).abs().sum() / self.counts.sum()
        return error
