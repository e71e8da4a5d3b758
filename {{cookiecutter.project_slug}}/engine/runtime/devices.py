"""Devices and precision: which there are, moving batches, mixed precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from .errors import UserError
from .shortcuts import cpu_has_bf16

NO_CONTEXT: AbstractContextManager[Any] = nullcontext()  # made once, since it is entered in every update
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is the accelerator if there is one, else the CPU.

    Raises:
        UserError: there is no such device.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        torch.zeros((), device=name).item()  # "meta" makes tensors, but has no values
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {name!r} is not available here; use auto, cpu, cuda, cuda:1 or mps") from error


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and cpu_has_bf16()


def pick_precision(name: str, device: torch.device) -> str:
    """The precision of that name; "auto" is bf16 if the device has it in hardware, else fp32.

    Raises:
        UserError: an unknown name.
    """
    if name == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    if name not in DTYPES:
        raise UserError(f"precision {name!r} is unknown; choose one of auto, {', '.join(DTYPES)}")
    return name


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Runs matrix products and convolutions in `precision`; fp32 changes nothing."""
    if precision == "fp32":  # a disabled torch.autocast costs 2 us per update
        return NO_CONTEXT
    return torch.autocast(device.type, DTYPES[precision])


def grad_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Scales fp16 gradients so that small ones do not underflow; disabled in the other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with all its tensors on the device; tuples, lists and dicts keep their structure."""
    match batch:
        case torch.Tensor():
            return batch if batch.device == device else batch.to(device, non_blocking=True)
        case tuple() | list():
            moved = [to_device(value, device) for value in batch]
            return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
        case dict():
            return {key: to_device(value, device) for key, value in batch.items()}
    return batch
