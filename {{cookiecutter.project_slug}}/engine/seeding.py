"""Randomness as a function of (seed, epoch): a resumed run draws the numbers that it would have drawn anyway."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def epoch_seed(seed: int, epoch: int) -> int:
    """One seed per epoch; no two pairs below 2**20 epochs and 2**43 seeds share one."""
    return (seed << 20) + epoch


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """A generator of its own on the CPU, for sample order and augmentation."""
    return torch.Generator().manual_seed(epoch_seed(seed, epoch))


def seed_everything(seed: int, stream: int = 0) -> None:
    """Seeds Python, NumPy (where it is loaded) and torch on every device; other numbers of `stream`, other draws."""
    seed = (seed + stream * 0x9E3779B97F4A7C15) % 2**64  # far from the seeds of other epochs (Steele et al. 2014)
    random.seed(seed)
    torch.manual_seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed % 2**32)


def random_state(device: torch.device) -> dict[str, Any]:
    """Where every generator stands, the device's too; of plain types."""
    state = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if numpy := sys.modules.get("numpy"):
        kind, words, *rest = numpy.random.get_state()
        state["numpy"] = (kind, words.tolist(), *rest)
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state(*only(device))
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Puts every generator back to where it stood; that of a device of another type stays."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if (numpy := sys.modules.get("numpy")) and "numpy" in state:
        numpy.random.set_state(state["numpy"])
    if device.type in state:
        torch.get_device_module(device).set_rng_state(state[device.type], *only(device))


def only(device: torch.device) -> list[torch.device]:
    """The argument that chooses one of several CUDA devices; the other types have one generator."""
    return [device] if device.type == "cuda" else []


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """Gives every generator, the device's too, back in the state in which it was."""
    state = random_state(device)
    try:
        yield
    finally:
        set_random_state(state, device)
