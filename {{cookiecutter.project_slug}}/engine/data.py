"""Data loading: sample order as a function of (seed, epoch), whole batches at a time, a seeded hold-out."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from .seeding import epoch_generator

T = TypeVar("T")


class EpochSampler(Sampler[int]):
    """Every sample once, in an order that depends on (seed, epoch) and on nothing else."""

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of that epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self.length, generator=epoch_generator(self.seed, self.epoch)).tolist())

    def __len__(self) -> int:
        return self.length


def set_epoch(loader: Iterable[Any], epoch: int) -> None:
    """Tells the loader's sampler and data set which epoch begins, where they want to know it."""
    for name in ("sampler", "dataset"):
        part: Any = getattr(loader, name, None)
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)


def as_is(batch: T) -> T:
    """Collates a batch that its data set has made whole already."""
    return batch


def train_loader(dataset: Dataset[Any], batch_size: int, seed: int, workers: int, pin: bool) -> DataLoader[Any]:
    """Shuffled batches from a data set whose `__getitems__` returns a whole batch; the last may be short.

    Args:
        dataset: map-style, with a length.
        batch_size: samples per batch.
        seed: of the order, which differs in every epoch.
        workers: processes that load; 0 loads in the training process.
        pin: whether batches are put where a GPU can fetch them by itself.
    """
    sampler = EpochSampler(len(dataset), seed)  # type: ignore[arg-type]
    return DataLoader(dataset, batch_size, sampler=sampler, num_workers=workers, collate_fn=as_is, pin_memory=pin)


def eval_loader(dataset: Dataset[Any], batch_size: int, workers: int, pin: bool) -> DataLoader[Any]:
    """The same in the data set's own order; nothing is left out."""
    return DataLoader(dataset, batch_size, num_workers=workers, collate_fn=as_is, pin_memory=pin)


def windows(batches: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` batches that share one update; the last list may be shorter."""
    rest = iter(batches)
    while window := list(islice(rest, size)):
        yield window


def hold_out(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits sample numbers into (kept, held out), the same way for the same seed, `fraction` of every class held out.

    Args:
        labels: class number of every sample, shape (N,).
        fraction: part held out, 0 to 1; a class with two or more samples gives at least one and keeps at least one.
        seed: chooses the samples.
    """
    order = torch.randperm(len(labels), generator=epoch_generator(seed, 0))
    held: list[Tensor] = []
    for label in labels.unique():
        members = order[labels[order] == label]
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held.append(members[:count])
    held_out = torch.cat(held).sort().values
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[held_out] = False
    return kept.nonzero().flatten(), held_out
