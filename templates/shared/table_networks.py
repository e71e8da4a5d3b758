"""Networks for rows of a table: perceptrons that share weights, the vote of similar training rows, and both together.

Each is three stages: inputs, hidden layers, outputs. In training mode the last one gives the predictions of all members
for each row, one after another, so that each has a loss of its own; in eval mode their mean. How they see numbers is in
number_embeddings.py.

Rows are features, as `encode` in columns.py makes them; in training also which remembered rows they are.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import default_collate

from engine.data.splits import Split
from engine.runtime.errors import UserError
from number_embeddings import EMBEDDED, PERIODIC, AsTheyAre, Features, Periodic, PiecewiseLinear

MEMBERS = 8  # perceptrons that share weights
MOST_EMBEDDED = 2048  # numbers of a row; of more none is embedded, which bounds weights
MOST_PERIODIC = 4_000_000  # numbers of all remembered rows; of more none is, which bounds memory: each is 64 sines
KEY_SIZE = 128  # of the space in which rows are compared
MOST_REMEMBERED = 20_000  # training rows that are compared with
DRAWN_SHARE, MOST_DRAWN = 0.5, 4096  # of these, in each update
VOTE_SHARE = 1 / 3  # of the vote in the mean with perceptrons
LEAST_BATCHES, LEAST_BATCH = 8, 16  # of an epoch, unless they had fewer rows than these
EPOCHS, LEAST_EPOCHS = 60, 10  # of a few rows, and of very many
MOST_SEEN = 1_200_000  # rows in all epochs, unless that is fewer than LEAST_EPOCHS


Rows = Tensor | tuple[Tensor, Tensor]  # features (B, F); or these, and which remembered row each is or -1, (B,)


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
            return (x.float().transpose(0, 1) @ self.weight).transpose(0, 1) + self.bias


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


def choose_epochs(rows: int) -> int:
    """Epochs to train for: EPOCHS, fewer if there are very many rows."""
    return max(LEAST_EPOCHS, min(EPOCHS, MOST_SEEN // rows))


def describe_rows(model_list: Sequence[nn.Module], train: Any) -> Any:
    """Gives a network what it must know of the training rows: scales and quantiles of numbers, rows to compare with.

    Args:
        model_list: its parts.
        train: the split to train on.

    Returns:
        The split, whose inputs also say which remembered row each is, if the network compares rows.

    Raises:
        UserError: the network compares rows, and they are in no `Split`.
    """
    kinds = (PerceptronInputs, RetrievalInputs, Vote)
    modules = [module for model in model_list for module in model.modules() if isinstance(module, kinds)]
    if not modules:
        return train
    compares = any(isinstance(module, Vote) for module in modules)
    if compares and not isinstance(train, Split):
        raise UserError(
            f"this network compares rows, and needs a Split to train on, not a {type(train).__name__}: see load_data "
            "in data.py, or give --backbone tabm, which takes any Dataset"
        )
    if isinstance(train, Split):
        x, y = train.x[train.indices], train.y[train.indices]
    else:
        x, y = default_collate([train[number] for number in range(len(train))])
    for module in modules:
        module.describe(x, y)
    seen = [module.features for module in modules if not isinstance(module, Vote)]
    if any(isinstance(features.embedding, AsTheyAre) for features in seen):
        count = len(seen[0].numbers)
        part = "" if all(isinstance(features.embedding, AsTheyAre) for features in seen) else " to compare rows"
        print(f"{count:,} numbers in {len(x):,} rows are many: they are not embedded{part}")
    if not compares:
        return train
    return Split(NumberedRows(train.x, train.indices[remembered_rows(len(train))]), train.y, train.indices)
