"""Random resized crops (Szegedy 2014, 3): boxes for many images at once, cut out image by image."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from images import resized

TRIES = 10  # boxes that are tried for an image until one lies inside it; else it is the largest central one
RATIO = (3 / 4, 4 / 3)  # least and largest width divided by height, by default


def draw_numbers(count: int, generator: torch.Generator) -> Tensor:
    """The random numbers in [0, 1) from which the boxes of so many images are made, (N, TRIES + 1, 2)."""
    return torch.rand(count, TRIES + 1, 2, generator=generator, dtype=torch.float64)


def boxes_in(sizes: Tensor, draws: Tensor, scale: tuple[float, float], ratio: tuple[float, float] = RATIO) -> Tensor:
    """A box in each image, by the rule of torchvision's RandomResizedCrop: int64 (B, 4), top, left, height, width.

    Args:
        sizes: height and width of every image, in pixels, (B, 2).
        draws: numbers of each image, as `draw_numbers` gives them.
        scale: least and largest area of a box, as parts of the image's.
        ratio: least and largest width divided by height, drawn uniformly on a logarithmic axis.
    """
    full = sizes.double()
    areas = full.prod(1, keepdim=True) * (scale[0] + (scale[1] - scale[0]) * draws[:, 1:, 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    ratios = (low + (high - low) * draws[:, 1:, 1]).exp()
    tried = torch.stack([(areas / ratios).sqrt(), (areas * ratios).sqrt()], 2).round()  # (N, TRIES, 2)
    fits = ((tried >= 1) & (tried <= full[:, None])).all(2)
    chosen = tried[torch.arange(len(sizes)), fits.int().argmax(1)]  # the first that fits
    some_fit = fits.any(1, keepdim=True)
    box = torch.where(some_fit, chosen, largest_within(full, ratio))
    gaps = full - box
    corners = torch.where(some_fit, (draws[:, 0] * (gaps + 1)).floor().minimum(gaps), (gaps / 2).floor())
    return torch.cat([corners, box], 1).long()


def largest_within(sizes: Tensor, ratio: tuple[float, float]) -> Tensor:
    """Height and width of the largest box in each image, (N, 2), whose width divided by height is in `ratio`."""
    height, width = sizes.unbind(1)
    heights = torch.where(width < ratio[0] * height, (width / ratio[0]).round(), height)
    widths = torch.where(width > ratio[1] * height, (height * ratio[1]).round(), width)
    return torch.stack([heights, widths], 1).clamp(min=1).minimum(sizes)


def random_resized_crops(images: Sequence[Tensor], boxes: Tensor, size: int, flipped: Tensor | None = None) -> Tensor:
    """The boxes of some images, cut out and resized with antialiasing: uint8 (B, 3, size, size), channels last.

    Args:
        images: uint8 (3, H, W), of any sizes; fastest if their memory is channels last.
        boxes: of each image top, left, height and width in pixels, (B, 4).
        size: side of the crops, in pixels.
        flipped: whether each is flipped horizontally, (B,); without it none is.
    """
    crops = torch.empty((len(images), 3, size, size), dtype=torch.uint8, memory_format=torch.channels_last)
    flips = [False] * len(images) if flipped is None else flipped.tolist()
    for crop, image, (top, left, height, width), flip in zip(crops, images, boxes.tolist(), flips, strict=True):
        box = image[:, top : top + height, left : left + width]
        # Before it is resized a box is copied in any case, and flips as it is copied.
        crop.copy_(resized(box.flip(2) if flip else box, size, size))
    return crops
