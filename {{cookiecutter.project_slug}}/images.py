"""Images as data: reading folders of files, resizing, shifting and mirroring. The network is in task.py."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from engine import UserError
from engine.seeding import epoch_generator

IMAGE_TYPES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
FITS_INTO_MEMORY = 2**31  # bytes of pixels that are read once and kept; more are read anew in every epoch


@dataclass
class Split:
    """One of train, val and test."""

    pixels: Any  # bytes of shape (N, 3, size, size), or ImageFiles that give them
    labels: Tensor  # class numbers, shape (N,)

    @property
    def in_memory(self) -> bool:
        """Whether no file has to be read any more."""
        return isinstance(self.pixels, Tensor)


class ImageFiles:
    """Files that are read when indexed by a tensor of their numbers, as bytes of shape (B, 3, size, size)."""

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self.paths = paths
        self.size = size

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.stack([read_image(self.paths[row], self.size) for row in rows.tolist()])


class Images(Dataset[Any]):
    """Whole batches of the rows of a split: bytes of shape (B, 3, size, size) and class numbers of shape (B,)."""

    def __init__(self, split: Split, rows: Tensor) -> None:
        self.split = split
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        rows = self.rows[indices]
        return self.split.pixels[rows], self.split.labels[rows]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.__getitems__([index])
        return x[0], y[0]


class AugmentedImages(Images):
    """The same, each image shifted and mirrored as (seed, epoch, index) say, whichever worker reads it."""

    def __init__(self, split: Split, rows: Tensor, seed: int) -> None:
        super().__init__(split, rows)
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draws three numbers in [0, 1) per image: down, right, mirrored."""
        self.draws = torch.rand(len(self), 3, generator=epoch_generator(self.seed, epoch))

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        x, y = super().__getitems__(indices)
        return shift_and_mirror(x, self.draws[indices]), y


def shift_and_mirror(x: Tensor, draws: Tensor) -> Tensor:
    """Shifts images (B, C, S, S) by up to S / 8 and mirrors half of them, each as its row of `draws` (B, 3) says."""
    size, reach = x.shape[-1], x.shape[-1] // 8
    shift = (draws[:, :2] * (2 * reach + 1)).long()
    # A view of every image at every shift; indexing copies just the one that is drawn.
    shifts = F.pad(x, [reach] * 4, mode="reflect").unfold(2, size, 1).unfold(3, size, 1)
    x = shifts[torch.arange(len(x)), :, shift[:, 0], shift[:, 1]]
    return torch.where((draws[:, 2] < 0.5).view(-1, 1, 1, 1), x.flip(-1), x)


def read_image(path: Path, size: int) -> Tensor:
    """A file as bytes of shape (3, size, size): the shorter side is resized to `size`, the centre is cut out.

    Raises:
        UserError: not an image, or a damaged one.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (size, size))  # JPEG files are decoded at no more than the resolution that is needed
            scale = size / min(image.size)
            width, height = (max(size, round(scale * side)) for side in image.size)
            left, top = (width - size) // 2, (height - size) // 2
            small = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
            pixels = small.crop((left, top, left + size, top + size)).tobytes()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises on bad files
        raise UserError(f"image {path} cannot be read ({error}); repair or remove it") from error
    return torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1).contiguous()


def read_all(paths: Sequence[Path], size: int) -> Tensor:
    """All files as bytes of shape (N, 3, size, size)."""
    with ThreadPoolExecutor() as pool:  # decoding lets go of the interpreter lock
        return torch.stack(list(pool.map(read_image, paths, [size] * len(paths))))


def find_images(path: Path) -> list[Path]:
    """The image files in a folder and below, or the file itself; a UserError where there is neither."""
    if not path.exists():
        raise UserError(f"{path} does not exist")
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_TYPES)


def usual_size(paths: Sequence[Path]) -> int:
    """The median shorter side, in pixels, of up to 101 of the files; 8 at least and 224 at most."""
    sides = []
    for path in paths[:: max(1, len(paths) // 100)]:
        try:
            with Image.open(path) as image:
                sides.append(min(image.size))
        except OSError as error:
            raise UserError(f"image {path} cannot be read ({error}); repair or remove it") from error
    return max(8, min(224, median_low(sides)))


def read_folder(root: Path, image_size: int) -> tuple[dict[str, Split], list[str]]:
    """Splits of images in train/CLASS/*, and val/CLASS/* or test/CLASS/* or both, with the names of the classes.

    Args:
        root: the folder with train.
        image_size: side in pixels, 0 for the training images' usual size.

    Raises:
        UserError: no train folder, fewer than two classes, a split without images, a class that train has not.
    """
    if not (root / "train").is_dir():
        raise UserError(f"--data {root}: there is no folder {root / 'train'}; give a folder with train/CLASS/* images")
    classes = sorted(path.name for path in (root / "train").iterdir() if path.is_dir() and find_images(path))
    if len(classes) < 2:
        raise UserError(f"{root / 'train'} has images in {len(classes)} CLASS folders; two are the least")
    found = {name: find_images(root / name) for name in ("train", "val", "test") if (root / name).is_dir()}
    size = image_size or usual_size(found["train"])
    keep = sum(map(len, found.values())) * 3 * size**2 <= FITS_INTO_MEMORY
    splits = {}
    for name, paths in found.items():
        names = [path.relative_to(root / name).parts[0] for path in paths]
        if not paths or set(names) - set(classes):
            unknown = f"the unknown class {min(set(names) - set(classes))!r}" if paths else "no images"
            raise UserError(f"{root / name} has {unknown}; it needs images in the folders that train has")
        pixels = read_all(paths, size) if keep else ImageFiles(paths, size)
        splits[name] = Split(pixels, torch.tensor([classes.index(name) for name in names]))
    return splits, classes
