"""Figures of probabilities: ROC curves of classes, and a reliability diagram."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine.monitor.figures import caption, new_figure
from metrics import CalibrationError, area_under_roc, roc_curve

MOST_CURVES = 10  # of more classes those of least area


def draw_roc(probabilities: Tensor, y: Tensor, classes: Sequence[str]) -> Any:
    """The ROC curve of each class against the rest, with its area; of two classes that of the second alone.

    Args:
        probabilities: (N, C).
        y: class indices (N,).
        classes: their names.
    """
    shown = range(len(classes)) if len(classes) > 2 else [1]
    areas = {number: area_under_roc(probabilities[:, number], y == number) for number in shown}
    known = sorted((area, number) for number, area in areas.items() if area >= 0)
    figure, axes = new_figure(width=5.6, height=5)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for area, number in known[:MOST_CURVES]:
        false, true = roc_curve(probabilities[:, number], y == number)
        axis.plot(false.numpy(), true.numpy(), label=f"{caption(classes[number], 24)}: {area:.3f}")
    more = f" of least area, of {len(known)}" if len(known) > MOST_CURVES else ""
    axis.set(xlabel="false positive rate", ylabel="true positive rate", title=f"classes{more} against the rest")
    axis.set(aspect="equal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    if known:
        axis.legend(loc="lower right", title="area", fontsize=8)
    return figure


def draw_reliability(calibration: CalibrationError) -> Any:
    """The accuracy of predictions by the probability that they had, and below how many had it.

    Bars at the diagonal are calibrated: of the predictions with probability 0.8, eight in ten are right.
    """
    counts, bins = calibration.counts, len(calibration.counts)
    centres, accuracy = (torch.arange(bins) + 0.5) / bins, calibration.hits / counts.clamp(min=1)
    figure, axes = new_figure(rows=2, width=5.6, height=6)
    upper, lower = axes[:, 0]
    upper.bar(centres.numpy(), accuracy.numpy(), 0.9 / bins, color="tab:blue")
    upper.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    title = f"expected calibration error {float(calibration.compute()):.4f}"
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02), title=title)
    lower.bar(centres.numpy(), counts.numpy(), 0.9 / bins, color="tab:grey")
    lower.set(xlabel="probability of the predicted class", ylabel="rows", xlim=(0, 1))
    return figure
