"""Image files: finding them, and reading them with one clear line for those that cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from engine import UserError

IMAGE_TYPES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
FITS_INTO_MEMORY = 2**31  # bytes of pixels that are read once and kept; more are read anew in every epoch


def find_images(path: Path) -> list[Path]:
    """The image files in a folder and below, or the file itself; a UserError where there is neither."""
    if not path.exists():
        raise UserError(f"{path} does not exist")
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_TYPES)


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


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as bytes of shape (3, height, width), a greyscale one as (height, width)."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, -1)
    return pixels.permute(2, 0, 1).contiguous() if image.mode == "RGB" else pixels.squeeze(2)
