"""The network for segmentation: a U-Net from scratch or around a pretrained network, in one to three parts."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pretrained
from engine.network import Fp32Linear, evaluating, merge_stages
from engine.runtime.errors import UserError
from layers import Normalize, channels_last

STAGES = ("stem", "encoder", "decoder")  # as --freeze names them
# Channels of the decoder behind a pretrained network, by reduction: pixels of the image per feature, in each direction.
DECODER_WIDTHS = {1: 16, 2: 16, 4: 32, 8: 64, 16: 128}
STEM_REDUCTION = 8  # of the coarsest feature map that the stem of a pretrained network makes
CHECKED_SIDE = 64  # pixels, of the image by which a network of timm is compared with its layers in a row

Layers = dict[str, nn.Module]  # by name, in the order of computation


class Backbone(NamedTuple):
    """A network that makes feature maps, from fine to coarse."""

    stem: Layers
    encoder: nn.Module
    skips: list[str]  # layers of the stem and the encoder whose outputs are feature maps, beside the last one
    channels: list[int]  # of the feature maps
    reductions: list[int]  # pixels of the image per feature, in each direction
    widths: list[int]  # channels of the decoder, at all reductions but the last


def build_stages(meta: Mapping[str, Any], weights: str = "none") -> list[nn.Module]:
    """A U-Net (Ronneberger et al. 2015) as stem, encoder and decoder: uint8 images (B, 3, H, W) to logits (B, C, H, W).

    The stem makes the finest feature maps: of the small network those at full resolution, of a pretrained one those of
    up to 8 pixels per feature. From stage to stage goes a list: the standardised image, the feature maps so far, and
    the last output.

    Args:
        meta: what `load_data` returned: the classes, the network, and mean and standard deviation of the channels.
        weights: what the network starts from: "auto", "none" or a file; see pretrained.py.
    """
    name = meta["backbone"]
    backbone = small(meta["width"]) if name == "small" else from_timm(name, pretrained.find_weights(name, weights))
    first = {"normalize": Normalize(meta["mean"], meta["std"]), "pad": Pad(backbone.reductions[-1])}
    stem, encoder = Stem(first | backbone.stem, ("normalize", *backbone.skips)), backbone.encoder
    if name == "small" and weights not in ("auto", "none"):
        pretrained.load_small([stem, encoder], Path(weights))
    return channels_last([stem, encoder, Decoder(backbone, len(meta["classes"]))])


def build_model_list(meta: Mapping[str, Any], num_parts: int) -> list[nn.Module]:
    """The stages in `num_parts` parts: 3 are stem, encoder and decoder, 2 the decoder and all before it."""
    return merge_stages(build_stages(meta), num_parts)


# ---- stages ----


class Chain(nn.ModuleDict):
    """Layers in a row, some of whose outputs are kept.

    Args:
        layers: by name, in the order of computation.
        kept: names of those whose outputs are kept.
    """

    def __init__(self, layers: Layers, kept: Collection[str]) -> None:
        super().__init__(layers)
        self.kept = kept

    def run(self, x: Tensor) -> list[Tensor]:
        """The outputs that are kept, and the last one."""
        outputs = []
        for name, layer in self.items():
            x = layer(x)
            if name in self.kept:
                outputs.append(x)
        return [*outputs, x]


class Stem(Chain):
    """From uint8 images (B, 3, H, W), 0 to 255, to standardised ones, feature maps and the last output."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """All feature maps have heights and widths as if those of the image were multiples of the largest reduction."""
        return self.run(x)


class Encoder(Chain):
    """From the output of the stem to all feature maps."""

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The list with further feature maps in place of the last output."""
        *maps, x = maps
        return [*maps, *self.run(x)]


class WholeEncoder(nn.Module):
    """A network of timm that is no chain of layers: it returns a list of its feature maps."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """As Encoder."""
        *maps, x = maps
        return [*maps, *self.network(x)]


class Decoder(nn.Module):
    """From feature maps of all resolutions to logits: each is enlarged, and convolved with the next finer one."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        *finer, width = backbone.channels
        self.blocks = nn.ModuleList()
        for skip, out in zip(reversed(finer), reversed(backbone.widths), strict=True):
            self.blocks.append(conv_block(width + skip, out))
            width = out
        self.head = Fp32Linear(width, classes)
        self.reduction = backbone.reductions[0]

    def forward(self, maps: list[Tensor]) -> Tensor:
        """From what the encoder returns to logits (B, C, H, W), of the image's own height and width."""
        image, *skips, x = maps
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            x = block(torch.cat([enlarged(x, 2), skip], 1))
        logits: Tensor = self.head(x.permute(0, 2, 3, 1))
        return enlarged(logits.permute(0, 3, 1, 2), self.reduction)[..., : image.shape[-2], : image.shape[-1]]


# ---- layers ----


class Pad(nn.Module):
    """Pads images at the right and below, with zeros, to a multiple of so many pixels."""

    def __init__(self, multiple: int) -> None:
        super().__init__()
        self.multiple = multiple

    def forward(self, x: Tensor) -> Tensor:
        """From (B, C, H, W), with H and W rounded up."""
        return F.pad(x, [0, -x.shape[-1] % self.multiple, 0, -x.shape[-2] % self.multiple])


def enlarged(x: Tensor, factor: int) -> Tensor:
    """Feature maps (B, C, H, W), with height and width multiplied by a factor, bilinearly."""
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False) if factor > 1 else x


def conv_block(inp: int, out: int) -> nn.Sequential:
    """Two 3 x 3 convolutions that keep height and width, each with batch normalisation and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inp, out):
        layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Bottleneck(nn.Module):
    """Two more convolutions, and the mean over the whole image, on the coarsest features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = conv_block(width, width)
        self.context = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, width, H, W) to the same shape."""
        context: Tensor = self.context(x.mean((2, 3)))
        local: Tensor = self.conv(x)
        return x + local + context[:, :, None, None]


# ---- backbones ----


def small(width: int) -> Backbone:
    """The encoder of a small U-Net; channels double as height and width are halved, three times.

    Args:
        width: channels at full resolution.
    """
    channels = [width << level for level in range(4)]
    blocks: Layers = {
        f"block{level}": nn.Sequential(nn.MaxPool2d(2), *conv_block(channels[level - 1], channels[level]))
        for level in (1, 2, 3)
    }
    encoder = Encoder(blocks | {"bottleneck": Bottleneck(channels[-1])}, ["block1", "block2"])
    return Backbone({"block0": conv_block(3, width)}, encoder, ["block0"], channels, [1, 2, 4, 8], channels[:-1])


def from_timm(name: str, file: Path | None) -> Backbone:
    """A network of timm without its classifier, as stem and encoder if its layers are a chain, else as encoder alone.

    Args:
        name: of the network.
        file: with its weights; None for random ones.

    Raises:
        UserError: a network without feature maps of several resolutions, or for images of one size.
    """
    network = feature_network(name, file)
    info = network.feature_info
    widths = [DECODER_WIDTHS[reduction] for reduction in info.reduction()[:-1]]
    layers, skips = chain_of(network)
    fine = [name for name, reduction in zip(skips, info.reduction(), strict=False) if reduction <= STEM_REDUCTION]
    names = list(layers)
    size = names.index(fine[-1]) + 1 if layers else 0
    stem, rest = ({name: layers[name] for name in part} for part in (names[:size], names[size:]))
    encoder = Encoder(rest, skips) if layers else WholeEncoder(network)
    return Backbone(stem, encoder, skips, info.channels(), info.reduction(), widths)


def chain_of(network: Any) -> tuple[Layers, list[str]]:
    """The layers of a feature network up to its last feature map, and which of them make the other feature maps.

    There are no layers if the network does something else than to compute one after the other.
    """
    layers: Layers = {}
    for name, child in network.named_children():
        layers |= dict(pretrained.prefixed(name, child)) if name == "blocks" else {name: child}
    *skips, last = (layer.replace(".", "_") for layer in network.feature_info.module_name())
    if not {*skips, last} <= layers.keys():
        return {}, skips
    names = list(layers)
    chain = Chain({name: layers[name] for name in names[: names.index(last) + 1]}, skips)
    x = torch.linspace(-1, 1, 3 * CHECKED_SIDE**2).view(1, 3, CHECKED_SIDE, CHECKED_SIDE)
    with evaluating([network]):
        is_chain = all(map(torch.equal, chain.run(x), network(x)))
    return dict(chain.items()) if is_chain else {}, skips


def feature_network(name: str, file: Path | None) -> Any:
    """A network of timm that returns its feature maps, each half as high and wide as the one before.

    Raises:
        UserError: there is no such network.
    """
    problem = ""
    if pretrained.library_of(name) != "timm":
        problem = "is torchvision's, of which no feature maps are known"
    elif pretrained.what_it_expects(name)["fixed_size"]:
        problem = "takes images of one size only"
    if not problem:
        try:
            network: Any = pretrained.build_timm(name, file, features_only=True)
        except RuntimeError:
            problem = "has no feature maps"
        else:
            steps = network.feature_info.reduction()
            if len(steps) > 1 and steps == [steps[0] << number for number in range(len(steps))]:
                return network
            problem = f"has feature maps that are {', '.join(map(str, steps))} times smaller than images"
    raise UserError(f"--backbone {name} {problem}; choose another, as {pretrained.DEFAULT}, resnet34 or convnext_tiny")
