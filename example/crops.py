"""Square images: the centred crops of files, and a grid of images to look at."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from engine.data.arrays import array_batches
from engine.monitor.figures import caption, new_figure
from image_files import image_files
from images import FITS_INTO_MEMORY, ValueRange, in_threads, median_shorter_side, opened, survey, to_rgb, to_tensor

GRID_IMAGES = 16  # of a figure


# ---- reading ----


def read_crop(path: Path, size: int, value_range: ValueRange | None = None) -> Tensor:
    """The centred square of an image file, resized: uint8 of shape (3, size, size).

    Args:
        path: the file.
        size: side, in pixels.
        value_range: what becomes 0 and 255 in an image with more than 8 bits.

    Raises:
        UserError: not an image, or a damaged one.
    """
    with opened(path) as image:
        image.draft("RGB", (size, size))  # JPEG files are decoded at no more than the resolution that is needed
        upright = to_rgb(image, value_range)
        side = min(upright.size)
        left, top = (upright.width - side) // 2, (upright.height - side) // 2
        box = (left, top, left + side, top + side)
        return to_tensor(upright.resize((size, size), Image.Resampling.BILINEAR, box))


def read_crops(paths: Sequence[Path], size: int, value_range: ValueRange | None = None) -> Tensor:
    """The crops of many files: uint8 of shape (N, 3, size, size)."""
    return torch.stack(in_threads(partial(read_crop, size=size, value_range=value_range), paths))


def crop_batches(inputs: Sequence[Any], meta: Mapping[str, Any], batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """For prediction: batches of names and images, uint8 (B, 3, S, S).

    Args:
        inputs: files, folders with all below them, or arrays of such images, whose names are their numbers.
        meta: `image_size`, the side S of the crops of files, and `value_range`, as `read_splits` gave them.
        batch_size: images per batch.
    """
    size, value_range = meta["image_size"], meta.get("value_range")
    yield from array_batches(inputs, batch_size)
    files = image_files(inputs)
    for batch in (files[start : start + batch_size] for start in range(0, len(files), batch_size)):
        yield [str(file) for file in batch], read_crops(batch, size, value_range)


class CropFiles:
    """Crops that are read when indexed by a tensor of file numbers: uint8 of shape (B, 3, size, size)."""

    def __init__(self, paths: Sequence[Path], size: int, value_range: ValueRange | None) -> None:
        self.paths = paths
        self.size = size
        self.value_range = value_range

    def __getitem__(self, numbers: Tensor) -> Tensor:
        return torch.stack([read_crop(self.paths[n], self.size, self.value_range) for n in numbers.tolist()])


class Resized:
    """Square images in memory, uint8 (N, 3, S, S), resized when indexed by a tensor of their numbers."""

    in_memory = True

    def __init__(self, images: Tensor, size: int) -> None:
        self.images = images
        self.size = size

    def __getitem__(self, numbers: Tensor) -> Tensor:
        return F.interpolate(self.images[numbers], (self.size, self.size), mode="bilinear", antialias=True)


def read_splits(files: dict[str, list[Path]], image_size: int) -> tuple[dict[str, Any], ValueRange | None]:
    """The images of each split, (N, 3, S, S), in memory if all fit; and the range by which deep ones are scaled.

    S is `image_size`; 0 means the median shorter side of the training images, 16 at least and 224 at most.
    """
    sizes, value_range = survey(files["train"])
    size = image_size or max(16, min(224, median_shorter_side(sizes)))
    keep = sum(map(len, files.values())) * 3 * size**2 <= FITS_INTO_MEMORY
    read = read_crops if keep else CropFiles
    return {name: read(paths, size, value_range) for name, paths in files.items()}, value_range


# ---- looking ----


def draw_images(images: Tensor, titles: list[str], correct: list[bool]) -> Any:
    """The first 16 images, uint8 (N, 3, H, W), in a figure, each below its title, in red if that is not correct."""
    images = images[:GRID_IMAGES].cpu()
    columns = min(4, len(images))
    figure, axes = new_figure(columns, -(-len(images) // columns), 8, 8)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title, is_correct in zip(axes.flat, images, titles, correct, strict=False):
        axis.imshow(image.permute(1, 2, 0).numpy())
        axis.set_title(textwrap.fill(caption(title), 24), fontsize=8, color="black" if is_correct else "red")
    return figure
