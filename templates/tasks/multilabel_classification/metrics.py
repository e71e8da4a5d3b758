"""Metrics of labels that are present or absent, over a whole data set."""

import torch
from torch import Tensor

from engine.metrics import KeptPredictions


class MeanAveragePrecision(KeptPredictions):
    """The mean over labels of average precision: the sum, over falling thresholds, of precision times gain in recall.

    The same as scikit-learn's average_precision_score(average="macro"): equal logits share a threshold, and a label
    that no image has counts 0. It takes in logits and labels of shape (B, L).
    """

    def compute(self) -> Tensor:
        """The mean, a scalar."""
        logits, order = torch.cat(self.preds).sort(0, descending=True)
        hits = torch.cat(self.targets).gather(0, order).double().cumsum(0)
        precision = hits / torch.arange(1, len(hits) + 1).unsqueeze(1)
        found = []
        for score, hit, p in zip(logits.T, hits.T, precision.T, strict=True):
            last = torch.cat([score[1:] != score[:-1], torch.tensor([True])])  # of those with the same logit
            found.append((hit[last].diff(prepend=hit.new_zeros(1)) * p[last]).sum() / hit[-1].clamp(min=1))
        return torch.stack(found).mean()


class F1:
    """F1 = 2 tp / (2 tp + fp + fn), where a label is predicted if its probability is above one half.

    Micro is of the counts of all labels together; macro is the mean over labels, where one that is neither present nor
    predicted counts 0, as in scikit-learn.
    """

    sums = ("true_positives", "sizes")

    def __init__(self, micro: bool) -> None:
        self.micro = micro
        self.reset()

    def reset(self) -> None:
        """Forgets all that was counted."""
        self.true_positives, self.sizes = torch.zeros(1), torch.zeros(1)

    def update(self, pred: Tensor, y: Tensor) -> None:
        """Takes in logits and labels of shape (B, L)."""
        predicted, true = (pred > 0).cpu().double(), y.cpu().double()
        self.true_positives = self.true_positives + (predicted * true).sum(0)
        self.sizes = self.sizes + (predicted + true).sum(0)

    def compute(self) -> Tensor:
        """The score, a scalar."""
        true_positives, sizes = (v.sum() if self.micro else v for v in (self.true_positives, self.sizes))
        return (2 * true_positives / sizes.clamp(min=1)).mean()
