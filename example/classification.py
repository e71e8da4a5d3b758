"""Classes: metrics from the confusion matrix over a whole data set, its picture, and a table of predicted classes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.data.splits import Split
from engine.monitor.console import wrapped
from engine.monitor.figures import caption, new_figure


def describe_classes(classes: Sequence[str], splits: Mapping[str, Split]) -> str:
    """How many samples each class has in each split, in lines of 79 characters; of more than ten the two extremes.

    Args:
        classes: their names.
        splits: by name, with the number of each sample's class as `y`.
    """
    sizes = [split.y[split.indices].bincount(minlength=len(classes)).tolist() for split in splits.values()]
    counts = dict(zip(classes, zip(*sizes, strict=True), strict=True))
    ordered = sorted(counts, key=lambda name: -counts[name][0])
    shown = ordered if len(ordered) <= 10 else [ordered[0], ordered[-1]]
    named = [f"{name} {' + '.join(f'{count:,}' for count in counts[name])}" for name in shown]
    what = "classes" if len(ordered) <= 10 else f"largest and smallest of {len(ordered)} classes"
    alike = [name for name, others in Counter(map(str.casefold, counts)).items() if others > 1]
    note = f"; by case alone differ those called {', '.join(alike)}" if alike else ""
    line = f"{what} ({' + '.join(splits)}): {', '.join(named)}{note}"
    return wrapped(line)


class ConfusionMetric:
    """Adds up the confusion matrix batch by batch; a subclass is one formula on it, `compute`.

    `matrix`, shape (C, C), counts samples: rows are true classes and columns predicted ones.
    """

    sums = ("matrix",)

    def __init__(self, num_classes: int, ignore_index: int = -1) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.matrix = torch.empty(0)
        self.reset()

    def update(self, pred: Tensor, y: Tensor) -> None:
        """Takes in logits of shape (B, C, ...) and class indices of shape (B, ...)."""
        counted = y != self.ignore_index
        cells = (y.long() * self.num_classes + pred.argmax(1))[counted]
        counts = torch.bincount(cells, minlength=self.num_classes**2).view(self.num_classes, self.num_classes)
        self.matrix = self.matrix.to(counts.device) + counts

    def reset(self) -> None:
        """Forgets all that was counted."""
        self.matrix = torch.zeros(self.num_classes, self.num_classes, dtype=torch.long)

    def true_positives_and_sizes(self) -> tuple[Tensor, Tensor]:
        """Per class that occurs or is predicted: true positives tp, and tp + fp + tp + fn; float64 on the CPU."""
        confusion = self.matrix.cpu().double()
        sizes = confusion.sum(0) + confusion.sum(1)
        return confusion.diag()[sizes > 0], sizes[sizes > 0]


class MacroF1(ConfusionMetric):
    """The mean over classes of F1 = 2 tp / (2 tp + fp + fn).

    A class that neither occurs nor is predicted is left out, as in scikit-learn's f1_score(average="macro").
    """

    def compute(self) -> Tensor:
        """The score, a scalar; NaN if nothing was counted."""
        true_positives, sizes = self.true_positives_and_sizes()
        return (2 * true_positives / sizes).mean()


def draw_confusion(confusion: Tensor, classes: list[str]) -> Any:
    """The confusion matrix, shape (C, C), as a figure; colours are fractions of each true class."""
    counts = confusion.cpu()
    fractions = counts / counts.sum(1, keepdim=True).clamp(min=1)
    side = min(16, 3.5 + 0.45 * len(classes))
    figure, axes = new_figure(width=side, height=side)
    axis = axes[0, 0]
    axis.imshow(fractions.numpy(), cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="true")
    if len(classes) <= 30:  # more could not be read
        names = [caption(name, 24) for name in classes]
        axis.set_xticks(range(len(names)), names, rotation=90)
        axis.set_yticks(range(len(names)), names)
        for row, column in counts.nonzero().tolist():
            color = "white" if fractions[row, column] > 0.5 else "black"
            number = f"{counts[row, column]}" if counts.max() < 10_000 else f"{fractions[row, column]:.2f}"
            axis.text(column, row, number, ha="center", va="center", fontsize=7, color=color)
    return figure


def class_rows(names: list[str], logits: Tensor, classes: list[str]) -> list[dict[str, Any]]:
    """A row for each input: its name, the most probable class and its probability, from logits (B, C)."""
    best = logits.softmax(1).max(1)
    return [
        {"input": name, "class": classes[index], "probability": probability}
        for name, index, probability in zip(names, best.indices.tolist(), best.values.tolist(), strict=True)
    ]
