"""Inputs of a prediction that are in memory already: arrays and tensors, among files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..runtime.errors import UserError


def file_inputs(inputs: Sequence[Any]) -> list[Path]:
    """Those of the inputs that are paths."""
    return [Path(source) for source in inputs if isinstance(source, (str, Path))]


def array_batches(inputs: Sequence[Any], batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """Batches of those that are arrays or tensors (N, ...): the numbers of the samples, as names, and their tensor.

    Raises:
        UserError: one that is neither a path nor an array.
    """
    for source in inputs:
        if not isinstance(source, (str, Path)):
            if not getattr(source, "shape", ()):
                kind = type(source).__name__
                raise UserError(f"a {kind} cannot be predicted for; give a path, or an array or tensor (N, ...)")
            for numbers, batch in zip(
                torch.arange(len(source)).split(batch_size), torch.as_tensor(source).split(batch_size), strict=True
            ):
                yield [str(number) for number in numbers.tolist()], batch
