"""The network for segmentation: a small U-Net for images of any size, in one to three parts."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.network import Fp32Linear, merge_stages


def build_model_list(meta: dict[str, Any], num_parts: int) -> list[nn.Module]:
    """A small U-Net (Ronneberger et al. 2015), from uint8 images (B, 3, H, W) to logits (B, C, H, W).

    Args:
        meta: what `load_data` returned: the classes, `width`, and mean and standard deviation of the channels.
        num_parts: 3 parts are encoder, bottleneck and decoder, 2 parts the decoder and all before it.
    """
    w = meta["width"]
    stages = [Encoder(w, meta["mean"], meta["std"]), Bottleneck(8 * w), Decoder(w, len(meta["classes"]))]
    parts = merge_stages(stages, num_parts)
    # In channels-last layout convolutions are fastest.
    return [part.to(memory_format=torch.channels_last) for part in parts]  # type: ignore[call-overload]


def conv_block(inp: int, out: int) -> nn.Sequential:
    """Two 3 x 3 convolutions that keep height and width, each with batch normalisation and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inp, out):
        layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """From uint8 images (B, 3, H, W), 0 to 255, to features at full, half, quarter and eighth resolution."""

    def __init__(self, width: int, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))
        deeper = (conv_block(width << i, width << (i + 1)) for i in range(3))
        self.blocks = nn.ModuleList([conv_block(3, width), *deeper])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Channels double at each step: (B, width, H, W), (B, 2 width, H / 2, W / 2), and two more, rounded up."""
        x = (x.float() - self.mean) / self.std
        features: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            x = block(F.max_pool2d(x, 2, ceil_mode=True) if number else x)
            features.append(x)
        return features


class Bottleneck(nn.Module):
    """Two more convolutions, and the mean over the whole image, on the coarsest features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = conv_block(width, width)
        self.context = nn.Linear(width, width)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """The same shapes; the last features, (B, width, H / 8, W / 8), are new."""
        *fine, x = features
        return [*fine, x + self.conv(x) + self.context(x.mean((2, 3)))[:, :, None, None]]


class Decoder(nn.Module):
    """From the features of all resolutions to logits (B, C, H, W)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([conv_block(3 * width << i, width << i) for i in range(3)])
        self.head = Fp32Linear(width, classes)

    def forward(self, features: list[Tensor]) -> Tensor:
        """From features as Encoder returns them to logits (B, C, H, W)."""
        *skips, x = features
        for block, skip in zip(reversed(self.blocks), reversed(skips), strict=True):
            up = F.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([up, skip], 1))
        logits: Tensor = self.head(x.permute(0, 2, 3, 1))
        return logits.permute(0, 3, 1, 2)
