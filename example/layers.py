"""What all networks for images have: standardised inputs, and the memory layout in which they are fastest."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """From uint8 images (B, 3, H, W), 0 to 255, to floats with mean 0 and standard deviation 1 in each channel."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """From (B, 3, H, W) to the same shape."""
        return (x.float() - self.mean) / self.std


def channels_last(parts: Iterable[nn.Module]) -> list[nn.Module]:
    """The parts with their weights in channels-last layout, in which convolutions are fastest."""
    return [part.to(memory_format=torch.channels_last) for part in parts]  # type: ignore[call-overload]
