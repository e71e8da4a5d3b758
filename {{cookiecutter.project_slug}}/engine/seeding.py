"""Randomness as a function of (seed, epoch): a resumed run draws the numbers that it would have drawn anyway."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def epoch_seed(seed: int, epoch: int) -> int:
    """One seed per epoch; no two pairs below 2**20 epochs and 2**43 seeds share one."""
    return (seed << 20) + epoch


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """A generator of its own on the CPU, for sample order and augmentation."""
    return torch.Generator().manual_seed(epoch_seed(seed, epoch))


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy (where it is loaded) and torch on every device."""
    random.seed(seed)
    torch.manual_seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed % 2**32)


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """Gives every generator, the device's too, back in the state in which it was."""
    python, numpy = random.getstate(), sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy else None
    torch_state = torch.get_rng_state()
    on_device = torch.get_device_module(device) if device.type != "cpu" else torch
    which = [device] if device.type == "cuda" else []  # the others have one generator
    device_state = on_device.get_rng_state(*which)
    try:
        yield
    finally:
        random.setstate(python)
        if numpy and numpy_state:
            numpy.random.set_state(numpy_state)
        on_device.set_rng_state(device_state, *which)
        torch.set_rng_state(torch_state)
