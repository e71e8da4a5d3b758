"""A small U-Net for images of any size: features at four resolutions, and back to the first."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.network import Fp32Linear


def block(inp: int, out: int) -> nn.Sequential:
    """Two 3 x 3 convolutions that keep height and width, normalised and rectified."""
    layers: list[nn.Module] = []
    for channels in (inp, out):
        layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """From bytes (B, 3, H, W) to features at full, half, quarter and eighth resolution."""

    def __init__(self, width: int, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))
        self.blocks = nn.ModuleList([block(3, width), *(block(width << i, width << (i + 1)) for i in range(3))])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Channels double at each step: (B, width, H, W), (B, 2 width, H / 2, W / 2), and two more, rounded up."""
        x = (x.float() - self.mean) / self.std
        features: list[Tensor] = []
        for number, conv in enumerate(self.blocks):
            x = conv(F.max_pool2d(x, 2, ceil_mode=True) if number else x)
            features.append(x)
        return features


class Body(nn.Module):
    """Two more convolutions, and the mean over the whole image, on the coarsest features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = block(width, width)
        self.context = nn.Linear(width, width)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """The same shapes; the last features, (B, width, H / 8, W / 8), are new."""
        *fine, x = features
        return [*fine, x + self.conv(x) + self.context(x.mean((2, 3)))[:, :, None, None]]


class Decoder(nn.Module):
    """From the features of all resolutions to logits (B, C, H, W)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([block(3 * width << i, width << i) for i in range(3)])
        self.head = Fp32Linear(width, classes)

    def forward(self, features: list[Tensor]) -> Tensor:
        """From features, as Encoder gives them, to logits (B, C, H, W)."""
        *skips, x = features
        for conv, skip in zip(reversed(self.blocks), reversed(skips), strict=True):
            up = F.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=False)
            x = conv(torch.cat([up, skip], 1))
        return self.head(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
