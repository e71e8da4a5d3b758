"""Networks for rows of a table: perceptrons that share weights, the vote of similar training rows, and both together.

Each is three stages: inputs, hidden layers, outputs. In training mode the last one gives the predictions of all members
for each row, one after another, so that each has a loss of its own; in eval mode their mean.

Rows are features, as `encode` in columns.py makes them; in training also which remembered rows they are.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.data.splits import Split
from engine.runtime.errors import UserError

MEMBERS = 8  # perceptrons that share weights
BINS = 64  # of each number, for piecewise-linear embeddings
EMBEDDED = 8  # features of each number, for perceptrons, beside the number itself
MOST_NAMES, MOST_VALUES = 4, 1000  # numbers that are names, and different values of each
MOST_CLASSES = 16  # whose parts among the rows of a value are compared with those of the values beside it
LEAST_ROWS = 3  # of each value of a name, on average
JUMPS = 4.0  # standard errors by which a name's means of the target jump more than by chance
FREQUENCIES, FREQUENCY_SCALE, PERIODIC = 32, 0.05, 16  # of periodic embeddings: sines, their spread, and features
MOST_EMBEDDED = 2048  # numbers of a row; of more none is embedded, which bounds weights
MOST_PERIODIC = 4_000_000  # numbers of all remembered rows; of more none is, which bounds memory: each is 64 sines
KEY_SIZE = 128  # of the space in which rows are compared
MOST_REMEMBERED = 20_000  # training rows that are compared with
DRAWN_SHARE, MOST_DRAWN = 0.5, 4096  # of these, in each update
VOTE_SHARE = 1 / 3  # of the vote in the mean with perceptrons
CLIPPED_AT = 3.0  # robust standard deviations
LEAST_BATCHES, LEAST_BATCH = 8, 16  # of an epoch, unless they had fewer rows than these


Rows = Tensor | tuple[Tensor, Tensor]  # features (B, F); or these, and which remembered row each is or -1, (B,)


# ---- numbers ----


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
        embedded = F.relu(torch.einsum("bnk,nkd->bnd", parts, self.weight) + self.bias + self.names(x))
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
    """No embedding.

    Args:
        count: numbers of a row.
    """

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


# ---- perceptrons that share weights ----


class PerceptronInputs(nn.Module):
    """First stage: rows to embedded features.

    Args:
        features: F of a row.
        numbers: which of them are numbers.
    """

    def __init__(self, features: int, numbers: Sequence[int]) -> None:
        super().__init__()
        self.features = Features(features, numbers, PiecewiseLinear, 1 + EMBEDDED, MOST_EMBEDDED)

    def describe(self, x: Tensor, y: Tensor) -> None:
        """Takes what is to be known of numbers from training rows (N, F) and their targets (N,)."""
        self.features.describe(x, y)

    def forward(self, rows: Rows) -> Tensor:
        """To (B, D)."""
        return self.features(rows[0] if isinstance(rows, tuple) else rows)  # type: ignore[no-any-return]


class SharedLayer(nn.Module):
    """A linear layer of several members that share its matrix: each scales its inputs and outputs (Wen et al. 2020).

    Args:
        inp: inputs.
        out: outputs.
        members: M.
        first: whether inputs are scaled by random signs at first, which makes members differ (Gorishniy et al. 2024).
    """

    def __init__(self, inp: int, out: int, members: int, first: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inp, out, bias=False)
        scale = torch.randint(0, 2, (members, inp)) * 2.0 - 1 if first and members > 1 else torch.ones(members, inp)
        self.inputs, self.outputs = nn.Parameter(scale), nn.Parameter(torch.ones(members, out))
        self.bias = nn.Parameter(torch.empty(members, out).uniform_(-1, 1) / math.sqrt(inp))

    def forward(self, x: Tensor) -> Tensor:
        """From (B, M, inputs), or (B, 1, inputs), to (B, M, outputs)."""
        return self.linear(x * self.inputs) * self.outputs + self.bias  # type: ignore[no-any-return]


class SharedPerceptrons(nn.Module):
    """Second stage: hidden layers of members that share their matrices, TabM (Gorishniy et al. 2024), and past them.

    What they see goes past them too, so that the last stage need not learn by hidden layers what is linear.

    Args:
        inp: D.
        width: W, units of each layer.
        dropout: part of them that is dropped in training.
        members: M.
    """

    def __init__(self, inp: int, width: int, dropout: float, members: int) -> None:
        super().__init__()
        sizes = [inp, width, width, width]
        self.layers = nn.ModuleList(
            SharedLayer(*pair, members, first=number == 0)
            for number, pair in enumerate(zip(sizes, sizes[1:], strict=False))
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, D) to (B, M, W + D)."""
        x = seen = x.unsqueeze(1)
        for layer in self.layers:
            x = self.dropout(F.relu(layer(x)))
        return torch.cat([x, seen.expand(-1, x.shape[1], -1)], 2)


class MemberOutputs(nn.Module):
    """Third stage: a linear layer for each member, in fp32; at first it does not see what went past hidden layers.

    Args:
        width: W.
        inp: D.
        members: M.
        outputs: C.
    """

    def __init__(self, width: int, inp: int, members: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        hidden = torch.empty(members, width, outputs).uniform_(-bound, bound)
        self.weight = nn.Parameter(torch.cat([hidden, torch.zeros(members, inp, outputs)], 1))
        self.bias = nn.Parameter(torch.zeros(members, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """From (B, M, W + D) to (B, M, C)."""
        with torch.autocast(x.device.type, enabled=False):
            return torch.einsum("bmw,mwc->bmc", x.float(), self.weight) + self.bias


# ---- the vote of similar training rows ----


def remembered_rows(count: int) -> Tensor:
    """Which of so many training rows are remembered, (R,): all, or MOST_REMEMBERED from all over them."""
    return torch.linspace(0, count - 1, min(count, MOST_REMEMBERED)).round().long()


class Compared(NamedTuple):
    """What the stages of retrieval pass on."""

    x: Tensor  # features of the batch and, below them, of the training rows to compare it with, (B + K, ...)
    own: Tensor  # which remembered row each row of the batch is, or -1, (B,)
    drawn: Tensor  # which remembered rows it is compared with, (K,)


class RetrievalInputs(nn.Module):
    """First stage: rows, and those that they are compared with, to embedded features.

    In training mode these are a random part of the remembered rows, in eval mode all.

    Args:
        features: F of a row.
        numbers: which of them are numbers.
        remembered: R, training rows that are remembered.
    """

    def __init__(self, features: int, numbers: Sequence[int], remembered: int) -> None:
        super().__init__()
        most = min(MOST_EMBEDDED, MOST_PERIODIC // remembered)
        self.features = Features(features, numbers, Periodic, PERIODIC, most)
        self.remembered: Tensor
        self.register_buffer("remembered", torch.zeros(remembered, features))

    def describe(self, x: Tensor, y: Tensor) -> None:
        """Remembers training rows (N, F)."""
        self.features.describe(x, y)
        self.remembered.copy_(x[remembered_rows(len(x))])

    def forward(self, rows: Rows) -> Compared:
        """To features (B + K, D)."""
        x, own = rows if isinstance(rows, tuple) else (rows, torch.full_like(rows[:, 0], -1))
        count, drawn = len(self.remembered), torch.arange(len(self.remembered), device=x.device)
        if self.training:
            drawn = torch.randperm(count, device=x.device)[: max(2, min(MOST_DRAWN, int(DRAWN_SHARE * count)))]
        return Compared(self.features(torch.cat([x, self.remembered[drawn]])), own, drawn)


class Keys(nn.Module):
    """Second stage: to points in the space in which rows are compared.

    Args:
        inp: D.
    """

    def __init__(self, inp: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inp, KEY_SIZE)

    def forward(self, rows: Compared) -> Compared:
        """From features (B + K, D) to points (B + K, KEY_SIZE)."""
        return rows._replace(x=self.linear(rows.x))


class Vote(nn.Module):
    """Third stage: the mean of other rows' targets, weighted by the softmax of the negative distances.

    ModernNCA (Ye et al. 2024), after neighbourhood components analysis (Goldberger et al. 2004). A training row has no
    vote on itself.

    Args:
        remembered: R, training rows whose targets are remembered.
        outputs: C; 1 for numbers, else the number of classes, whose logarithmic probabilities come out.
    """

    def __init__(self, remembered: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.targets: Tensor
        self.register_buffer("targets", torch.zeros(remembered, dtype=torch.float32 if outputs == 1 else torch.long))

    def describe(self, x: Tensor, y: Tensor) -> None:
        """Remembers targets (N,): numbers, or class indices."""
        self.targets.copy_(y[remembered_rows(len(y))])

    def forward(self, rows: Compared) -> Tensor:
        """To (B, 1, C)."""
        with torch.autocast(rows.x.device.type, enabled=False):
            points, others = rows.x[: rows.own.shape[0]].float(), rows.x[rows.own.shape[0] :].float()
            nearness = -distances(points, others)
            if self.training:
                itself = rows.own.unsqueeze(1) == rows.drawn
                nearness = nearness.masked_fill(itself, torch.finfo(nearness.dtype).min)
            targets = self.targets[rows.drawn]
            if self.outputs == 1:
                return (nearness.softmax(1) @ targets.unsqueeze(1)).unsqueeze(1)
            votes = nearness.softmax(1) @ F.one_hot(targets, self.outputs).to(nearness.dtype)
            return (votes + 1e-7).log().unsqueeze(1)


def distances(points: Tensor, others: Tensor) -> Tensor:
    """From (B, D) and (K, D) to (B, K); torch.cdist could not be exported for batches of any size."""
    squares = points.square().sum(1, keepdim=True) + others.square().sum(1) - 2 * points @ others.T
    return squares.clamp(min=1e-12).sqrt()


# ---- both together ----


class BothInputs(nn.Module):
    """First stage: what perceptrons see of rows, and what retrieval does.

    Args:
        features: F of a row.
        numbers: which of them are numbers.
        remembered: R, training rows that are remembered.
    """

    def __init__(self, features: int, numbers: Sequence[int], remembered: int) -> None:
        super().__init__()
        self.perceptron = PerceptronInputs(features, numbers)
        self.retrieval = RetrievalInputs(features, numbers, remembered)

    def forward(self, rows: Rows) -> tuple[Tensor, Compared]:
        """To (B, D) and what retrieval compares."""
        return self.perceptron(rows), self.retrieval(rows)


class BothHidden(nn.Module):
    """Second stage: the vote of similar rows, which perceptrons see as one feature more.

    A training row has no vote on itself, so that they learn from honest votes how far to trust them. Their loss does
    not reach the points that are compared.

    Args:
        inputs: the first stage.
        width: units of each hidden layer.
        dropout: part of them that is dropped in training.
        remembered: R.
        outputs: C.
    """

    def __init__(self, inputs: BothInputs, width: int, dropout: float, remembered: int, outputs: int) -> None:
        super().__init__()
        self.keys = Keys(inputs.retrieval.features.size)
        self.vote = Vote(remembered, outputs)
        self.inp = inputs.perceptron.features.size + outputs
        self.perceptrons = SharedPerceptrons(self.inp, width, dropout, MEMBERS)

    def forward(self, inputs: tuple[Tensor, Compared]) -> tuple[Tensor, Tensor]:
        """To (B, M, W + D) and the vote, (B, 1, C)."""
        features, rows = inputs
        vote = self.vote(self.keys(rows))
        return self.perceptrons(torch.cat([features, vote[:, 0].detach()], 1)), vote


class BothOutputs(nn.Module):
    """Third stage: what the perceptrons predict, and the vote.

    Args:
        width: W.
        inp: D.
        outputs: C.
    """

    def __init__(self, width: int, inp: int, outputs: int) -> None:
        super().__init__()
        self.members = MemberOutputs(width, inp, MEMBERS, outputs)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> list[Tensor]:
        """To (B, M, C) and (B, 1, C)."""
        hidden, vote = inputs
        return [self.members(hidden), vote]


# ---- networks ----


class Mean(nn.Module):
    """In training mode the predictions of all members, in eval mode their mean.

    Args:
        members: M of each kind of members.
        shares: of each kind in the mean, which sum to 1.
    """

    def __init__(self, members: Sequence[int], shares: Sequence[float]) -> None:
        super().__init__()
        self.members = sum(members)
        self.shares = tuple(shares)

    def forward(self, predictions: Tensor | list[Tensor]) -> Tensor:
        """From (B, M, C) of each kind to (B * all M, C), or to (B, C); of classes the mean is of probabilities."""
        kinds = predictions if isinstance(predictions, list) else [predictions]
        if self.training:
            return torch.cat(kinds, 1).flatten(0, 1)
        is_number = kinds[0].shape[2] == 1
        means = [(kind if is_number else kind.softmax(2)).mean(1) for kind in kinds]
        total = torch.stack([share * mean for share, mean in zip(self.shares, means, strict=True)]).sum(0)
        return total if is_number else total.clamp(min=1e-12).log()


def build_stages(
    name: str, features: int, numbers: Sequence[int], remembered: int, width: int, dropout: float, outputs: int
) -> list[nn.Module]:
    """Inputs, hidden layers and outputs of a network for rows.

    Args:
        name: both, nca, tabm or mlp.
        features: F of a row.
        numbers: which of them are numbers.
        remembered: training rows that retrieval compares with.
        width: units of a perceptron's hidden layers.
        dropout: part of them that is dropped in training.
        outputs: C; 1 for numbers, else the number of classes.
    """
    if name == "both":
        both = BothInputs(features, numbers, remembered)
        hidden = BothHidden(both, width, dropout, remembered, outputs)
        mean = Mean([MEMBERS, 1], [1 - VOTE_SHARE, VOTE_SHARE])
        return [both, hidden, nn.Sequential(BothOutputs(width, hidden.inp, outputs), mean)]
    if name == "nca":
        retrieval = RetrievalInputs(features, numbers, remembered)
        return [retrieval, Keys(retrieval.features.size), nn.Sequential(Vote(remembered, outputs), Mean([1], [1]))]
    members = {"tabm": MEMBERS, "mlp": 1}[name]
    perceptron = PerceptronInputs(features, numbers)
    inp = perceptron.features.size
    perceptrons = SharedPerceptrons(inp, width, dropout, members)
    return [perceptron, perceptrons, nn.Sequential(MemberOutputs(width, inp, members, outputs), Mean([members], [1]))]


# ---- training ----


class NumberedRows:
    """Features of rows, and which remembered row each is, or -1: indexed by sample numbers (B,) to both.

    Args:
        x: features (N, F).
        remembered: sample numbers of the remembered rows (R,).
    """

    in_memory = True

    def __init__(self, x: Tensor, remembered: Tensor) -> None:
        self.x = x
        self.numbers = torch.full((len(x),), -1)
        self.numbers[remembered] = torch.arange(len(remembered))

    def __getitem__(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[samples], self.numbers[samples]


def count_members(model_list: Sequence[nn.Module]) -> int:
    """How many predictions a network makes for each row in training; 1 for any that has no `Mean`."""
    modules = (module for model in model_list for module in model.modules())
    return next((module.members for module in modules if isinstance(module, Mean)), 1)


def for_members(batch: Any, members: int) -> Any:
    """A training batch with a target for each prediction, those of a row one after another.

    Args:
        batch: rows, and targets (B,).
        members: predictions for each row.
    """
    rows, y = batch
    return rows, y.repeat_interleave(members)


def choose_batch_size(most: int, rows: int) -> int:
    """Rows per batch: so many at most, and of a small table fewer, so that an epoch has some updates."""
    return min(most, max(LEAST_BATCH, rows // LEAST_BATCHES))


def describe_rows(model_list: Sequence[nn.Module], train: Any) -> Any:
    """Gives a network what it must know of the training rows: scales and quantiles of numbers, rows to compare with.

    Args:
        model_list: its parts.
        train: the split to train on.

    Returns:
        The split, whose inputs also say which remembered row each is, if the network compares rows.

    Raises:
        UserError: the network needs to know its training rows, and they are in no `Split`.
    """
    kinds = (PerceptronInputs, RetrievalInputs, Vote)
    modules = [module for model in model_list for module in model.modules() if isinstance(module, kinds)]
    if not modules:
        return train
    if not isinstance(train, Split):
        raise UserError(
            f"the network needs a Split to train on, not a {type(train).__name__}; see load_data in data.py"
        )
    x, y = train.x[train.indices], train.y[train.indices]
    for module in modules:
        module.describe(x, y)
    seen = [module.features for module in modules if not isinstance(module, Vote)]
    if any(isinstance(features.embedding, AsTheyAre) for features in seen):
        count = len(seen[0].numbers)
        part = "" if all(isinstance(features.embedding, AsTheyAre) for features in seen) else " to compare rows"
        print(f"{count:,} numbers in {len(x):,} rows are many: they are not embedded{part}")
    if not any(isinstance(module, Vote) for module in modules):
        return train
    return Split(NumberedRows(train.x, train.indices[remembered_rows(len(train))]), train.y, train.indices)
