"""Embeddings of the numbers in rows of a table: scaled, piecewise linear, periodic, and terms for those that are names.

Where a number's quantiles are, and which numbers are names, is taken from the training rows by `describe`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLIPPED_AT = 3.0  # robust standard deviations
BINS = 64  # of each number, for piecewise-linear embeddings
EMBEDDED = 8  # features of each number, for perceptrons, beside the number itself
FREQUENCIES, FREQUENCY_SCALE, PERIODIC = 32, 0.05, 16  # of periodic embeddings: sines, their spread, and features
MOST_NAMES, MOST_VALUES = 4, 1000  # numbers that are names, and different values of each
LEAST_ROWS = 3  # of each value of a name, on average
JUMPS = 4.0  # standard errors by which a name's means of the target jump more than by chance
MOST_CLASSES = 16  # whose parts among the rows of a value are compared with those of the values beside it


def quantiles(x: Tensor, parts: Sequence[float]) -> Tensor:
    """The quantiles of each column of (N, C), (parts, C), with linear interpolation."""
    place, x = torch.tensor(parts, dtype=torch.float64) * (len(x) - 1), x.sort(0).values
    low, high = x[place.floor().long()], x[place.ceil().long()]
    return low + (high - low) * place.frac().unsqueeze(1).to(x.dtype)


class RobustScale(nn.Module):
    """Numbers in units of their quartiles' distance from the median, smoothly clipped (Holzmueller et al. 2024, 3).

    x -> z / sqrt(1 + (z / 3)^2) with z = (x - median) / (0.74 (q3 - q1)), as wide as a standard deviation if normal.

    Args:
        count: numbers of a row.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.centre: Tensor
        self.scale: Tensor
        self.register_buffer("centre", torch.zeros(count))
        self.register_buffer("scale", torch.ones(count))

    def describe(self, x: Tensor) -> None:
        """Takes median and quartiles from training rows (N, count)."""
        low, middle, high = quantiles(x, [0.25, 0.5, 0.75])
        spread = (high - low) / 1.349
        self.centre.copy_(middle)
        self.scale.copy_(torch.where(spread > 0, spread, x.std(0, correction=0)).clamp(min=1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """From (B, count) to the same, within -3 and 3."""
        z = (x - self.centre) / self.scale
        return z / (1 + (z / CLIPPED_AT).square()).sqrt()


class Names(nn.Module):
    """A term for each value of those numbers that are names, as the number of a school is; 0 for other numbers.

    Of a name each value comes several times, and what the target is jumps from one value to the next.

    Args:
        count: numbers of a row.
        size: features of a term.
    """

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.count, most = count, min(count, MOST_NAMES)
        self.values: Tensor
        self.numbers: Tensor
        self.register_buffer("values", torch.full((most, MOST_VALUES), math.inf))
        self.register_buffer("numbers", torch.zeros(most, dtype=torch.long))  # which of a row's they are
        self.terms = nn.Parameter(torch.zeros(most, MOST_VALUES, size))

    def describe(self, x: Tensor, y: Tensor) -> None:
        """Takes the values of names from training rows (N, count) and targets (N,), numbers or class indices."""
        self.values.fill_(math.inf)
        targets = y.unsqueeze(1)
        if not y.is_floating_point():  # the largest classes against the rest
            largest = y.bincount().argsort(descending=True, stable=True)[:MOST_CLASSES]
            targets = (targets == largest).float()
        found: list[tuple[float, int, Tensor]] = []
        for number, column in enumerate(x.T):
            values, which = column.unique(return_inverse=True)
            if 2 < len(values) <= min(MOST_VALUES, len(column) / LEAST_ROWS):
                found.append((jumps(which, targets, len(values)), number, values))
        found.sort(key=lambda name: -name[0])
        for name, (size, number, values) in enumerate(found[:MOST_NAMES]):
            if size > JUMPS:
                self.values[name, : len(values)] = values
                self.numbers[name] = number

    def forward(self, x: Tensor) -> Tensor:
        """From (B, count) to (B, count, size)."""
        names = x[:, self.numbers].T.contiguous()
        places = torch.searchsorted(self.values, names - 1e-5).clamp(max=MOST_VALUES - 1)
        known = (self.values.gather(1, places) - names).abs() < 1e-5
        rows = torch.arange(len(names), device=x.device).unsqueeze(1)
        terms = self.terms[rows, places] * known.unsqueeze(2)  # (names, B, size)
        is_name = self.numbers.unsqueeze(1) == torch.arange(self.count, device=x.device)
        return torch.einsum("kbd,kn->bnd", terms, is_name.to(terms.dtype))  # index_add has no batches of any size


def jumps(which: Tensor, targets: Tensor, count: int) -> float:
    """How much farther than by chance the mean target of a value is from those of the values beside it.

    The mean square of the means' second differences is, of a smooth function, what the variance within values makes it;
    by how many standard errors it is larger, for the class for which it is largest.

    Args:
        which: value each row has, 0, 1, 2 ... in their order, (N,).
        targets: of each row, (N, C).
        count: values.
    """
    rows = which.bincount(minlength=count).unsqueeze(1)
    means = torch.zeros(count, targets.shape[1]).index_add_(0, which, targets) / rows
    variance = (targets - means[which]).square().sum(0) / (len(which) - count)
    seconds = (means[:-2] - 2 * means[1:-1] + means[2:]).square() / (1 / rows[:-2] + 4 / rows[1:-1] + 1 / rows[2:])
    excess = seconds.mean(0) / variance.clamp(min=1e-12) - 1
    return float(excess.max()) / math.sqrt(2 / len(seconds))


class PiecewiseLinear(nn.Module):
    """Numbers and embeddings that are linear between the quantiles of training rows (Gorishniy et al. 2022, 3.2).

    Args:
        count: numbers of a row.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.edges: Tensor
        self.register_buffer("edges", torch.linspace(-1, 1, BINS + 1).repeat(count, 1))
        bound = 1 / math.sqrt(BINS)
        self.weight = nn.Parameter(torch.empty(count, BINS, EMBEDDED).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, EMBEDDED).uniform_(-bound, bound))
        self.names = Names(count, EMBEDDED)

    def describe(self, x: Tensor, y: Tensor) -> None:
        """Takes the quantiles from training rows (N, count)."""
        self.names.describe(x, y)
        self.edges.copy_(quantiles(x, torch.linspace(0, 1, BINS + 1).tolist()).T)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, count) to (B, count * (1 + EMBEDDED)), the numbers first."""
        low, width = self.edges[:, :-1], self.edges.diff(dim=1)
        parts = ((x.unsqueeze(2) - low) / width.clamp(min=1e-6)).clamp(0, 1) * (width > 0)
        embedded = F.relu((parts.transpose(0, 1) @ self.weight).transpose(0, 1) + self.bias + self.names(x))
        return torch.cat([x, embedded.flatten(1)], 1)


class Periodic(nn.Module):
    """Embeddings of numbers by sines of trained frequencies and a linear layer that all share (the same, 3.3).

    Args:
        count: numbers of a row.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(FREQUENCY_SCALE * torch.randn(count, FREQUENCIES))
        self.linear = nn.Linear(2 * FREQUENCIES, PERIODIC)
        self.names = Names(count, PERIODIC)

    def describe(self, x: Tensor, y: Tensor) -> None:
        """Takes what numbers are names from training rows (N, count)."""
        self.names.describe(x, y)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, count) to (B, count * PERIODIC)."""
        angles = 2 * math.pi * self.frequencies * x.unsqueeze(2)
        return F.relu(self.linear(torch.cat([angles.cos(), angles.sin()], 2)) + self.names(x)).flatten(1)


class AsTheyAre(nn.Identity):
    """No embedding."""

    def describe(self, x: Tensor, y: Tensor) -> None:
        """Takes nothing."""


class Features(nn.Module):
    """The numbers of rows, embedded unless there are very many, and the other features as they are.

    Args:
        features: F of a row.
        numbers: which of them are numbers.
        embedding: makes the embedding of so many numbers, by `size` features each.
        size: of it.
        most: numbers of a row, of which more are not embedded.
    """

    def __init__(self, features: int, numbers: Sequence[int], embedding: Any, size: int, most: int) -> None:
        super().__init__()
        embedding, size = (embedding, size) if len(numbers) <= most else (AsTheyAre, 1)
        self.numbers = list(numbers)
        self.others = sorted(set(range(features)) - set(numbers))
        self.scale = RobustScale(len(self.numbers))
        self.embedding = embedding(len(self.numbers))
        self.size = size * len(self.numbers) + len(self.others)

    def describe(self, x: Tensor, y: Tensor) -> None:
        """Takes what is to be known of numbers from training rows (N, F) and their targets (N,)."""
        numbers = x[:, self.numbers]
        self.scale.describe(numbers)
        self.embedding.describe(self.scale(numbers), y)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, F) to (B, `size`)."""
        return torch.cat([self.embedding(self.scale(x[:, self.numbers])), x[:, self.others]], 1)
