"""Square images: the crops of files and of arrays that a network sees."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones import choose_backbone
from config import Config
from engine.data.arrays import array_batches
from image_cache import CachedImages, ScaledReader, cached_images
from image_files import image_files
from images import ValueRange, in_threads, median_shorter_side, survey


@dataclass(frozen=True)
class Cropping:
    """How an image file becomes the square that is evaluated or predicted: what `choose_backbone` says of it."""

    size: int  # side of the square, in pixels
    crop_fraction: float  # of the shorter side that the square takes, from the centre
    interpolation: str  # bilinear, bicubic, or what timm has besides, for which bicubic is taken
    value_range: ValueRange | None  # what becomes 0 and 255 in images with more than 8 bits

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> "Cropping":
        """The cropping in what `load_data` returned."""
        return cls(meta["eval_size"], meta["crop_fraction"], meta["interpolation"], meta.get("value_range"))

    def reader(self) -> ScaledReader:
        """Reads whole images at the scale of the square."""
        way = self.interpolation if self.interpolation == "bilinear" else "bicubic"
        return ScaledReader(round(self.size / self.crop_fraction), self.value_range, way)


def centre(image: Tensor, size: int) -> Tensor:
    """The square in the centre of an image (3, H, W), a view of shape (3, size, size)."""
    top, left = (image.shape[1] - size) // 2, (image.shape[2] - size) // 2
    return image[:, top : top + size, left : left + size]


class Photographs:
    """Images of different sizes, all at the scale of the crop: indexed by a tensor of numbers, crops (B, 3, S, S).

    Args:
        images: by number, uint8 (3, H, W), as the cache has them, or as files are read.
        size: side S of the crops, in pixels.
    """

    def __init__(self, images: Any, size: int) -> None:
        self.images = images
        self.size = size

    @property
    def in_memory(self) -> bool:
        """Whether reading needs no worker process."""
        return isinstance(self.images, CachedImages)

    def __getitem__(self, numbers: Tensor) -> Tensor:
        return torch.stack([centre(self.images[number], self.size) for number in numbers.tolist()])


class ImageFiles:
    """Images that are decoded when they are indexed by their number."""

    def __init__(self, paths: Sequence[Path], read: ScaledReader) -> None:
        self.paths = paths
        self.read = read

    def __getitem__(self, number: int) -> Tensor:
        return self.read(self.paths[number])


class Resized:
    """Square images in memory, uint8 (N, 3, S, S), resized when indexed by a tensor of their numbers."""

    in_memory = True

    def __init__(self, images: Tensor, size: int) -> None:
        self.images = images
        self.size = size

    def __getitem__(self, numbers: Tensor) -> Tensor:
        return F.interpolate(self.images[numbers], (self.size, self.size), mode="bilinear", antialias=True)


def read_splits(found: Mapping[str, Any], config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """The images of each split, which a tensor of numbers indexes to crops (B, 3, S, S), and what prediction needs.

    Args:
        found: by split, files, or images in memory, uint8 (N, 3, S, S).
        config: chooses the backbone, on which the crops depend, and what is kept on the disk.
    """
    train, value_range = found["train"], None
    if isinstance(train, Tensor):
        side = train.shape[-1]
    else:
        sizes, value_range = survey(train)
        side = median_shorter_side(sizes)
    meta = choose_backbone(config, side) | {"value_range": value_range}
    if isinstance(train, Tensor):
        size = meta["eval_size"]
        return {name: x if x.shape[-1] == size else Resized(x, size) for name, x in found.items()}, meta
    cropping = Cropping.of(meta)
    return {name: photographs(files, cropping, config) for name, files in found.items()}, meta


def photographs(files: Sequence[Path], cropping: Cropping, config: Config) -> Photographs:
    """The images in files, decoded once if they find room in the cache, else whenever they are needed."""
    read = cropping.reader()
    kept = cached_images(files, read, asdict(read), config.cache_dir, config.cache_gb, config.workers)
    return Photographs(ImageFiles(files, read) if kept is None else kept, cropping.size)


def crop_batches(inputs: Sequence[Any], meta: Mapping[str, Any], batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """For prediction: batches of names and images, uint8 (B, 3, S, S).

    Args:
        inputs: files, folders with all below them, or arrays of such images, whose names are their numbers.
        meta: how files are cropped, as `read_splits` gave it.
        batch_size: images per batch.
    """
    cropping = Cropping.of(meta)
    yield from array_batches(inputs, batch_size)
    files = image_files(inputs)
    for batch in (files[start : start + batch_size] for start in range(0, len(files), batch_size)):
        images = in_threads(cropping.reader(), batch)
        yield [str(file) for file in batch], torch.stack([centre(image, cropping.size) for image in images])
