"""Segmentation: the loss over pixels, its metrics over a whole data set, and a picture of masks."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classification import ConfusionMetric
from engine.monitor.figures import new_figure


class PixelCrossEntropy(nn.Module):
    """Cross-entropy: the mean over an image's pixels, then over images, whatever their sizes.

    Args:
        ignore_index: class index of the pixels that do not count.
    """

    def __init__(self, ignore_index: int) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, pred: Tensor, y: Tensor) -> Tensor:
        """A scalar, from logits (B, C, H, W) and class indices (B, H, W)."""
        losses = F.cross_entropy(pred, y.long(), ignore_index=self.ignore_index, reduction="none")
        return (losses.sum((1, 2)) / (y != self.ignore_index).sum((1, 2)).clamp(min=1)).mean()


class DiceLoss(nn.Module):
    """1 - 2 |P T| / (|P| + |T|) (Milletari et al. 2016): the mean over an image's classes, then over images.

    P are the probabilities of a class and T is 1 where it is true. Only classes that are in the mask count.

    Args:
        ignore_index: class index of the pixels that do not count.
    """

    def __init__(self, ignore_index: int) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, pred: Tensor, y: Tensor) -> Tensor:
        """A scalar, from logits (B, C, H, W) and class indices (B, H, W)."""
        y = y.unsqueeze(1)
        counted = y != self.ignore_index
        true = (y == torch.arange(pred.shape[1], device=y.device).view(-1, 1, 1)) & counted
        probabilities = pred.softmax(1) * counted
        both, sizes = (probabilities * true).sum((2, 3)), true.sum((2, 3))  # by image and class, (B, C)
        losses = 1 - 2 * both / (probabilities.sum((2, 3)) + sizes).clamp(min=1)
        present = sizes > 0
        return ((losses * present).sum(1) / present.sum(1).clamp(min=1)).mean()


class MeanIoU(ConfusionMetric):
    """The mean over classes of intersection over union, tp / (tp + fp + fn), without classes that occur nowhere.

    The measure of PASCAL VOC (Everingham et al. 2010), averaged as in Long et al. 2015, 5.
    """

    def compute(self) -> Tensor:
        """The score, a scalar from 0 to 1."""
        true_positives, sizes = self.true_positives_and_sizes()
        return (true_positives / (sizes - true_positives)).mean()


class PixelAccuracy(ConfusionMetric):
    """The fraction of all pixels whose class is right (Long et al. 2015, 5)."""

    def compute(self) -> Tensor:
        """The score, a scalar from 0 to 1."""
        true_positives, sizes = self.true_positives_and_sizes()
        return 2 * true_positives.sum() / sizes.sum()


def draw_masks(images: Tensor, true: Tensor, predicted: Tensor, ignore_index: int) -> Any:
    """The first four images, uint8 (N, 3, H, W), with the true and the predicted mask over them, both (N, H, W)."""
    rows = min(4, len(images))
    figure, axes = new_figure(3, rows, 8, 2.6 * rows)
    colors = {"cmap": "tab10", "vmin": 0, "vmax": 9, "interpolation": "nearest"}
    for of_row, image, *masks in zip(axes, images[:rows].cpu(), true[:rows].cpu(), predicted[:rows].cpu(), strict=True):
        for axis in of_row:
            axis.axis("off")
            axis.imshow(image.permute(1, 2, 0).numpy())
        for axis, mask in zip(of_row[1:], masks, strict=True):
            # Ignored pixels show the bare image; of more than ten classes some share a colour.
            shown = (mask % 10).float().where(mask != ignore_index, float("nan"))
            axis.imshow(shown.numpy(), alpha=0.5, **colors)
    for axis, title in zip(axes[0], ("image", "true mask", "predicted mask"), strict=True):
        axis.set_title(title)
    return figure
