"""Backbones, from images to a vector of features: a small network, and pretrained ones of timm and torchvision."""

import math
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pretrained
from config import Config
from engine.data.splits import Split
from engine.runtime.errors import UserError
from layers import Normalize

MOST_ENLARGED = 4  # times, by default, to the size that a pretrained network expects
FINE_TUNING_SIZE = 288  # pixels, if images have so many: more than most networks were pretrained with
FINE_TUNING_CROP = 0.35  # the default crop_area of all networks but the small one
SIZE_STEP = 32  # pixels, by which networks divide an image without a rest
STEM_STRIDE = 8  # of the coarsest output of a stem, in pixels of the image

Layers = dict[str, nn.Module]  # by name, in the order of computation
Backbone = tuple[Layers, Layers, int]  # layers of stem and body, and the number of features


# ---- what a backbone must know of the images ----


def choose_backbone(config: Config, side: int) -> dict[str, Any]:
    """The backbone's name, the sizes and crops of its images and, of a pretrained one, their mean and deviation.

    Training images have the side "image_size", others "eval_size".

    Args:
        config: whose backbone "auto" is what `choose_network` in pretrained.py says.
        side: the median shorter side of the training images, in pixels.

    Raises:
        UserError: an unknown network, weights that are no file, or images too small.
    """
    chosen = pretrained.choose_network(config.backbone, config.weights, side)
    name = chosen["backbone"]
    chosen |= {"width": config.width, "crop_fraction": 1.0, "interpolation": "bilinear"}
    fixed_size = False
    if name == "small":
        size = config.image_size or max(16, min(224, side))
    else:
        chosen |= pretrained.what_it_expects(name)
        native, fixed_size = chosen["image_size"], chosen.pop("fixed_size")
        size = config.image_size or (native if fixed_size else size_for_fine_tuning(native, side))
    least = 16 if name == "small" else 32
    if size < least:
        given = "--image_size" if config.image_size else "an image size of"
        raise UserError(f"{given} {size} is too small for the network; give --image_size {least} or more")
    crop_area = config.crop_area or (1.0 if name == "small" else FINE_TUNING_CROP)
    chosen |= {"image_size": size, "eval_size": size, "crop_area": crop_area}
    if crop_area < 1 and name != "small" and not fixed_size:
        chosen |= {"eval_size": config.eval_size or size_for_evaluation(size, crop_area), "crop_fraction": 1.0}
    elif config.eval_size not in (0, size):
        raise UserError(
            f"--eval_size {config.eval_size}: {name} is evaluated at the size {size} at which it is trained; only with "
            "random crops (--crop_area below 1) and a pretrained network that takes any size may it differ"
        )
    return chosen | {"test_time_flip": config.flip and config.test_time_flip}


def size_for_fine_tuning(native: int, side: int) -> int:
    """The side, in pixels, of images that a network is trained with.

    Args:
        native: the size with which it was pretrained.
        side: the median shorter side of the images, of which more pixels are used than the network has seen before
            (Kornblith et al. 2019 gain by that), but which are not enlarged without end.
    """
    larger = max(native, min(FINE_TUNING_SIZE, side // SIZE_STEP * SIZE_STEP))
    return max(SIZE_STEP, min(larger, MOST_ENLARGED * side // SIZE_STEP * SIZE_STEP))


def size_for_evaluation(size: int, crop_area: float) -> int:
    """The side, in pixels, of whole images whose objects appear as large as in random resized crops.

    A crop of a part of the area, enlarged to `size`, shows objects larger (Touvron et al. 2019, Fixing the train-test
    resolution discrepancy). The mean of the least part and of 1 is taken.
    """
    enlarged = size / math.sqrt((crop_area + 1) / 2)
    return max(size, round(enlarged / SIZE_STEP) * SIZE_STEP)


def image_statistics(train: Split) -> dict[str, list[Any]]:
    """Of up to 500 of the images: mean and standard deviation of each channel, covariance of 2 x 2 patches."""
    sample = train.x[train.indices[:: len(train) // 500 + 1]].float()
    mean, std = sample.mean((0, 2, 3)), sample.std((0, 2, 3)).clamp(min=1)
    patches = F.unfold((sample - mean.view(3, 1, 1)) / std.view(3, 1, 1), 2).transpose(1, 2).flatten(0, 1).double()
    covariance = patches.T @ patches / len(patches)
    return {"mean": mean.tolist(), "std": std.tolist(), "covariance": covariance.tolist()}


# ---- layers ----


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


def small(meta: Mapping[str, Any]) -> Backbone:
    """A network for images of 32 pixels (after airbench, Jordan 2024).

    From 64 pixels on the stem halves the image once more for every doubling of its side.
    """
    w = meta["width"]
    halvings = max(0, int(math.log2(meta["image_size"] / 32)))
    whitening = Whitening(meta["covariance"], stride=2 if halvings else 1)
    stem = [whitening, nn.GELU(), *conv_block(24, w, 2)]
    stem += [layer for _ in range(halvings - 1) for layer in conv_block(w, w, 2)]
    body = [*conv_block(w, w), *conv_block(w, 4 * w, 2), *conv_block(4 * w, 4 * w), *conv_block(4 * w, 4 * w, 2)]
    body += [*conv_block(4 * w, 4 * w), nn.AdaptiveMaxPool2d(1), nn.Flatten()]
    named = [(f"layer{number}", layer) for number, layer in enumerate([*stem, *body])]
    return dict(named[: len(stem)]), dict(named[len(stem) :]), 4 * w


def from_timm(name: str, file: Path | None, image_size: int) -> Backbone:
    """A network of timm without its classifier: its layers, if they are a chain, else the whole as a layer of the body.

    The stem has the layers that halve the image up to three times.

    Args:
        name: of the network.
        file: with its weights; None for random ones.
        image_size: side of the images, in pixels.

    Raises:
        UserError: it takes images of another size alone.
    """
    fixed = pretrained.what_it_expects(name)["fixed_size"]
    options = {"img_size": image_size} if fixed else {}
    try:
        network = pretrained.build_timm(name, file, num_classes=0, **options).eval()
    except TypeError as error:  # it takes no img_size
        raise UserError(f"--backbone {name} takes images of its own size alone; leave --image_size out") from error
    layers = layers_of(network)
    x = torch.linspace(-1, 1, 3 * image_size**2).view(1, 3, image_size, image_size)
    with torch.no_grad():
        wanted, outputs = network(x), chained([layer for _, layer in layers], x)
    network.train()
    if fixed or not outputs or not torch.equal(outputs[-1], wanted):
        return {}, {"network": network}, wanted.shape[1]
    fine = [output.dim() == 4 and STEM_STRIDE * output.shape[-1] >= image_size for output in outputs]
    first = fine.index(False)
    return grouped(layers[:first]), grouped(layers[first:]), wanted.shape[1]


def layers_of(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children of a network, and in place of each nn.Sequential its own: by names such as stages.0."""
    layers: list[tuple[str, nn.Module]] = []
    for name, child in network.named_children():
        inner = list(child.named_children()) if type(child) is nn.Sequential else []
        layers += [(f"{name}.{key}", layer) for key, layer in inner] or [(name, child)]
    return layers


def grouped(layers: list[tuple[str, nn.Module]]) -> Layers:
    """Layers by name, those from one nn.Sequential in one again: their weights keep their names."""
    found: dict[str, Any] = {}
    for name, layer in layers:
        outer, _, key = name.partition(".")
        if key:
            found.setdefault(outer, nn.Sequential()).add_module(key, layer)
        else:
            found[outer] = layer
    return found


def chained(layers: list[nn.Module], x: Tensor) -> list[Tensor]:
    """The output of each layer, if each can take that of the one before; else nothing."""
    outputs = []
    for layer in layers:
        try:
            x = layer(x)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
            return []
        if not isinstance(x, Tensor):
            return []
        outputs.append(x)
    return outputs


def from_torchvision(name: str, weights: str) -> Backbone:
    """A classifier of torchvision without its last linear layer.

    Args:
        name: of the network.
        weights: what it starts from: "auto" for torchvision's pretrained weights, "none", or a file.
    """
    network: Any = pretrained.build_torchvision(name, weights)
    layers: list[tuple[str, Any]]
    *layers, (end, last) = network.named_children()
    if hasattr(network, "features"):
        layers = [*pretrained.prefixed("features", network.features), ("avgpool", network.avgpool)]
    elif hasattr(network, "trunk_output"):
        stages = pretrained.prefixed("trunk_output", network.trunk_output)
        layers = [("stem", network.stem), *stages, ("avgpool", network.avgpool)]
    ends: list[tuple[str, Any]] = [(end, last)]
    if isinstance(last, nn.Sequential):
        ends = pretrained.prefixed(end, last)
    flatten = [] if any(isinstance(layer, nn.Flatten) for _, layer in ends) else [("flatten", nn.Flatten())]
    return dict(layers[:1]), dict([*layers[1:], *flatten, *ends[:-1]]), ends[-1][1].in_features


def build_backbone(meta: Mapping[str, Any], weights: str = "none") -> tuple[nn.Module, nn.Module, int]:
    """Stem and body, from uint8 images (B, 3, S, S) to features (B, F), and F.

    Args:
        meta: what `choose_backbone` and, for the small network, `image_statistics` returned.
        weights: what the network starts from: "auto", "none" or a file; see `find_weights` in pretrained.py.
    """
    name = meta["backbone"]
    if name == "small":
        stem, body, features = small(meta)
    elif pretrained.library_of(name) == "timm":
        stem, body, features = from_timm(name, pretrained.find_weights(name, weights), meta["image_size"])
    else:
        stem, body, features = from_torchvision(name, weights)
    first: Layers = {"normalize": Normalize(meta["mean"], meta["std"])}
    if meta["test_time_flip"]:
        first, body = {"append_flipped": AppendFlipped(), **first}, {**body, "mean_over_flips": MeanOverFlips()}
    parts = [nn.Sequential(OrderedDict(part)) for part in (first | stem, body)]
    if name == "small" and weights not in ("auto", "none"):
        pretrained.load_small(parts, Path(weights))
    return parts[0], parts[1], features
