"""Loaders of whole batches, and the batches of an epoch from any loader."""

import atexit
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader

from ..distributed.batches import LocalBatch, cut_ranges, loaded_ranges, whole_batches
from ..distributed.process_group import world_size
from ..runtime.errors import UserError
from ..runtime.signals import block_signals, ignore_signals, kill_workers
from .samplers import EpochSampler, LocalBatchSampler
from .splits import Split

T = TypeVar("T")


class Loader(DataLoader[Any]):
    """A DataLoader whose workers leave signals to the process that trains, and end with it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("worker_init_fn", ignore_signals)
        super().__init__(*args, **kwargs)

    def __iter__(self) -> Any:
        if self.num_workers:
            atexit.register(kill_workers)
        with block_signals():
            return super().__iter__()


class Loaders(NamedTuple):
    """The loaders of a run."""

    train: DataLoader[Any]
    val: DataLoader[Any]
    test: DataLoader[Any] | tuple[()]  # empty if there is no test split


def make_loaders(
    splits: Mapping[str, Split], batch_size: int, seed: int, device: torch.device, workers: int = 0
) -> Loaders:
    """Loaders of the splits: train shuffled in every epoch, val and test in order.

    Args:
        splits: "train", "val" and, if there is one, "test".
        batch_size: samples per batch, over all processes.
        seed: of the order in which train is read.
        device: to which batches go; for a GPU they are put into pinned memory.
        workers: processes that load; a split in memory is read by the training process itself.

    Raises:
        UserError: a data set that is no Split.
    """
    for name, split in splits.items():
        if not isinstance(split, Split):
            raise UserError(
                f"{name} is a {type(split).__name__}, which make_loaders cannot read; give it a Split, or load it by "
                "Loader(dataset, batch_size, shuffle=True) from engine/data/loaders.py"
            )

    def loader(name: str, sampler: LocalBatchSampler) -> DataLoader[Any]:
        split = splits[name]
        return Loader(
            split,
            batch_sampler=sampler,
            num_workers=0 if split.in_memory else workers,
            collate_fn=_already_a_batch,
            pin_memory=device.type == "cuda",
        )

    return Loaders(
        loader("train", EpochSampler(len(splits["train"]), batch_size, seed)),
        loader("val", LocalBatchSampler(splits["val"].eval_batches(batch_size))),
        loader("test", LocalBatchSampler(splits["test"].eval_batches(batch_size))) if "test" in splits else (),
    )


def _already_a_batch(batch: T) -> T:
    """Collates what `Split.__getitems__` returns."""
    return batch


def train_batches(loader: Iterable[Any], epoch: int, first: int) -> Iterator[LocalBatch]:
    """The batches of an epoch from number `first` on; the loader's sampler and data set are told the epoch."""
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
    if not isinstance(sampler, LocalBatchSampler):
        batches = chain([next(batches)], batches)  # a shuffle is drawn now, while all processes draw the same
    return local_batches(loader, batches)


def local_batches(loader: Iterable[Any], batches: Iterable[Any]) -> Iterator[LocalBatch]:
    """This process's range of every batch: one of `make_loaders` loads nothing else, of any other it is cut out.

    Raises:
        UserError: a batch that cannot be cut.
    """
    sampler = getattr(loader, "batch_sampler", None)
    if world_size() == 1:
        return whole_batches(batches)
    if isinstance(sampler, LocalBatchSampler):
        return loaded_ranges(batches, sampler.sizes())
    return cut_ranges(batches)


def grouped(batches: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` batches, the micro-batches of one update; the last list may be shorter."""
    rest = iter(batches)
    while group := list(islice(rest, size)):
        yield group
