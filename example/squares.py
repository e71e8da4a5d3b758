"""Images cut to squares of one size, and shifted and mirrored while training. Reading files is in images.py."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median_low
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from backbones import IMAGENET
from engine import UserError
from engine.data import Rows
from engine.seeding import epoch_generator
from images import FITS_INTO_MEMORY, opened, to_rgb, to_tensor


class SquareFiles:
    """Files that are read when indexed by a tensor of their numbers, as bytes of shape (B, 3, size, size)."""

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self.paths = paths
        self.size = size

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.stack([read_square(self.paths[row], self.size) for row in rows.tolist()])


class Resized:
    """Square images in memory that are brought to another size when indexed by a tensor of their numbers."""

    def __init__(self, pixels: Tensor, size: int) -> None:
        self.pixels = pixels
        self.size = size

    def __getitem__(self, rows: Tensor) -> Tensor:
        return F.interpolate(self.pixels[rows], (self.size, self.size), mode="bilinear", antialias=True)


class AugmentedRows(Rows):
    """Rows of images, each shifted and mirrored as (seed, epoch, index) say, whichever worker reads it.

    An image that is mirrored in one epoch is not in the next (alternating flip, Jordan 2024, 3.6).
    """

    def __init__(self, rows: Rows, config: Any) -> None:
        super().__init__(rows.x, rows.y, rows.rows)
        self.seed = config.seed
        self.reach = int(rows.x[rows.rows[:1]].shape[-1] * config.shift_fraction)
        first = torch.rand(len(self), generator=epoch_generator(config.seed, 0)) < 0.5
        self.mirrored_by_parity = [first & (not config.no_mirror), ~first & (not config.no_mirror)]
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draws how far each image is shifted, down and right, and turns every image about."""
        draws = torch.rand(len(self), 2, generator=epoch_generator(self.seed, epoch))
        self.shifts = (draws * (2 * self.reach + 1)).long() - self.reach
        self.mirrored = self.mirrored_by_parity[epoch % 2]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        x, y = super().__getitems__(indices)
        return shift_and_mirror(x, self.shifts[indices], self.mirrored[indices]), y


def shift_and_mirror(x: Tensor, shifts: Tensor, mirrored: Tensor) -> Tensor:
    """Images (B, C, S, S), each moved up and left by its own row of `shifts` (B, 2), in pixels, some mirrored.

    What comes in at an edge is the image reflected there.
    """
    size, reach = x.shape[-1], int(shifts.abs().max())
    # A view of every image at every shift; indexing copies just the one that is drawn.
    views = F.pad(x, [reach] * 4, mode="reflect").unfold(2, size, 1).unfold(3, size, 1)
    down, right = (shifts + reach).unbind(1)
    x = views[torch.arange(len(x)), :, down, right]
    return torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x)


def read_square(path: Path, size: int) -> Tensor:
    """A file as bytes of shape (3, size, size): the square in its centre, resized.

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


def read_squares(paths: Sequence[Path], size: int, keep: bool) -> Any:
    """Files as bytes of shape (N, 3, size, size), read now where they are to be kept, else when they are indexed."""
    if not keep:
        return SquareFiles(paths, size)
    with ThreadPoolExecutor() as pool:  # decoding lets go of the interpreter lock
        return torch.stack(list(pool.map(read_square, paths, [size] * len(paths))))


def check_size(image_size: int, backbone: str) -> None:
    """Raises a UserError for images too small for the network."""
    least = 16 if backbone == "small" else 32
    if 0 < image_size < least:
        raise UserError(f"--image_size {image_size} is too small for the network; give {least} or more")


def read_splits(files: dict[str, list[Path]], image_size: int) -> dict[str, Any]:
    """The images of each split, shape (N, 3, S, S); S is `image_size` or, where that is 0, what is usual in train."""
    size = image_size or usual_size(files["train"])
    keep = sum(map(len, files.values())) * 3 * size**2 <= FITS_INTO_MEMORY
    return {name: read_squares(paths, size, keep) for name, paths in files.items()}


def usual_size(paths: Sequence[Path]) -> int:
    """The median shorter side, in pixels, of up to 101 of the files; 16 at least and 224 at most."""
    sides = []
    for path in paths[:: max(1, len(paths) // 100)]:
        with opened(path) as image:
            sides.append(min(image.size))
    return max(16, min(224, median_low(sides)))


def image_meta(train: Rows, config: Any) -> dict[str, Any]:
    """What prediction needs to know of the images, and of the network up to its last layer."""
    size = train.x[train.rows[:1]].shape[-1]
    check_size(size, config.backbone)
    meta = {"image_size": size, "backbone": config.backbone, "width": config.width, "mirror": not config.no_mirror}
    return meta | (statistics(train) if config.backbone == "small" else IMAGENET)


def statistics(train: Rows) -> dict[str, list[Any]]:
    """Of up to 500 of the images: mean and standard deviation of each channel, covariance of 2 x 2 patches."""
    sample = train.x[train.rows[:: len(train) // 500 + 1]].float()
    mean, std = sample.mean((0, 2, 3)), sample.std((0, 2, 3)).clamp(min=1)
    patches = F.unfold((sample - mean.view(3, 1, 1)) / std.view(3, 1, 1), 2).transpose(1, 2).flatten(0, 1).double()
    covariance = patches.T @ patches / len(patches)
    return {"mean": mean.tolist(), "std": std.tolist(), "covariance": covariance.tolist()}
