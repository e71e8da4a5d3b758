"""Decoding image files to RGB with 8 bits; a file that cannot be read is named in one line."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image
from torch import Tensor

from engine.runtime.errors import UserError, one_line
from image_files import read_heif

FITS_INTO_MEMORY = 2**31  # bytes of decoded images that are kept; more are decoded again in every epoch
MOST_PIXELS = 178_956_970  # of an image; a small file can claim more than a machine has memory for
LOOKED_AT = 500  # files from which sizes and ranges of values are taken
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in the brightness of a pixel
SPREAD = (0.001, 0.999)  # quantiles of the values in deep images that become 0 and 255

Image.MAX_IMAGE_PIXELS = None  # `opened` checks it, with a message that says what to do
warnings.filterwarnings("ignore", module=r"PIL\.")  # of what is read all the same, such as broken metadata
read_heif()

T = TypeVar("T")
R = TypeVar("R")

# What turns an image upright, by its EXIF orientation; 1 and anything else is upright already.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# The values that become 0 and 255 in images with more than 8 bits per pixel, the same for all of a data set.
ValueRange = list[float]


# ---- reading a file ----


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The image in a file; whatever Pillow raises on a bad one becomes a UserError that names the file."""
    try:
        with Image.open(path) as image:
            if math.prod(image.size) > MOST_PIXELS:
                raise UserError(
                    f"image {path} has {image.width:,} x {image.height:,} pixels, more than {MOST_PIXELS:,}; if it is "
                    "meant to, raise MOST_PIXELS in images.py, else repair or remove it"
                )
            yield image
    except UserError:
        raise
    except Exception as error:  # broken files raise almost anything: OSError, SyntaxError, struct.error, KeyError ...
        raise UserError(f"image {path} cannot be read ({one_line(error)}); repair or remove it") from error


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if there is none that makes sense."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF says nothing about the pixels
        return 1
    return found if found in TURNS else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an image after the rotation that its EXIF orientation asks for."""
    # Pillow turns TIFF files by itself, and their size is that afterwards.
    return (image.height, image.width) if orientation(image) >= 5 and image.format != "TIFF" else image.size


def is_deep(image: Image.Image) -> bool:
    """Whether an image has one channel with more than 8 bits: 16 or 32, or floats."""
    return image.mode.startswith(("I", "F"))


def to_rgb(image: Image.Image, value_range: ValueRange | None = None) -> Image.Image:
    """The image upright, in RGB with 8 bits per channel, on white where it is transparent.

    Args:
        image: of any mode.
        value_range: the values of deep images that become 0 and 255.

    Raises:
        UserError: a deep image, and no range to scale it by.
    """
    image.load()  # which turns TIFF files, and takes the orientation out of them
    turn = TURNS.get(orientation(image))
    upright = image if turn is None else image.transpose(turn)
    if is_deep(upright):
        if value_range is None:
            raise UserError(
                f"the image {getattr(image, 'filename', '')} has more than 8 bits per pixel, unlike the others; "
                "convert it, or all of them, to the same mode"
            )
        return Image.fromarray(scaled(np.asarray(upright), value_range)).convert("RGB")
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return upright.convert("RGB")


def scaled(values: Any, value_range: ValueRange) -> Any:
    """Numbers of any type as uint8: the range becomes 0 to 255, what is beyond is cut, NaN is 0."""
    low, high = value_range
    bytes_ = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.nan_to_num(bytes_, nan=0.0, posinf=255.0, neginf=0.0).clip(0, 255).round().astype(np.uint8)


# ---- looking at many files ----


class Survey(NamedTuple):
    """What some files of a data set have in common."""

    sizes: list[tuple[int, int]]  # widths and heights
    value_range: ValueRange | None  # of the deep ones; None without any


class Look(NamedTuple):
    """What one file is."""

    size: tuple[int, int]
    deep: bool
    frames: int
    deep_colours: bool  # 16 bits in each of three channels, of which Pillow keeps the upper 8


def look_at(path: Path) -> Look:
    """Reads what the first bytes of an image file say."""
    with opened(path) as image:
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a phone's second one is a preview
        tiles: Any = getattr(image, "tile", [])  # how the pixels are stored
        deep_colours = image.mode in ("RGB", "RGBA") and any("16" in str(tile[3]) for tile in tiles)
        return Look(upright_size(image), is_deep(image), frames, deep_colours)


def survey(paths: Sequence[Path]) -> Survey:
    """Looks at up to 500 of the files, and says in a line what is special about them."""
    looked_at = paths[:: -(-len(paths) // LOOKED_AT)]
    looks = dict(zip(looked_at, in_threads(look_at, looked_at), strict=True))
    of_how_many = f"of {len(looks):,} images that were looked at"
    if moving := [path for path, look in looks.items() if look.frames > 1]:
        print(f"note: {len(moving):,} {of_how_many} have several frames or pages, as {moving[0]}: the first is used")
    if deep_colours := [path for path, look in looks.items() if look.deep_colours]:
        print(f"note: {len(deep_colours):,} {of_how_many} have 16 bits per colour, as {deep_colours[0]}: 8 are used")
    deep = [path for path, look in looks.items() if look.deep]
    value_range = values_in(deep) if deep else None
    if value_range:
        low, high = value_range
        print(
            f"note: {len(deep):,} {of_how_many} have more than 8 bits, as {deep[0]}: {low:g} to {high:g} are 0 to 255"
        )
    return Survey([look.size for look in looks.values()], value_range)


def values_in(paths: Sequence[Path]) -> ValueRange:
    """The range of nearly all values in deep images."""
    values = np.concatenate(in_threads(some_values, paths))
    low, high = np.quantile(values, SPREAD) if len(values) else (0.0, 1.0)
    return [float(low), float(high) if high > low else float(low) + 1]


def some_values(path: Path) -> Any:
    """Up to about ten thousand finite values from all over a deep image."""
    with opened(path) as image:
        values = np.asarray(image).astype(np.float64).flatten()
        values = values[:: len(values) // 10_000 + 1]
        return values[np.isfinite(values)]


def median_shorter_side(sizes: Iterable[tuple[int, int]]) -> int:
    """The median of the shorter sides of images of these widths and heights, in pixels."""
    return median_low(map(min, sizes))


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """What the function makes of each item; in threads, since decoding releases the interpreter lock."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(function, items))


# ---- tensors ----


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as uint8 of shape (3, height, width), a greyscale or palette one as (height, width)."""
    pixels = pixels_of(image)
    return pixels.permute(2, 0, 1).contiguous() if image.mode == "RGB" else pixels.squeeze(2)


def pixels_of(image: Image.Image) -> Tensor:
    """An image with 8 bits per channel as Pillow has it: uint8 of shape (height, width, channels)."""
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, -1)


def resized(image: Tensor, height: int, width: int, interpolation: str = "bilinear") -> Tensor:
    """An image, uint8 (C, H, W), resized with antialiasing: uint8 (C, height, width), channels last.

    Three channels in this layout are torch's fast path, in half the time that Pillow takes. torch knows the layout by
    the strides, also by that of the batch, which `image[None]` would get wrong.
    """
    batch = image.movedim(0, 2).contiguous()[None].movedim(3, 1)
    return F.interpolate(batch, (height, width), mode=interpolation, antialias=True)[0]


def luma(x: Tensor) -> Tensor:
    """The brightness of images (..., 3, H, W), floats, by the weights of ITU-R 601-2: (..., 1, H, W)."""
    return (x * torch.tensor(LUMA, device=x.device).view(3, 1, 1)).sum(-3, keepdim=True)


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
