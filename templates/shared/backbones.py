"""Backbones, from images to a vector of features: a small network, and torchvision's with pretrained weights."""

import math
from difflib import get_close_matches
from typing import Any
from urllib.error import URLError

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import Config
from engine.data.splits import Split
from engine.runtime.errors import UserError

IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}  # what pretrained weights expect
FAMILIES = ("convnext", "efficientnet", "mobilenet_v3", "regnet", "resnet", "resnext", "wide_resnet")

Backbone = tuple[list[nn.Module], list[nn.Module], int]  # layers of stem and body, and the number of features


# ---- what a backbone must know of the images ----


def check_image_size(image_size: int, backbone: str) -> None:
    """Raises a UserError for images too small for the network."""
    least = 16 if backbone == "small" else 32
    if 0 < image_size < least:
        raise UserError(f"--image_size {image_size} is too small for the network; give {least} or more")


def backbone_meta(train: Split, config: Config) -> dict[str, Any]:
    """What `build_backbone` needs, in plain types: settings, and statistics of the training images.

    Raises:
        UserError: images too small for the network.
    """
    size = train.x[train.indices[:1]].shape[-1]
    check_image_size(size, config.backbone)
    meta = {"image_size": size, "backbone": config.backbone, "width": config.width}
    meta |= {"test_time_flip": config.flip and config.test_time_flip}
    return meta | (image_statistics(train) if config.backbone == "small" else IMAGENET)


def image_statistics(train: Split) -> dict[str, list[Any]]:
    """Of up to 500 of the images: mean and standard deviation of each channel, covariance of 2 x 2 patches."""
    sample = train.x[train.indices[:: len(train) // 500 + 1]].float()
    mean, std = sample.mean((0, 2, 3)), sample.std((0, 2, 3)).clamp(min=1)
    patches = F.unfold((sample - mean.view(3, 1, 1)) / std.view(3, 1, 1), 2).transpose(1, 2).flatten(0, 1).double()
    covariance = patches.T @ patches / len(patches)
    return {"mean": mean.tolist(), "std": std.tolist(), "covariance": covariance.tolist()}


# ---- layers ----


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


class Whitening(nn.Conv2d):
    """A fixed convolution of 2 x 2 patches whose outputs are uncorrelated and of variance 1, and their negatives.

    The eigenvectors of the patches' covariance over the roots of its eigenvalues (Jordan 2024, 94% on CIFAR-10, 3.1);
    only the bias is trained.

    Args:
        covariance: of normalised patches, flattened from (3, 2, 2): shape (12, 12).
        stride: pixels from one patch to the next.
    """

    def __init__(self, covariance: list[list[float]], stride: int) -> None:
        super().__init__(3, 24, 2, stride)
        values, vectors = torch.linalg.eigh(torch.tensor(covariance, dtype=torch.float64))
        filters = (vectors / (values.clamp(min=0) + 5e-4).sqrt()).T.reshape(12, 3, 2, 2).float()
        self.weight = nn.Parameter(torch.cat([filters, -filters]), requires_grad=False)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]


class AppendFlipped(nn.Module):
    """In eval mode, appends every image's horizontal flip as the second half of the batch (test-time flip)."""

    def forward(self, x: Tensor) -> Tensor:
        """From (B, 3, H, W) to the same in training mode, else to (2 B, 3, H, W)."""
        return x if self.training else torch.cat([x, x.flip(-1)])


class MeanOverFlips(nn.Module):
    """In eval mode, the mean of the features of each image and of its flip."""

    def forward(self, x: Tensor) -> Tensor:
        """From (B, F) to the same in training mode, else from (2 B, F) to (B, F)."""
        return x if self.training else x.unflatten(0, (2, -1)).mean(0)


def conv_block(inp: int, out: int, pool: int = 1) -> list[nn.Module]:
    """3 x 3 convolution, max pooling, batch normalisation, GELU; starts as the identity of its first `inp` channels."""
    convolution = nn.Conv2d(inp, out, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight.data[:inp])
    return [convolution, *([nn.MaxPool2d(pool)] if pool > 1 else []), nn.BatchNorm2d(out), nn.GELU()]


# ---- networks ----


def small(meta: dict[str, Any]) -> Backbone:
    """A network for images of 32 pixels (after airbench, Jordan 2024).

    From 64 pixels on the stem halves the image once more for every doubling of its side.
    """
    w = meta["width"]
    halvings = max(0, int(math.log2(meta["image_size"] / 32)))
    whitening = Whitening(meta["covariance"], stride=2 if halvings else 1)
    stem = [whitening, nn.GELU(), *conv_block(24, w, 2)]
    stem += [layer for _ in range(halvings - 1) for layer in conv_block(w, w, 2)]
    body = [*conv_block(w, w), *conv_block(w, 4 * w, 2), *conv_block(4 * w, 4 * w), *conv_block(4 * w, 4 * w, 2)]
    return stem, [*body, *conv_block(4 * w, 4 * w), nn.AdaptiveMaxPool2d(1), nn.Flatten()], 4 * w


def from_torchvision(name: str, pretrained: bool) -> Backbone:
    """One of torchvision's classifiers without its last linear layer.

    Raises:
        UserError: not one of torchvision's, or of a family whose layers do not form a chain.
    """
    from torchvision import models  # here, since its import takes as long as torch's

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
            print(f"{name} starts with random weights: the pretrained ones cannot be downloaded ({error})")
    *layers, last = network.children()
    if hasattr(network, "features"):
        layers = [*network.features, network.avgpool]
    elif hasattr(network, "trunk_output"):
        layers = [network.stem, *network.trunk_output, network.avgpool]
    ends: list[Any] = list(last) if isinstance(last, nn.Sequential) else [last]
    flatten = [] if any(isinstance(layer, nn.Flatten) for layer in ends) else [nn.Flatten()]
    return layers[:1], [*layers[1:], *flatten, *ends[:-1]], ends[-1].in_features


def build_backbone(meta: dict[str, Any], pretrained: bool) -> tuple[nn.Module, nn.Module, int]:
    """Stem and body, from uint8 images (B, 3, S, S) to features (B, F), and F.

    Args:
        meta: what `backbone_meta` returned.
        pretrained: whether a torchvision network starts with pretrained weights, if they can be downloaded.
    """
    name = meta["backbone"]
    stem, body, features = small(meta) if name == "small" else from_torchvision(name, pretrained)
    stem = [Normalize(meta["mean"], meta["std"]), *stem]
    if meta["test_time_flip"]:
        stem, body = [AppendFlipped(), *stem], [*body, MeanOverFlips()]
    return nn.Sequential(*stem), nn.Sequential(*body), features


def channels_last(parts: list[nn.Module]) -> list[nn.Module]:
    """The parts with their weights in channels-last layout, in which convolutions are fastest."""
    return [part.to(memory_format=torch.channels_last) for part in parts]  # type: ignore[call-overload]
