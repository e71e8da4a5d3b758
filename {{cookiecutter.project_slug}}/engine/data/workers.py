"""Processes that load batches: how a batch reaches the process that trains, and what happens if it cannot."""

import atexit
import os
import pickle
import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

from torch.utils.data import DataLoader, get_worker_info

from ..distributed.batches import tensors_in
from ..runtime.signals import block_signals, ignore_signals, kill_workers

SHARED_MEMORY = "/dev/shm"  # where torch on Linux puts the batches of workers
LEAST_SHARED_MEMORY = 2**20  # bytes; each worker needs some for its locks

atexit.register(kill_workers)  # or Python would wait at its end for workers that ignore its SIGTERM


class Loader(DataLoader[Any]):
    """A DataLoader whose workers leave signals to the process that trains, end with it, and can do without /dev/shm.

    Workers hand batches over in shared memory, of which a Docker container has 64 MB. A batch that does not fit there
    comes through a pipe, and where not even workers can start, batches are loaded without them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("worker_init_fn", ignore_signals)
        super().__init__(*args, **kwargs)
        self.collate_fn = SharedCollate(self.collate_fn)

    def __iter__(self) -> Any:
        if self.num_workers and shared_memory_is_full():
            note_short_memory("batches are loaded by the process that trains")
            self.num_workers = 0
        with block_signals():
            return map(self._received, super().__iter__())

    def _received(self, batch: Any) -> Any:
        """The batch, collated here if it came through a pipe."""
        if not isinstance(batch, PickledSamples):
            return batch
        note_short_memory("batches that do not fit there come through a pipe")
        return self.collate_fn(pickle.loads(batch))


def shared_memory_is_full() -> bool:
    """Whether workers cannot even start; never on systems without /dev/shm, which have other ways."""
    return os.path.isdir(SHARED_MEMORY) and shutil.disk_usage(SHARED_MEMORY).free < LEAST_SHARED_MEMORY


@cache
def note_short_memory(consequence: str) -> None:
    """Says, once in a process, that there is too little shared memory, what follows, and how to get more."""
    total, _, free = (size >> 20 for size in shutil.disk_usage(SHARED_MEMORY))
    print(
        f"note: {SHARED_MEMORY} has {free} MB free of {total}: {consequence}, which takes longer; "
        "docker run --shm-size=2g gives it more"
    )


class PickledSamples(bytes):
    """The samples of a batch, not collated yet, that a worker found no shared memory for."""


class SharedCollate:
    """Collates samples to a batch and, in a worker, puts its tensors into shared memory.

    torch would do so in a thread that cannot report a failure: the batch would be lost, and waited for without end.

    Args:
        collate: from a list of samples, or what the data set's `__getitems__` returns, to a batch.
    """

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: Any) -> Any:
        if get_worker_info() is None:
            return self.collate(samples)
        try:
            batch = self.collate(samples)
            for tensor in tensors_in(batch):
                tensor.share_memory_()
            return batch
        except RuntimeError as error:
            if "shared memory" not in str(error):
                raise
            return PickledSamples(pickle.dumps(samples))
