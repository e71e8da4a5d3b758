"""Data loading: sample order as a function of (seed, epoch), whole batches at a time, a seeded hold-out."""

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from . import UserError
from .seeding import epoch_generator

T = TypeVar("T")


class EpochBatches(Sampler[list[int]]):
    """Every sample once, in batches whose order depends on (seed, epoch) and on nothing else; the last may be short.

    Of three and more, it never is a single sample, which batch normalisation cannot train on: it gets one from before.
    """

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of that epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.length, generator=epoch_generator(self.seed, self.epoch)).tolist()
        ends = list(range(self.batch_size, self.length, self.batch_size))
        if ends and self.length - ends[-1] == 1 and self.batch_size > 2:
            ends[-1] -= 1
        for start, end in zip([0, *ends], [*ends, self.length], strict=True):
            yield order[start:end]

    def __len__(self) -> int:
        return math.ceil(self.length / self.batch_size)


def set_epoch(loader: Iterable[Any], epoch: int) -> None:
    """Tells the loader's samplers and data set which epoch begins, if they want to know it."""
    for name in ("sampler", "batch_sampler", "dataset"):
        part: Any = getattr(loader, name, None)
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)


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

    def batches(self, size: int) -> list[list[int]]:
        """The batches of an evaluation, by index: in order, none left out, the last may be short."""
        return [list(range(start, min(start + size, len(self)))) for start in range(0, len(self), size)]


def as_is(batch: T) -> T:
    """Collates a batch that its data set has made whole already."""
    return batch


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
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=as_is, pin_memory=pin)


def eval_loader(dataset: Rows, batch_size: int, workers: int, pin: bool) -> DataLoader[Any]:
    """The data set's own batches, always the same; nothing is left out."""
    batches = dataset.batches(batch_size)
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=as_is, pin_memory=pin)


def loaders(
    data: dict[str, Rows], batch_size: int, seed: int, workers: int, device: torch.device
) -> tuple[DataLoader[Any], DataLoader[Any], Any]:
    """Of train, val and test; that of test is empty where there is none."""
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
