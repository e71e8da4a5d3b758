"""How a batch is divided among the processes: each takes a contiguous range of its samples."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..runtime.errors import UserError
from .process_group import rank, world_size

T = TypeVar("T")


class LocalBatch(NamedTuple):
    """This process's range of a batch; the whole batch if there is one process."""

    data: Any
    local_size: int  # samples of it that count; 0 if it only keeps this process in step with the others
    global_size: int  # samples of the batch over all processes


def local_range(samples: int) -> tuple[int, int]:
    """The first sample of this process's range of a batch of so many, and the one after its last.

    Ranges follow the ranks. With two or more samples in the batch every range has at least two or none, since batch
    normalisation cannot train on one; an empty range starts where it ends.
    """
    sharing = min(world_size(), max(1, samples // 2))
    start, end = (samples * min(rank() + i, sharing) // sharing for i in (0, 1))
    return start, end


def local_indices(batch: list[T]) -> list[T]:
    """This process's range of a batch given as a list of indices. An empty one becomes two samples that do not count.

    All processes must take part in every update, since they wait for each other's gradients.
    """
    start, end = local_range(len(batch))
    return batch[start:end] or batch[:2]


def whole_batches(batches: Iterable[Any]) -> Iterator[LocalBatch]:
    """The batches of the only process."""
    for batch in batches:
        size = num_samples(batch)
        yield LocalBatch(batch, size, size)


def loaded_ranges(batches: Iterable[Any], sizes: list[int]) -> Iterator[LocalBatch]:
    """Batches of which this process has loaded its own range alone, and the size of each over all processes."""
    for size, batch in zip(sizes, batches, strict=True):
        start, end = local_range(size)
        yield LocalBatch(batch, end - start, size)


def cut_ranges(batches: Iterable[Any]) -> Iterator[LocalBatch]:
    """This process's range of batches that every process has loaded whole.

    Raises:
        UserError: a batch that cannot be cut.
    """
    for batch in batches:
        start, end = local_range(size := num_samples(batch))
        yield LocalBatch(cut(batch, slice(start, end) if start < end else slice(2), size), end - start, size)


def cut(batch: Any, samples: slice, size: int) -> Any:
    """These samples of every tensor in a batch of `size`; a UserError for anything else in it."""
    match batch:
        case Tensor() if batch.dim() and len(batch) == size:
            return batch[samples]
        case tuple() | list():
            parts = [cut(value, samples, size) for value in batch]
            return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
        case dict():
            return {key: cut(value, samples, size) for key, value in batch.items()}
    raise UserError(
        f"a batch of {size} samples holds a {type(batch).__name__} that cannot be divided among processes; "
        "make the loaders with engine.data.loaders"
    )


def num_samples(batch: Any) -> int:
    """The number of samples in a batch: the length of the first tensor in it.

    Raises:
        UserError: there is no tensor, or it stands in a list of tensors that differ in length.
    """
    first = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if torch.is_tensor(first) and first.dim():
        return first.shape[0]
    lengths = [len(tensor) for tensor in tensors_in(batch) if tensor.dim()]
    if not lengths:
        raise UserError(f"a batch of type {type(batch).__name__} holds no tensor: its samples cannot be counted")
    if isinstance(first, (tuple, list)) and len(set(lengths)) > 1:
        raise UserError(
            f"a batch starts with a list, and its tensors have the lengths {', '.join(map(str, lengths[:4]))}: its "
            "samples cannot be counted; put a tensor with a row for each sample first, such as their numbers"
        )
    return lengths[0]


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """The tensors in tuples, lists and dicts."""
    match batch:
        case Tensor():
            yield batch
        case tuple() | list():
            for value in batch:
                yield from tensors_in(value)
        case dict():
            yield from tensors_in(list(batch.values()))
