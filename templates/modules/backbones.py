"""Networks from images to a vector of features: a small residual one, and torchvision's, with pretrained weights."""

import math
from difflib import get_close_matches
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from engine import UserError

IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}  # what pretrained weights expect
FAMILIES = ("convnext", "efficientnet", "mobilenet_v3", "regnet", "resnet", "resnext", "wide_resnet")


class Normalize(nn.Module):
    """Takes bytes of shape (B, 3, H, W) to numbers with mean 0 and standard deviation 1 in each channel."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() - self.mean) / self.std


class Residual(nn.Module):
    """relu(x + f(x)), where f is two convolutions (He et al. 2016) that start as zero (Goyal et al. 2017, 5.1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.BatchNorm2d(width)
        nn.init.zeros_(last.weight)
        self.body = nn.Sequential(*conv(width, width), nn.Conv2d(width, width, 3, padding=1, bias=False), last)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.body(x)).relu()


def conv(inp: int, out: int, stride: int = 1) -> list[nn.Module]:
    """A 3 x 3 convolution, normalised and rectified; height and width are divided by `stride`."""
    return [nn.Conv2d(inp, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]


def small(meta: dict[str, Any]) -> tuple[list[nn.Module], list[nn.Module], int]:
    """Stem, body and number of features of a residual network that is right for 32 pixels.

    From 64 pixels on the stem halves the image once more for every doubling of its side.
    """
    w = meta["width"]
    halvings = max(0, int(math.log2(meta["image_size"] / 32)))
    stem = [*conv(3, w, 2 if halvings else 1), *(layer for _ in range(halvings - 1) for layer in conv(w, w, 2))]
    body = [*conv(w, 2 * w), nn.MaxPool2d(2), Residual(2 * w), *conv(2 * w, 4 * w), nn.MaxPool2d(2), Residual(4 * w)]
    return [*stem, nn.MaxPool2d(2)], [*body, nn.AdaptiveAvgPool2d(1), nn.Flatten()], 4 * w


def of_torchvision(name: str, pretrained: bool) -> tuple[list[nn.Module], list[nn.Module], int]:
    """Stem, body and number of features of a torchvision classifier; the body is all up to its last linear layer.

    Raises:
        UserError: not one of torchvision's, or of a family whose layers do not form a chain.
    """
    from torchvision import models  # here, since it takes as long to import as torch

    known = [known for known in models.list_models(models) if known.startswith(FAMILIES)]
    if name not in known:
        near = ", ".join(get_close_matches(name, known, 3)) or "resnet18, convnext_tiny, efficientnet_b0"
        raise UserError(f"--backbone {name} is unknown; choose small, or a torchvision network such as {near}")
    network: Any = models.get_model(name, weights=None)
    if pretrained:
        try:
            weights = models.get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True)
            network.load_state_dict(weights)
            print(f"{name} starts with torchvision's pretrained weights")
        except (URLError, OSError, RuntimeError) as error:
            print(f"{name} starts with random weights: the pretrained ones cannot be had ({error})")
    *layers, last = network.children()
    if hasattr(network, "features"):
        layers = [*network.features, network.avgpool]
    elif hasattr(network, "trunk_output"):
        layers = [network.stem, *network.trunk_output, network.avgpool]
    ends: list[Any] = list(last) if isinstance(last, nn.Sequential) else [last]
    flatten = [] if any(isinstance(layer, nn.Flatten) for layer in ends) else [nn.Flatten()]
    return layers[:1], [*layers[1:], *flatten, *ends[:-1]], ends[-1].in_features


def build_trunk(meta: dict[str, Any], pretrained: bool) -> tuple[nn.Module, nn.Module, int]:
    """Stem and body from bytes (B, 3, S, S) to features (B, F), and F.

    Args:
        meta: backbone, width (of small), image_size S, and mean and std of the channels.
        pretrained: whether a torchvision backbone starts with trained weights, where they can be had.
    """
    name = meta["backbone"]
    stem, body, features = small(meta) if name == "small" else of_torchvision(name, pretrained)
    return nn.Sequential(Normalize(meta["mean"], meta["std"]), *stem), nn.Sequential(*body), features
