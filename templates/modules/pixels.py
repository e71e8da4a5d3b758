"""The loss and the scores of classes of pixels, and pictures of these."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from confusion import ConfusionScore
from engine.figures import new_figure


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


def draw_masks(images: Tensor, true: Tensor, predicted: Tensor, ignore_index: int) -> Any:
    """The first four images, bytes (N, 3, H, W), with the true and the predicted mask over them, both (N, H, W)."""
    rows = min(4, len(images))
    figure, axes = new_figure(3, rows, 8, 2.6 * rows)
    colors = {"cmap": "tab10", "vmin": 0, "vmax": 9, "interpolation": "nearest"}
    for of_row, image, *masks in zip(axes, images[:rows].cpu(), true[:rows].cpu(), predicted[:rows].cpu(), strict=True):
        for axis in of_row:
            axis.axis("off")
            axis.imshow(image.permute(1, 2, 0).numpy())
        for axis, mask in zip(of_row[1:], masks, strict=True):
            # What does not count stays the bare image; of more than ten classes some share a colour.
            shown = (mask % 10).float().where(mask != ignore_index, float("nan"))
            axis.imshow(shown.numpy(), alpha=0.5, **colors)
    for axis, title in zip(axes[0], ("image", "true mask", "predicted mask"), strict=True):
        axis.set_title(title)
    return figure
