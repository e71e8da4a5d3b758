"""Random numbers as a function of (seed, epoch), so that a resumed run draws what it would have drawn anyway.

seeded by              what                                                 in
seed                   initial weights                                      Trainer.__init__
seed, epoch            all else in an epoch: dropout (and rank), shuffling  Trainer._start_epoch
seed, epoch            order of samples                                     EpochSampler
seed, epoch            samples of each group, if they are balanced          BalancedSplit
seed, epoch, sample    augmentation                                         set_epoch, SeededSamples
seed, 0                held-out samples, folds, synthetic data              data/splits.py, data.py
"""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for each epoch; distinct for every seed below 2**43 and epoch below 2**20."""
    return (seed << 20) + epoch


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """A CPU generator of its own, for the order of samples and augmentation."""
    return torch.Generator().manual_seed(epoch_seed(seed, epoch))


def seed_everything(seed: int, stream: int = 0) -> None:
    """Seeds Python, NumPy (if it is imported) and torch on every device.

    Args:
        seed: any integer.
        stream: which of several independent sequences, such as the rank of a process.
    """
    seed = (seed + stream * 0x9E3779B97F4A7C15) % 2**64  # far from the seeds of other epochs (Steele et al. 2014)
    torch.manual_seed(seed)
    _seed_cpu(seed)


def seed_sample(seed: int, epoch: int, position: int) -> None:
    """Seeds what a data set draws from for a sample: Python, NumPy (if it is imported) and torch on the CPU."""
    _seed_cpu((epoch_seed(seed, epoch) + (2**32 + position) * 0x9E3779B97F4A7C15) % 2**64)


def _seed_cpu(seed: int) -> None:
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed % 2**32)


def rng_state(device: torch.device) -> dict[str, Any]:
    """The states of the generators of Python, NumPy, torch and the device, as plain types and tensors."""
    state = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if numpy := sys.modules.get("numpy"):
        kind, words, *rest = numpy.random.get_state()
        state["numpy"] = (kind, words.tolist(), *rest)
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state(*_cuda_only(device))
    return state


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Restores what `rng_state` returned; the state of a device of another type is left out."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if (numpy := sys.modules.get("numpy")) and "numpy" in state:
        numpy.random.set_state(state["numpy"])
    if device.type in state:
        torch.get_device_module(device).set_rng_state(state[device.type], *_cuda_only(device))


def _cuda_only(device: torch.device) -> list[torch.device]:
    """The argument that chooses a CUDA device; the other device types have one generator and take none."""
    return [device] if device.type == "cuda" else []


@contextmanager
def preserve_rng_state(device: torch.device) -> Iterator[None]:
    """Restores every generator, the device's included, when the block ends."""
    state = rng_state(device)
    try:
        yield
    finally:
        set_rng_state(state, device)
