"""Data loading: sample order as a function of (seed, epoch), whole batches at a time, a seeded hold-out."""

import atexit
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from . import UserError
from .seeding import epoch_generator
from .shares import Batches, Share, shares_of
from .stops import end_workers, held_back, leave_signals_to_parent

T = TypeVar("T")


class EpochBatches(Batches):
    """Every sample once, in batches whose order depends on (seed, epoch) and on nothing else; the last may be short.

    It is never a single sample, which batch normalisation cannot train on, unless all are: then it takes one from the
    batch before it or, where that has two, joins it.

    Args:
        length: number of samples.
        batch_size: samples per batch, over all processes.
        seed: of the order; 0 or more.
    """

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        self.seed = seed
        self.length = length
        self.ends = [*range(batch_size, length, batch_size), length]
        if length % batch_size == 1 and len(self.ends) > 1:
            shift = [self.ends[-2] - 1] if batch_size > 2 else []
            self.ends[-2:-1] = shift
        self.start_at(0, 0)

    def start_at(self, epoch: int, batch: int) -> None:
        """Chooses the order of that epoch, and the batch that comes first: those before it are not even loaded."""
        self.epoch = epoch
        self.first = batch

    def whole(self) -> Iterator[list[int]]:
        """The batches of all processes together, in the order of the chosen epoch."""
        order = torch.randperm(self.length, generator=epoch_generator(self.seed, self.epoch)).tolist()
        for start, end in self.pieces():
            yield order[start:end]

    def sizes(self) -> list[int]:
        """Their numbers of samples."""
        return [end - start for start, end in self.pieces()]

    def pieces(self) -> list[tuple[int, int]]:
        """Where each batch from the chosen one on begins and ends in the order of the epoch."""
        return list(zip([0, *self.ends], self.ends, strict=False))[self.first :]

    def __len__(self) -> int:
        return len(self.ends)


def batches_of(loader: Iterable[Any], epoch: int, first: int) -> Iterator[Share]:
    """The loader's batches of an epoch from number `first` on; its sampler and data set are told the epoch."""
    sampler: Any = getattr(loader, "batch_sampler", None)
    skips = hasattr(sampler, "start_at")
    if skips:
        sampler.start_at(epoch, first)
    for name in ("sampler", "batch_sampler", "dataset"):
        part: Any = getattr(loader, name, None)
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
    batches = iter(loader)
    for _ in range(0 if skips else first):
        next(batches)
    if not isinstance(sampler, Batches):
        batches = chain([next(batches)], batches)  # a shuffle is drawn now, while all processes draw the same
    return shares_of(loader, batches)


class Rows(Dataset[Any]):
    """Whole batches of samples: the chosen `rows` of inputs `x` and truths `y`.

    Args:
        x: inputs that a tensor of row numbers, shape (B,), indexes to a batch: a tensor, or an object that reads files.
        y: truths, indexed the same way.
        rows: numbers of the samples that belong to this set, shape (N,).
    """

    def __init__(self, x: Any, y: Any, rows: Tensor) -> None:
        self.x = x
        self.y = y
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> tuple[Any, Any]:
        rows = self.rows[indices]
        return self.x[rows], self.y[rows]

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        x, y = self.__getitems__([index])
        return x[0], y[0]

    def some(self, count: int) -> tuple[Any, Any]:
        """A batch of so many samples to be looked at, from all over the set and always the same."""
        return self.__getitems__(torch.randperm(len(self), generator=epoch_generator(0, 0))[:count].tolist())

    def batches(self, size: int) -> list[list[int]]:
        """The batches of an evaluation, by index: in order, none left out, the last may be short."""
        return [list(range(start, min(start + size, len(self)))) for start in range(0, len(self), size)]


def as_is(batch: T) -> T:
    """Collates a batch that its data set has made whole already."""
    return batch


class Loader(DataLoader[Any]):
    """A DataLoader whose workers leave signals to the process that trains, and end with it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("worker_init_fn", leave_signals_to_parent)
        super().__init__(*args, **kwargs)

    def __iter__(self) -> Any:
        if self.num_workers:
            atexit.register(end_workers)
        with held_back():
            return super().__iter__()


def train_loader(dataset: Rows, batch_size: int, seed: int, workers: int, pin: bool) -> DataLoader[Any]:
    """Shuffled batches.

    Args:
        dataset: one whose `__getitems__` makes whole batches.
        batch_size: samples per batch.
        seed: of the order, which differs in every epoch.
        workers: processes that load; 0 loads in the training process.
        pin: whether batches are put where a GPU can fetch them by itself.
    """
    batches = EpochBatches(len(dataset), batch_size, seed)
    return Loader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=as_is, pin_memory=pin)


def eval_loader(dataset: Rows, batch_size: int, workers: int, pin: bool) -> DataLoader[Any]:
    """The data set's own batches, always the same; nothing is left out."""
    batches = Batches(dataset.batches(batch_size))
    return Loader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=as_is, pin_memory=pin)


def loaders(
    data: dict[str, Rows], batch_size: int, seed: int, workers: int, device: torch.device
) -> tuple[DataLoader[Any], DataLoader[Any], Any]:
    """Of train, val and test; that of test is empty where there is none.

    Args:
        data: the samples of "train", "val" and, where there is one, "test".
        batch_size: samples per batch, over all processes.
        seed: of the order in which train is read.
        workers: processes that load; 0 loads in the training process.
        device: where batches go.
    """
    pin = device.type == "cuda"
    return (
        train_loader(data["train"], batch_size, seed, workers, pin),
        eval_loader(data["val"], batch_size, workers, pin),
        eval_loader(data["test"], batch_size, workers, pin) if "test" in data else [],
    )


def windows(batches: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` batches that share one update; the last list may be shorter."""
    rest = iter(batches)
    while window := list(islice(rest, size)):
        yield window


def hold_out(groups: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits sample numbers into (kept, held out), the same way for the same seed, `fraction` of every group held out.

    Args:
        groups: number of every sample's group, shape (N,): its class, or 0 where all are alike.
        fraction: part held out, 0 to 1; a group with two or more samples gives at least one and keeps at least one.
        seed: chooses the samples.
    """
    order = torch.randperm(len(groups), generator=epoch_generator(seed, 0))
    held: list[Tensor] = []
    for group in groups.unique():
        members = order[groups[order] == group]
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held.append(members[:count])
    held_out = torch.cat(held).sort().values
    kept = torch.ones(len(groups), dtype=torch.bool)
    kept[held_out] = False
    return kept.nonzero().flatten(), held_out


def choose_rows(groups: dict[str, Tensor], fraction: float, seed: int) -> dict[str, tuple[str, Tensor]]:
    """For train, val and test, where there is one: the split that it takes its samples from, and their numbers.

    Without a val split a part of train is held out; test never chooses the model.

    Args:
        groups: of each split that was found, the number of every sample's group, shape (N,).
        fraction: part of train to hold out.
        seed: chooses the samples.

    Raises:
        UserError: nothing can be held out.
    """
    rows = {name: (name, torch.arange(len(members))) for name, members in groups.items()}
    if "val" not in rows:
        kept, held_out = hold_out(groups["train"], fraction, seed)
        if not len(held_out):
            raise UserError("train has too few samples to hold some out; add samples, or a val split")
        rows |= {"train": ("train", kept), "val": ("train", held_out)}
    return {name: rows[name] for name in ("train", "val", "test") if name in rows}
