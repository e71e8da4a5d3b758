"""Which samples of every batch are this process's, where several train together; all of them, where it is alone."""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils.data import Sampler

from . import UserError
from .devices import num_samples
from .distributed import rank, world_size

T = TypeVar("T")


def bounds(samples: int) -> tuple[int, int]:
    """The samples, from the first number to before the second, of a batch of so many that are this process's share.

    Shares are pieces of the batch in the order of ranks, none of a single sample, which batch normalisation cannot
    train on, as long as there are two. So the last processes may have none; the numbers are then equal.
    """
    sharing = min(world_size(), max(1, samples // 2))
    start, end = (samples * min(rank() + i, sharing) // sharing for i in (0, 1))
    return start, end


def share(batch: list[T]) -> list[T]:
    """This process's samples of a batch. One that has none gets two that do not count: all must take part."""
    start, end = bounds(len(batch))
    return batch[start:end] or batch[:2]


class Share(NamedTuple):
    """A batch, or of several processes that train together this one's share of it."""

    batch: Any
    own: int  # samples that count: 0 in one that is there because all processes must take part
    whole: int  # samples of the batch over all processes


class Batches(Sampler[list[int]]):
    """Batches of samples, by index; of each, this process's share."""

    def __init__(self, batches: list[list[int]]) -> None:
        self.batches = batches

    def whole(self) -> Iterator[list[int]]:
        """The batches of all processes together."""
        return iter(self.batches)

    def sizes(self) -> list[int]:
        """Their numbers of samples."""
        return [len(batch) for batch in self.batches]

    def __iter__(self) -> Iterator[list[int]]:
        return map(share, self.whole())

    def __len__(self) -> int:
        return len(self.batches)


def shares_of(loader: Any, batches: Iterator[Any]) -> Iterator[Share]:
    """This process's share of every batch of a loader: one of `loaders` loads no more, of any other a part is cut out.

    Raises:
        UserError: a batch that cannot be cut.
    """
    sampler = getattr(loader, "batch_sampler", None)
    if world_size() == 1:
        for batch in batches:
            size = num_samples(batch)
            yield Share(batch, size, size)
    elif isinstance(sampler, Batches):
        for size, batch in zip(sampler.sizes(), batches, strict=True):
            start, end = bounds(size)
            yield Share(batch, end - start, size)
    else:
        for batch in batches:
            start, end = bounds(size := num_samples(batch))
            yield Share(cut(batch, slice(start, end) if start < end else slice(2), size), end - start, size)


def cut(batch: Any, rows: slice, size: int) -> Any:
    """The rows of every tensor in a batch of `size` samples; a UserError for anything else in it."""
    match batch:
        case torch.Tensor() if batch.dim() and len(batch) == size:
            return batch[rows]
        case tuple() | list():
            parts = [cut(value, rows, size) for value in batch]
            return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
        case dict():
            return {key: cut(value, rows, size) for key, value in batch.items()}
    raise UserError(
        f"a batch of {size} samples holds a {type(batch).__name__} that cannot be divided among processes; "
        "make the loaders with engine.data.loaders"
    )
