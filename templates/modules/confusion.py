"""Scores from the counts of every pair of true and predicted class over the whole set, and a picture of these."""

from typing import Any

import torch
from torch import Tensor

from engine.figures import caption, new_figure


class ConfusionScore:
    """Counts pairs of classes batch by batch; a subclass is one formula on the counts, `compute`.

    Rows of `confusion`, shape (C, C), are true classes and columns predicted ones.
    """

    sums = ("confusion",)

    def __init__(self, num_classes: int, ignore_index: int = -1) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.confusion = torch.empty(0)
        self.reset()

    def update(self, pred: Tensor, y: Tensor) -> None:
        """Takes in logits of shape (B, C, ...) and class numbers of shape (B, ...)."""
        counted = y != self.ignore_index
        cells = (y.long() * self.num_classes + pred.argmax(1))[counted]
        counts = torch.bincount(cells, minlength=self.num_classes**2).view(self.num_classes, self.num_classes)
        self.confusion = self.confusion.to(counts.device) + counts

    def reset(self) -> None:
        """Forgets all that was counted."""
        self.confusion = torch.zeros(self.num_classes, self.num_classes, dtype=torch.long)

    def hits_and_sizes(self) -> tuple[Tensor, Tensor]:
        """Per class that occurs or is predicted: true positives tp, and tp + fp + tp + fn; float64 on the CPU."""
        confusion = self.confusion.cpu().double()
        sizes = confusion.sum(0) + confusion.sum(1)
        return confusion.diag()[sizes > 0], sizes[sizes > 0]


class MacroF1(ConfusionScore):
    """Mean over classes of F1 = 2 tp / (2 tp + fp + fn).

    A class that neither occurs nor is predicted is left out, as in scikit-learn's f1_score(average="macro").
    """

    def compute(self) -> Tensor:
        """The score, a scalar; NaN where nothing was counted."""
        hits, sizes = self.hits_and_sizes()
        return (2 * hits / sizes).mean()


def draw_confusion(confusion: Tensor, classes: list[str]) -> Any:
    """The counts, shape (C, C), as parts of each true class: the diagonal of a perfect network is dark."""
    counts = confusion.cpu()
    parts = counts / counts.sum(1, keepdim=True).clamp(min=1)
    side = min(16, 3.5 + 0.45 * len(classes))
    figure, axes = new_figure(width=side, height=side)
    axis = axes[0, 0]
    axis.imshow(parts.numpy(), cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="true")
    if len(classes) <= 30:  # more would not be readable
        names = [caption(name, 24) for name in classes]
        axis.set_xticks(range(len(names)), names, rotation=90)
        axis.set_yticks(range(len(names)), names)
        for row, column in counts.nonzero().tolist():
            color = "white" if parts[row, column] > 0.5 else "black"
            number = f"{counts[row, column]}" if counts.max() < 10_000 else f"{parts[row, column]:.2f}"
            axis.text(column, row, number, ha="center", va="center", fontsize=7, color=color)
    return figure
