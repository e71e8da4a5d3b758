"""Classes: their counts, weights and sampling; metrics from the confusion matrix, its picture, tables of classes."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.data.splits import BalancedSplit, Split
from engine.monitor.console import print_table, wrapped
from engine.monitor.figures import caption, new_figure
from engine.runtime.errors import UserError
from engine.runtime.files import write_csv

MOST_COLUMNS = 1000  # classes that each have a column in a table of predictions; spreadsheets do not open many more
ALL_SHOWN, WORST_SHOWN = 20, 10  # classes: as many have a printed table with a row for each, of more these come


# ---- classes of unequal sizes ----


class BalanceConfig(Protocol):
    """The settings that make up for classes of unequal sizes; config.py explains them."""

    @property
    def class_weights(self) -> str: ...
    @property
    def sampler(self) -> str: ...
    @property
    def seed(self) -> int: ...


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


def in_a_line(name: str, longest: int = 40) -> str:
    """A name without line ends, cut if it is too long to be printed."""
    name = " ".join(name.split())
    return name if len(name) <= longest else f"{name[: longest - 1]}\u2026"


def check_balance(config: BalanceConfig) -> None:
    """Raises a UserError for --class_weights and --sampler together, which would make up for the sizes twice."""
    if config.class_weights == config.sampler == "balanced":
        raise UserError(
            "--class_weights balanced and --sampler balanced each make up for classes of unequal size; give one of them"
        )


def sampled(train: Split, config: BalanceConfig) -> Split:
    """What an epoch has of the training split, as --sampler says: each sample once, or each class equally often."""
    if config.sampler == "shuffle":
        return train
    groups = train.y[train.indices]
    print(f"sampler: in an epoch each class has {len(groups) // len(groups.unique()):,} samples, or one more")
    return BalancedSplit(train, groups, config.seed)


def balanced_weights(counts: Tensor) -> Tensor:
    """n / (C count) for each class, as scikit-learn's "balanced": all weigh the same together, a sample 1 on average.

    A class without training samples is not among the C, and its weight, which only an evaluation could use, is 1.

    Args:
        counts: samples of each class in the training set, shape (C,).
    """
    occurs = counts > 0
    weights = counts.sum() / (occurs.sum() * counts.double().clamp(min=1))
    return weights.where(occurs, 1.0).float()


class WeightedCrossEntropy(nn.Module):
    """Cross-entropy in which each sample counts by the weight of its class: the mean over samples of weight times loss.

    nn.CrossEntropyLoss with `weight` divides by the weights in the batch instead: how much a sample counts would
    depend on which others share its batch.

    Args:
        weights: of the classes, shape (C,).
        label_smoothing: part of each target that is spread over all classes.
    """

    def __init__(self, weights: Tensor, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.weights: Tensor
        self.register_buffer("weights", weights)

    def forward(self, pred: Tensor, y: Tensor) -> Tensor:
        """A scalar, from logits (B, C, ...) and class indices (B, ...)."""
        losses = F.cross_entropy(pred, y, label_smoothing=self.label_smoothing, reduction="none")
        return (self.weights[y] * losses).mean()


def class_loss(config: BalanceConfig, train: Split, classes: Sequence[str], label_smoothing: float = 0.0) -> nn.Module:
    """Cross-entropy with the weights of classes that --class_weights says, in training and in evaluation."""
    if config.class_weights == "none":
        return nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    weights = balanced_weights(train.y[train.indices].bincount(minlength=len(classes)))
    ends = [f"{weights[k]:.3g} ({in_a_line(classes[k])})" for k in (int(weights.argmin()), int(weights.argmax()))]
    print(wrapped(f"class weights: {' to '.join(ends)}"))
    return WeightedCrossEntropy(weights, label_smoothing)


# ---- metrics ----


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


class BalancedAccuracy(ConfusionMetric):
    """The mean over classes of the recall, tp / (tp + fn): accuracy as if all classes were of one size.

    A class that does not occur is left out, as in scikit-learn's balanced_accuracy_score.
    """

    def compute(self) -> Tensor:
        """The score, a scalar; NaN if nothing was counted."""
        confusion = self.matrix.cpu().double()
        support = confusion.sum(1)
        return (confusion.diag() / support)[support > 0].mean()


# ---- what is shown ----


def class_scores(confusion: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each class: precision, recall, F1, and support, its number of samples; NaN for what would be 0 / 0.

    Args:
        confusion: counts of samples, shape (C, C): rows are true classes and columns predicted ones.
        classes: their names.
    """
    counts = confusion.cpu().double()
    hits, predicted, support = counts.diag(), counts.sum(0), counts.sum(1)
    scores = torch.stack([hits / predicted, hits / support, 2 * hits / (predicted + support)], 1)
    return [
        {"class": name, "precision": precision, "recall": recall, "f1": f1, "support": int(number)}
        for name, (precision, recall, f1), number in zip(classes, scores.tolist(), support.tolist(), strict=True)
    ]


def report_classes(confusion: Tensor, classes: Sequence[str], path: Path) -> None:
    """Prints the scores of the classes, of more than 20 those ten with the lowest recall, and writes all of them.

    If they cannot be written it says so, and the run goes on.

    Args:
        confusion: as for `class_scores`.
        classes: their names.
        path: the file that gets a row for each class.
    """
    rows = class_scores(confusion, classes)
    shown, note = rows, ""
    if len(rows) > ALL_SHOWN:
        shown = sorted((row for row in rows if row["support"]), key=lambda row: row["recall"])[:WORST_SHOWN]
        note = f"the {len(shown)} classes of lowest recall; {len(rows) - len(shown):,} more are in {path.name}"
    print_table([dict(_cell(*item) for item in row.items()) for row in shown])
    try:
        write_csv(rows, path)
        print(note or f"the same is in {path.name}")
    except UserError as error:
        print(f"no table of classes: {error}")


def _cell(name: str, value: Any) -> tuple[str, str]:
    """The name and a value of a column, as they are printed: numbers on the right, NaN as a dash."""
    if isinstance(value, str):
        return name, in_a_line(value)
    text = "-" if value != value else f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
    return f"{name:>7}", text.rjust(max(7, len(name)))


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


def mean_of_logits(preds: Sequence[Tensor]) -> Tensor:
    """Logits whose softmax is the mean of those of several networks.

    Args:
        preds: logits (B, C, ...) of each network.
    """
    return torch.stack(list(preds)).log_softmax(2).logsumexp(0) - math.log(len(preds))


def class_rows(names: list[str], logits: Tensor, classes: list[str]) -> list[dict[str, Any]]:
    """A row for each input: its name, the five most probable classes, and the probability of every class.

    The columns are input, class, probability, then top2, top2_probability and so on, then p(NAME) for each class, which
    no name of a class can be taken for; of more than MOST_COLUMNS classes only the first five are in the table.

    Args:
        names: of the inputs.
        logits: shape (B, C).
        classes: their names.
    """
    probabilities = logits.softmax(1)
    best = logits.topk(min(5, len(classes))).indices  # of logits: small probabilities may be equal
    listed = range(len(classes) if len(classes) <= MOST_COLUMNS else 0)
    rows = []
    for name, order, p in zip(names, best.tolist(), probabilities.tolist(), strict=True):
        row = {"input": name, "class": classes[order[0]], "probability": p[order[0]]}
        for rank, index in enumerate(order[1:], 2):
            row |= {f"top{rank}": classes[index], f"top{rank}_probability": p[index]}
        rows.append(row | {f"p({classes[index]})": p[index] for index in listed})
    return rows
