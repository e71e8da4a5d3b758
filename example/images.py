"""Image files: finding them, and reading them with one clear line for those that cannot be read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from engine import UserError

IMAGE_TYPES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
FITS_INTO_MEMORY = 2**31  # bytes of pixels that are read once and kept; more are read anew in every epoch


def find_images(path: Path) -> list[Path]:
    """The image files in a folder and below, hidden ones left out, or the file itself; a UserError for neither."""
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
    """Width and height of an image as cameras say that it is to be seen."""
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (image.height, image.width) if turned else image.size


def to_rgb(image: Image.Image) -> Image.Image:
    """An image as it is to be seen, in three channels of 8 bits; 16 bits are scaled down to them."""
    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    return ImageOps.exif_transpose(image).convert("RGB")


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as bytes of shape (3, height, width), a greyscale or palette one as (height, width)."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, -1)
    return pixels.permute(2, 0, 1).contiguous() if image.mode == "RGB" else pixels.squeeze(2)
