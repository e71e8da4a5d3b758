"""Where tensors live and in what precision they are multiplied."""

import ctypes
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from . import UserError

AS_IT_IS: AbstractContextManager[Any] = nullcontext()  # made once, since it is entered in every update
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is the accelerator where there is one, else the CPU.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {name!r} is not available here; use auto, cpu, cuda, cuda:1 or mps") from error


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # The public torch.cpu.get_capabilities() is newer than the oldest torch that is supported.
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return False


def pick_precision(name: str, device: torch.device) -> str:
    """The precision of that name; "auto" is bf16 where the device has it in hardware, else fp32.

    Raises:
        UserError: an unknown name.
    """
    if name == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    if name not in DTYPES:
        raise UserError(f"precision {name!r} is unknown; choose one of auto, {', '.join(DTYPES)}")
    return name


def keep_freed_memory(device: torch.device) -> None:
    """Where a CPU computes, has glibc keep what is freed for the next tensors, as torch itself does on GPUs.

    It would give the memory of an update back to the system, which clears it anew for the next: a tenth of the time of
    a convolutional network. The process keeps the most memory that it ever needed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" and device.type == "cpu" else None
    if mallopt:
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, at its upper limit: larger blocks are still mapped one by one
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: nothing else is given back


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Runs matrix products and convolutions in `precision`; fp32 changes nothing."""
    if precision == "fp32":  # a disabled torch.autocast costs 2 us
        return AS_IT_IS
    return torch.autocast(device.type, DTYPES[precision])


def grad_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Keeps small fp16 gradients from vanishing; in the other precisions it passes everything through."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with all its tensors on the device; tuples, lists and dicts keep their form."""
    match batch:
        case torch.Tensor():
            return batch if batch.device == device else batch.to(device, non_blocking=True)
        case tuple() | list():
            moved = [to_device(value, device) for value in batch]
            return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
        case dict():
            return {key: to_device(value, device) for key, value in batch.items()}
    return batch


def num_samples(batch: Any) -> int:
    """The number of samples in a batch: the length of its first tensor.

    Raises:
        UserError: the batch holds no tensor.
    """
    match batch:
        case torch.Tensor():
            return batch.shape[0]
        case tuple() | list() if batch:
            return num_samples(batch[0])
        case dict():
            return num_samples(list(batch.values()))
    raise UserError(f"a batch of type {type(batch).__name__} starts with no tensor: its samples cannot be counted")
