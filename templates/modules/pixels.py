"""The loss and the scores of classes of pixels."""

import torch.nn.functional as F
from torch import Tensor, nn

from confusion import ConfusionScore


class PixelCrossEntropy(nn.Module):
    """Cross-entropy, the mean over an image's pixels and then over images: batches of other sizes change nothing."""

    def __init__(self, ignore_index: int) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, pred: Tensor, y: Tensor) -> Tensor:
        """A scalar, from logits (B, C, H, W) and class numbers (B, H, W)."""
        losses = F.cross_entropy(pred, y.long(), ignore_index=self.ignore_index, reduction="none")
        return (losses.sum((1, 2)) / (y != self.ignore_index).sum((1, 2)).clamp(min=1)).mean()


class MeanIoU(ConfusionScore):
    """Mean over classes of intersection over union, tp / (tp + fp + fn); without those that occur nowhere.

    The measure of PASCAL VOC (Everingham et al. 2010), averaged as in Long et al. 2015, 5.
    """

    def compute(self) -> Tensor:
        """The score, a scalar from 0 to 1."""
        hits, sizes = self.hits_and_sizes()
        return (hits / (sizes - hits)).mean()


class PixelAccuracy(ConfusionScore):
    """Part of all pixels whose class is right (Long et al. 2015, 5)."""

    def compute(self) -> Tensor:
        """The score, a scalar from 0 to 1."""
        hits, sizes = self.hits_and_sizes()
        return 2 * hits.sum() / sizes.sum()
