"""Networks from images to a vector of features: a small one, and torchvision's, with pretrained weights."""

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
        """From bytes (B, 3, H, W) to floats of the same shape."""
        return (x.float() - self.mean) / self.std


class Whitening(nn.Conv2d):
    """Fixed filters of 2 x 2 pixels whose answers are uncorrelated and of equal strength, and their negatives.

    The eigenvectors of the patches' covariance over the roots of its eigenvalues (Jordan 2024, 94% on CIFAR-10, 3.1);
    only the bias learns.

    Args:
        covariance: of normalised patches, flattened from (3, 2, 2): 12 rows of 12.
        stride: pixels from one patch to the next.
    """

    def __init__(self, covariance: list[list[float]], stride: int) -> None:
        super().__init__(3, 24, 2, stride)
        values, vectors = torch.linalg.eigh(torch.tensor(covariance, dtype=torch.float64))
        filters = (vectors / (values.clamp(min=0) + 5e-4).sqrt()).T.reshape(12, 3, 2, 2).float()
        self.weight = nn.Parameter(torch.cat([filters, -filters]), requires_grad=False)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]


class AndMirror(nn.Module):
    """Outside training, every image and, as the second half of the batch, its mirror image."""

    def forward(self, x: Tensor) -> Tensor:
        """From (B, 3, H, W) to the same in training, else to (2 B, 3, H, W)."""
        return x if self.training else torch.cat([x, x.flip(-1)])


class MeanOfMirrors(nn.Module):
    """Outside training, what the network finds in an image and in its mirror image, averaged."""

    def forward(self, x: Tensor) -> Tensor:
        """From (B, F) to the same in training, else from (2 B, F) to (B, F)."""
        return x if self.training else x.unflatten(0, (2, -1)).mean(0)


def conv(inp: int, out: int, pool: int = 1) -> list[nn.Module]:
    """A 3 x 3 convolution, pooled, normalised and rectified, that starts by passing its first `inp` channels on."""
    convolution = nn.Conv2d(inp, out, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight.data[:inp])
    return [convolution, *([nn.MaxPool2d(pool)] if pool > 1 else []), nn.BatchNorm2d(out), nn.GELU()]


def small(meta: dict[str, Any]) -> tuple[list[nn.Module], list[nn.Module], int]:
    """Stem, body and number of features of a network that is right for 32 pixels (after airbench, Jordan 2024).

    From 64 pixels on the stem halves the image once more for every doubling of its side.
    """
    w = meta["width"]
    halvings = max(0, int(math.log2(meta["image_size"] / 32)))
    whitening = Whitening(meta["covariance"], stride=2 if halvings else 1)
    stem = [whitening, nn.GELU(), *conv(24, w, 2), *(layer for _ in range(halvings - 1) for layer in conv(w, w, 2))]
    body = [*conv(w, w), *conv(w, 4 * w, 2), *conv(4 * w, 4 * w), *conv(4 * w, 4 * w, 2), *conv(4 * w, 4 * w)]
    return stem, [*body, nn.AdaptiveMaxPool2d(1), nn.Flatten()], 4 * w


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
        meta: backbone, image_size S, mean and std of the channels, whether `mirror` images; of small width, covariance.
        pretrained: whether a torchvision backbone starts with trained weights, where they can be had.
    """
    name = meta["backbone"]
    stem, body, features = small(meta) if name == "small" else of_torchvision(name, pretrained)
    first, last = [AndMirror()] * meta["mirror"], [MeanOfMirrors()] * meta["mirror"]
    return nn.Sequential(*first, Normalize(meta["mean"], meta["std"]), *stem), nn.Sequential(*body, *last), features
