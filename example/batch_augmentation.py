"""Augmentation of whole batches on the device, each image by its own random numbers: no other image changes them.

TrivialAugment (Mueller and Hutter 2021), random erasing (Zhong et al. 2020), mixup (Zhang et al. 2018) and cutmix (Yun
et al. 2019). The numbers are drawn in augmentation.py and stay on the CPU, where operations are chosen, so that a GPU
is not waited for.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from images import luma

COLUMNS = 10  # random numbers in [0, 1) for each image, of which the functions below name the columns
SHEAR, SHIFT, TURN = 0.99, 32, 135.0  # largest shear, translation in pixels and rotation in degrees of TrivialAugment
BLEND = 0.99  # the largest change of brightness, colour, contrast and sharpness
ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), (0.3, 3.3)  # of random erasing, as parts of the image

Draws = np.ndarray[Any, np.dtype[Any]]  # random numbers, (B, COLUMNS) or (B,)


# ---- TrivialAugment ----


def trivial_augment(x: Tensor, draws: Draws) -> Tensor:
    """One operation for each image, of a random strength.

    Args:
        x: images (B, 3, S, S), floats from 0 to 255.
        draws: column 0 chooses the operation, 1 its strength and 2 its sign.
    """
    names = [*GEOMETRIC, *PHOTOMETRIC, "identity"]
    chosen = (draws[:, 0] * len(names)).astype(int)
    sign = np.where(draws[:, 2] < 0.5, -1.0, 1.0).astype(np.float32)
    result = x.clone()
    moved = np.flatnonzero(chosen < len(GEOMETRIC))
    if len(moved):
        matrices = [GEOMETRIC[names[chosen[row]]](float(sign[row] * draws[row, 1]), x.shape[-1]) for row in moved]
        result[to(moved, x)] = warped(x[to(moved, x)], torch.tensor(matrices))
    for number, name in enumerate(names):
        rows = np.flatnonzero(chosen == number)
        if len(rows) and name in PHOTOMETRIC:
            strength = to(draws[rows, 1], x).view(-1, 1, 1, 1), to(sign[rows], x).view(-1, 1, 1, 1)
            result[to(rows, x)] = PHOTOMETRIC[name](x[to(rows, x)], *strength).clamp(0, 255)
    return result


def to(values: Any, x: Tensor) -> Tensor:
    """Numbers of the CPU on the device of `x`."""
    return torch.from_numpy(values).to(x.device, non_blocking=True)


def warped(x: Tensor, matrices: Tensor) -> Tensor:
    """Images (B, 3, S, S) under affine maps (B, 2, 3) from a pixel to where it is taken from; grey comes in."""
    grid = F.affine_grid(matrices.to(x.device, non_blocking=True), list(x.shape), align_corners=False)
    return F.grid_sample(x - 128, grid, align_corners=False) + 128


# From a strength, -1 to 1, and the side in pixels to the rows of an affine map, in coordinates from -1 to 1.
GEOMETRIC: dict[str, Callable[[float, int], list[list[float]]]] = {
    "shear x": lambda s, side: [[1, SHEAR * s, 0], [0, 1, 0]],
    "shear y": lambda s, side: [[1, 0, 0], [SHEAR * s, 1, 0]],
    "translate x": lambda s, side: [[1, 0, 2 * SHIFT * s / side], [0, 1, 0]],
    "translate y": lambda s, side: [[1, 0, 0], [0, 1, 2 * SHIFT * s / side]],
    "rotate": lambda s, side: rotation(math.radians(TURN * s)),
}


def rotation(angle: float) -> list[list[float]]:
    """The rows of a rotation by an angle in radians."""
    return [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]]


def blended(x: Tensor, other: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """From `other` through `x` and beyond it: `x` at strength 0."""
    return other + (1 + BLEND * strength * sign) * (x - other)


def smooth(x: Tensor) -> Tensor:
    """Images under Pillow's filter for sharpness; the outermost pixels stay."""
    kernel = torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]], device=x.device).div(13).expand(3, 1, 3, 3)
    inner = F.conv2d(x, kernel, groups=3)
    result = x.clone()
    result[..., 1:-1, 1:-1] = inner
    return result


def posterize(x: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Only the upper 8 to 2 bits of each value."""
    step = 2 ** (6 * strength).round()
    return (x / step).floor() * step


def auto_contrast(x: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Each channel stretched to 0 to 255."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) * (255 / (high - low).clamp(min=1e-3)), x)


def equalize(x: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Each channel with an even histogram, as Pillow computes it."""
    values = x.round().clamp(0, 255).long().flatten(0, 1).flatten(1)  # (3 B, H W)
    counts = torch.zeros(len(values), 256, device=x.device).scatter_add_(
        1, values, torch.ones_like(values, dtype=x.dtype)
    )
    last = counts.gather(1, values.amax(1, keepdim=True))  # how often the largest value occurs
    step = ((counts.sum(1, keepdim=True) - last) / 255).floor()
    table = ((counts.cumsum(1) - counts + (step / 2).floor()) / step.clamp(min=1)).floor().clamp(max=255)
    return torch.where(step > 0, table.gather(1, values), values.float()).view(x.shape)


# From images (b, 3, H, W), a strength and a sign (b, 1, 1, 1) to images.
PHOTOMETRIC: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "brightness": lambda x, strength, sign: blended(x, torch.zeros_like(x), strength, sign),
    "colour": lambda x, strength, sign: blended(x, luma(x), strength, sign),
    "contrast": lambda x, strength, sign: blended(x, luma(x).mean((2, 3), keepdim=True), strength, sign),
    "sharpness": lambda x, strength, sign: blended(x, smooth(x), strength, sign),
    "posterize": posterize,
    "solarize": lambda x, strength, sign: torch.where(x >= 255 * (1 - strength), 255 - x, x),
    "autocontrast": auto_contrast,
    "equalize": equalize,
}


# ---- erasing and mixing ----


def boxes(areas: Draws, ratios: Draws, tops: Draws, lefts: Draws, side: int, x: Tensor) -> Tensor:
    """Whether each pixel is in a box, (B, 1, S, S): of these parts of the image, height by width, and places 0 to 1."""
    height = np.minimum(np.sqrt(areas * ratios), 1.0)
    width = np.minimum(np.sqrt(areas / ratios), 1.0)
    place = torch.arange(side, device=x.device) + 0.5
    inside = []
    for start, length in ((tops, height), (lefts, width)):
        first = to((start * (1 - length) * side).astype(np.float32), x)[:, None]
        inside.append((place >= first) & (place < first + to((length * side).astype(np.float32), x)[:, None]))
    down, right = inside
    return (down[:, :, None] & right[:, None, :])[:, None]


def erase(x: Tensor, draws: Draws, probability: float) -> Tensor:
    """Images with a random box replaced by the image's mean colour, with some probability.

    Args:
        x: images (B, 3, S, S), floats.
        draws: column 3 decides, 4 is the area, 5 the ratio of height and width, 6 and 7 the place.
        probability: that an image has a box.
    """
    low, high = ERASED_AREA
    areas = np.where(draws[:, 3] < probability, low + (high - low) * draws[:, 4], 0.0)
    first, last = map(math.log, ERASED_RATIO)
    ratios = np.exp(first + (last - first) * draws[:, 5])
    inside = boxes(areas, ratios, draws[:, 6], draws[:, 7], x.shape[-1], x)
    return torch.where(inside, x.mean((2, 3), keepdim=True), x)


def mixed(
    x: Tensor, targets: Tensor, others: Tensor, other_targets: Tensor, shares: Draws, cut: Any, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Images mixed with others, by mixup or cutmix, and targets mixed in the same parts.

    Args:
        x: images (B, 3, S, S), floats.
        targets: of these, (B, C).
        others: images of the same shape, and `other_targets` theirs.
        other_targets: (B, C).
        shares: part of each image that stays, (B,).
        cut: whether an image gets a box of the other (cutmix) rather than a mean (mixup), booleans (B,).
        draws: columns 8 and 9 are the place of the box.
    """
    inside = boxes(np.where(cut, 1 - shares, 0.0), np.ones(len(x)), draws[:, 8], draws[:, 9], x.shape[-1], x)
    blended_share = to(np.where(cut, 1.0, shares).astype(np.float32), x).view(-1, 1, 1, 1)
    result = torch.where(inside, others, blended_share * x + (1 - blended_share) * others)
    in_box = inside.float().mean((1, 2, 3))
    kept = torch.where(to(np.asarray(cut), x), 1 - in_box, blended_share.flatten())[:, None]
    return result, kept * targets + (1 - kept) * other_targets
