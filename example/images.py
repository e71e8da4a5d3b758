"""Image files: which there are, and decoding them; a file that cannot be read is named in one line."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median_low
from typing import Any

import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from engine.data.arrays import file_inputs
from engine.runtime.errors import UserError

IMAGE_TYPES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
FITS_INTO_MEMORY = 2**31  # bytes of decoded images that are kept; more are decoded again in every epoch


def find_images(path: Path) -> list[Path]:
    """The image files in a folder and below, without hidden ones, or the file itself; a UserError for neither."""
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.is_file():
        return [path]
    found: list[Path] = []
    for folder, folders, names in os.walk(path, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files = [Path(folder, name) for name in names if not name.startswith(".")]
        found += [file for file in files if file.suffix.lower() in IMAGE_TYPES]
    return sorted(found)


def image_files(inputs: Sequence[Any]) -> list[Path]:
    """The image files among inputs of a prediction: those that are named, and those in folders."""
    return [file for path in file_inputs(inputs) for file in find_images(path)]


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The image in a file; whatever Pillow raises on a bad one becomes a UserError that names the file."""
    try:
        with Image.open(path) as image:
            yield image
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"image {path} cannot be read ({error}); repair or remove it") from error


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an image after the rotation that its EXIF orientation asks for."""
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (image.height, image.width) if turned else image.size


def to_rgb(image: Image.Image) -> Image.Image:
    """The image upright, in RGB with 8 bits per channel; 16 bits are scaled down to them."""
    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    return ImageOps.exif_transpose(image).convert("RGB")


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as uint8 of shape (3, height, width), a greyscale or palette one as (height, width)."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, -1)
    return pixels.permute(2, 0, 1).contiguous() if image.mode == "RGB" else pixels.squeeze(2)


def check_images(x: Tensor) -> None:
    """Raises a UserError unless `x` is a batch of images (B, 3, H, W) with values from 0 to 255."""
    if x.dim() != 4 or x.shape[1] != 3:
        ways = {3: "; add a dimension for the batch: x[None]", 4: "; move the channels there: x.movedim(-1, 1)"}
        likely = x.dim() == 3 and x.shape[0] == 3 or x.dim() == 4 and x.shape[-1] == 3
        raise UserError(f"images have the shape {tuple(x.shape)}, not (B, 3, H, W){ways[x.dim()] if likely else ''}")
    if x.dtype != torch.uint8 and x.numel():
        low, high = x.min().item(), x.max().item()
        if low < 0 or high > 255 or (x.is_floating_point() and 0 < high <= 1):
            raise UserError(
                f"images have values from {low:g} to {high:g}, not bytes from 0 to 255, which the network standardises "
                "itself; multiply by 255, or leave out what normalised them"
            )


def in_threads(function: Any, items: Sequence[Any]) -> list[Any]:
    """What the function makes of each item; in threads, since decoding releases the interpreter lock."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(function, items))


def median_shorter_side(sizes: Iterable[tuple[int, int]]) -> int:
    """The median of the shorter sides of images of these widths and heights, in pixels."""
    return median_low(map(min, sizes))
