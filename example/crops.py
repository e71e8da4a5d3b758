"""Square images: the centred crops of files, and a grid of images to look at."""

import textwrap
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from engine.data.arrays import array_batches
from engine.monitor.figures import caption, new_figure
from images import FITS_INTO_MEMORY, image_files, in_threads, median_shorter_side, opened, to_rgb, to_tensor

GRID_IMAGES = 16  # of a figure


# ---- reading ----


def read_crop(path: Path, size: int) -> Tensor:
    """The centred square of an image file, resized: uint8 of shape (3, size, size).

    Raises:
        UserError: not an image, or a damaged one.
    """
    with opened(path) as image:
        image.draft("RGB", (size, size))  # JPEG files are decoded at no more than the resolution that is needed
        upright = to_rgb(image)
        side = min(upright.size)
        left, top = (upright.width - side) // 2, (upright.height - side) // 2
        box = (left, top, left + side, top + side)
        return to_tensor(upright.resize((size, size), Image.Resampling.BILINEAR, box))


def read_crops(paths: Sequence[Path], size: int) -> Tensor:
    """The crops of many files: uint8 of shape (N, 3, size, size)."""
    return torch.stack(in_threads(partial(read_crop, size=size), paths))


def crop_batches(inputs: Sequence[Any], size: int, batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """For prediction: batches of names and images, uint8 (B, 3, size, size).

    Args:
        inputs: files, folders with all below them, or arrays of such images, whose names are their numbers.
        size: side of the crops of files, in pixels.
        batch_size: images per batch.
    """
    yield from array_batches(inputs, batch_size)
    files = image_files(inputs)
    for batch in (files[start : start + batch_size] for start in range(0, len(files), batch_size)):
        yield [str(file) for file in batch], read_crops(batch, size)


class CropFiles:
    """Crops that are read when indexed by a tensor of file numbers: uint8 of shape (B, 3, size, size)."""

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self.paths = paths
        self.size = size

    def __getitem__(self, numbers: Tensor) -> Tensor:
        return torch.stack([read_crop(self.paths[number], self.size) for number in numbers.tolist()])


class Resized:
    """Square images in memory, uint8 (N, 3, S, S), resized when indexed by a tensor of their numbers."""

    in_memory = True

    def __init__(self, images: Tensor, size: int) -> None:
        self.images = images
        self.size = size

    def __getitem__(self, numbers: Tensor) -> Tensor:
        return F.interpolate(self.images[numbers], (self.size, self.size), mode="bilinear", antialias=True)


def read_splits(files: dict[str, list[Path]], image_size: int) -> dict[str, Any]:
    """The images of each split, (N, 3, S, S), in memory if all fit.

    S is `image_size`; 0 means the median shorter side of the training images, 16 at least and 224 at most.
    """
    size = image_size or max(16, min(224, median_shorter_side(_some_sizes(files["train"]))))
    keep = sum(map(len, files.values())) * 3 * size**2 <= FITS_INTO_MEMORY
    return {name: read_crops(paths, size) if keep else CropFiles(paths, size) for name, paths in files.items()}


def _some_sizes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Width and height of up to 101 of the files."""
    sizes = []
    for path in paths[:: max(1, len(paths) // 100)]:
        with opened(path) as image:
            sizes.append(image.size)
    return sizes


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
