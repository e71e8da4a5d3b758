"""The order of samples, loaders of whole batches, and the batches of an epoch from any loader.

The order is a function of (seed, epoch); each process gets its range of every batch.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from ..distributed.batches import LocalBatch, cut_ranges, loaded_ranges, local_indices, tensors_in, whole_batches
from ..distributed.process_group import world_size
from ..runtime.errors import UserError
from ..runtime.seeding import epoch_generator, seed_everything
from .splits import SeededSamples, Split, batches_in_order
from .workers import Loader

T = TypeVar("T")
SAMPLES_COMPARED = 8  # of a data set, before a run continues


class LocalBatchSampler(Sampler[list[int]]):
    """Batches of sample indices, the same in every epoch; each process gets its range of each.

    Args:
        batches: the indices of each batch, over all processes.
    """

    def __init__(self, batches: list[list[int]]) -> None:
        self.batches = batches

    def global_batches(self) -> Iterator[list[int]]:
        """The batches over all processes."""
        return iter(self.batches)

    def sizes(self) -> list[int]:
        """Their numbers of samples."""
        return [len(batch) for batch in self.batches]

    def __iter__(self) -> Iterator[list[int]]:
        return map(local_indices, self.global_batches())

    def __len__(self) -> int:
        return len(self.batches)


class EpochSampler(LocalBatchSampler):
    """Every sample once per epoch, in batches whose order depends on (seed, epoch) alone; the last may be smaller.

    The last batch is never a single sample, on which batch normalisation cannot train, unless all batches are: it takes
    one from the batch before it or, if that has two, joins it.

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
            self.ends[-2:-1] = [self.ends[-2] - 1] if batch_size > 2 else []
        self.start_at(0, 0)

    def start_at(self, epoch: int, batch: int) -> None:
        """Chooses the epoch, and the batch that comes first: those before it are not even loaded."""
        self.epoch = epoch
        self.first = batch

    def global_batches(self) -> Iterator[list[int]]:
        """The batches over all processes, in the order of the epoch."""
        order = torch.randperm(self.length, generator=epoch_generator(self.seed, self.epoch)).tolist()
        for start, end in self._ranges():
            yield order[start:end]

    def sizes(self) -> list[int]:
        """Their numbers of samples."""
        return [end - start for start, end in self._ranges()]

    def _ranges(self) -> list[tuple[int, int]]:
        """Where each batch, from the first one on, starts and ends in the order of the epoch."""
        return list(zip([0, *self.ends], self.ends, strict=False))[self.first :]

    def __len__(self) -> int:
        return len(self.ends)


class Loaders(NamedTuple):
    """The loaders of a run."""

    train: DataLoader[Any]
    val: DataLoader[Any]
    test: DataLoader[Any] | tuple[()]  # empty if there is no test split


def make_loaders(
    splits: Mapping[str, Dataset[Any]], batch_size: int, seed: int, device: torch.device, workers: int = 0
) -> Loaders:
    """Loaders of the splits: train shuffled in every epoch, val and test in order.

    A split is any Dataset with a length. Its samples are collated to batches as by a DataLoader, or by its method
    `collate_fn`, and what it draws for a sample follows from (seed, epoch, sample): see `SeededSamples`. A `Split` is
    read a whole batch at a time.

    Args:
        splits: "train", "val" and, if there is one, "test".
        batch_size: samples per batch, over all processes.
        seed: of the order in which train is read.
        device: to which batches go; for a GPU they are put into pinned memory.
        workers: processes that load; a split in memory is read by the training process itself.

    Raises:
        UserError: train or val is missing, or a data set has no length or no sample.
    """
    for name in ("train", "val", *splits):
        if not length_of(splits.get(name, ())):
            what = f"is a {type(splits[name]).__name__} without samples or length" if name in splits else "is missing"
            raise UserError(
                f"the split {name!r} {what}; make_loaders needs train and val, each a Dataset with a length"
            )

    def loader(name: str, sampler: LocalBatchSampler) -> DataLoader[Any]:
        split: Any = splits[name]
        draws = not isinstance(split, (Split, TensorDataset))
        return Loader(
            SeededSamples(split, seed) if draws else split,
            batch_sampler=sampler,
            num_workers=0 if getattr(split, "in_memory", False) else workers,
            collate_fn=_already_a_batch if isinstance(split, Split) else getattr(split, "collate_fn", None),
            pin_memory=device.type == "cuda",
        )

    def in_order(name: str) -> LocalBatchSampler:
        split: Any = splits[name]
        own = hasattr(split, "eval_batches")
        return LocalBatchSampler(split.eval_batches(batch_size) if own else batches_in_order(len(split), batch_size))

    return Loaders(
        loader("train", EpochSampler(length_of(splits["train"]), batch_size, seed)),
        loader("val", in_order("val")),
        loader("test", in_order("test")) if "test" in splits else (),
    )


def in_its_order(split: Split, batch_size: int, device: torch.device, workers: int) -> DataLoader[Any]:
    """A loader of a whole split in its order, on every process; see make_loaders."""
    return Loader(
        split,
        batch_sampler=batches_in_order(len(split), batch_size),
        num_workers=0 if split.in_memory else workers,
        collate_fn=_already_a_batch,
        pin_memory=device.type == "cuda",
    )


def length_of(value: Any) -> int:
    """The length of a list, a data set or a loader; 0 if it has none, like the loader of an IterableDataset."""
    try:
        return len(value)
    except TypeError:
        return 0


def _already_a_batch(batch: T) -> T:
    """Collates what `Split.__getitems__` returns."""
    return batch


def train_batches(loader: Iterable[Any], epoch: int, first: int) -> Iterator[LocalBatch]:
    """The batches of an epoch from number `first` on; the loader's sampler and data set are told the epoch.

    All that is drawn follows from torch's seed: generators of the loader's own are seeded with it.

    Raises:
        UserError: persistent workers, which would keep the data set as it was in the first epoch.
    """
    sampler: Any = getattr(loader, "batch_sampler", None)
    if getattr(loader, "persistent_workers", False) and hasattr(getattr(loader, "dataset", None), "set_epoch"):
        raise UserError(
            "persistent_workers would keep the data set of the first epoch, without set_epoch; leave it out"
        )
    for part in (loader, getattr(loader, "sampler", None)):
        generator = getattr(part, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(torch.initial_seed())
    skips = hasattr(sampler, "start_at")
    if skips:
        sampler.start_at(epoch, first)
    for name in ("sampler", "batch_sampler", "dataset"):
        told: Any = getattr(loader, name, None)
        if hasattr(told, "set_epoch"):
            told.set_epoch(epoch)
    batches = iter(loader)
    for _ in range(0 if skips else first):
        next(batches)
    if not isinstance(sampler, LocalBatchSampler) and (skips or not first):
        batches = chain([next(batches)], batches)  # a shuffle is drawn now, while all processes draw the same
    return local_batches(loader, batches)


def local_batches(loader: Iterable[Any], batches: Iterable[Any]) -> Iterator[LocalBatch]:
    """This process's range of every batch: one of `make_loaders` loads nothing else, of any other it is cut out.

    Raises:
        UserError: a batch that cannot be cut.
    """
    sampler = getattr(loader, "batch_sampler", None)
    batches = iter(batches)  # now, so that no signal breaks off the start of its workers; see StopSignals.awaited
    if world_size() == 1:
        return whole_batches(batches)
    if isinstance(sampler, LocalBatchSampler):
        return loaded_ranges(batches, sampler.sizes())
    return cut_ranges(batches)


def sample_means(loader: Any) -> list[float]:
    """The means of the tensors of some samples of a loader's data set, from all over it, as they are in epoch 0.

    Empty without a data set that can be indexed, or if it gives other numbers when it is read again.
    """
    dataset: Any = getattr(loader, "dataset", None)
    if not length_of(dataset):
        return []
    if hasattr(dataset, "set_epoch"):
        dataset.set_epoch(0)

    def means() -> list[float]:
        seed_everything(0)
        positions = range(0, len(dataset), -(-len(dataset) // SAMPLES_COMPARED))
        samples = [dataset.__getitems__([p]) if hasattr(dataset, "__getitems__") else dataset[p] for p in positions]
        return [tensor.double().nan_to_num().mean().item() for tensor in tensors_in(samples) if tensor.numel()]

    found = means()
    return found if found == means() else []


def grouped(batches: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` batches, the micro-batches of one update; the last list may be shorter."""
    rest = iter(batches)
    while group := list(islice(rest, size)):
        yield group
