"""Which samples make which batch: an order that is a function of (seed, epoch), and each process's range of a batch."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from ..distributed.batches import local_indices
from ..runtime.seeding import epoch_generator


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
