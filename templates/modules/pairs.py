"""Images with a mask each, of any size: finding, checking and reading them, and cropping them while training."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median_low
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from engine import UserError
from engine.data import Rows
from engine.seeding import epoch_generator
from images import find_images, opened, to_rgb, to_tensor, upright_size

Pair = tuple[Tensor, Tensor]  # bytes of shape (3, H, W), and class numbers as bytes of shape (H, W)


class PairFiles:
    """Pairs that are read when indexed by their number."""

    def __init__(self, files: Sequence[tuple[Path, Path]], image_size: int) -> None:
        self.files = files
        self.image_size = image_size

    def __getitem__(self, number: int) -> Pair:
        image, mask = self.files[number]
        return read_image(image, self.image_size), read_mask(mask, self.image_size)


class Pairs(Rows):
    """Batches of pairs of one size, as they are: bytes (B, 3, H, W) and class numbers (B, H, W)."""

    def __init__(self, pairs: Any, sizes: Sequence[tuple[int, int]], rows: Tensor) -> None:
        super().__init__(pairs, None, rows)
        self.sizes = sizes  # height and width of every pair

    def __getitems__(self, indices: list[int]) -> Pair:
        images, masks = zip(*(self.pair(index) for index in indices), strict=True)
        return torch.stack(images), torch.stack(masks)

    def pair(self, index: int) -> Pair:
        """One image and its mask."""
        image, mask = self.x[int(self.rows[index])]
        return image, mask

    def some(self, count: int) -> tuple[Tensor, Tensor]:
        """Images of one size can be a batch: those of a batch of an evaluation, chosen at random."""
        batches = self.batches(count)
        return self.__getitems__(batches[torch.randint(len(batches), (), generator=epoch_generator(0, 0))])

    def batches(self, size: int) -> list[list[int]]:
        """Batches for an evaluation: pairs of different sizes never share one, so none has to be padded."""
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, row in enumerate(self.rows.tolist()):
            by_size.setdefault(self.sizes[row], []).append(index)
        return [same[start : start + size] for same in by_size.values() for start in range(0, len(same), size)]


class Crops(Pairs):
    """Squares cut out of the pairs and mirrored as (seed, epoch, index) say, whichever worker reads them.

    Args:
        pairs: what is cut.
        side: of the squares; a pair that is smaller is filled up with zeros and `ignore_index`.
        ignore_index: of the pixels that do not count.
        seed: of the draws.
    """

    def __init__(self, pairs: Pairs, side: int, ignore_index: int, seed: int) -> None:
        super().__init__(pairs.x, pairs.sizes, pairs.rows)
        self.side = side
        self.ignore_index = ignore_index
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draws three numbers in [0, 1) per pair: down, right, mirrored."""
        self.draws = torch.rand(len(self), 3, generator=epoch_generator(self.seed, epoch))

    def pair(self, index: int) -> Pair:
        """The square of one pair, of this epoch."""
        image, mask = super().pair(index)
        missing = [0, max(0, self.side - mask.shape[1]), 0, max(0, self.side - mask.shape[0])]
        image, mask = F.pad(image, missing), F.pad(mask, missing, value=self.ignore_index)
        down, right, mirrored = self.draws[index].tolist()
        top, left = int(down * (mask.shape[0] - self.side + 1)), int(right * (mask.shape[1] - self.side + 1))
        image, mask = (v[..., top : top + self.side, left : left + self.side] for v in (image, mask))
        return (image.flip(-1), mask.flip(-1)) if mirrored < 0.5 else (image, mask)


def scaled_size(size: tuple[int, int], image_size: int) -> tuple[int, int]:
    """The size (width, height) with the shorter side made `image_size` where it is longer."""
    scale = min(1, image_size / min(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def read_image(path: Path, image_size: int) -> Tensor:
    """An image as bytes of shape (3, H, W), scaled down to `image_size`; a UserError where it cannot be read."""
    with opened(path) as image:
        upright = to_rgb(image)
        return to_tensor(upright.resize(scaled_size(upright.size, image_size), Image.Resampling.BILINEAR))


def read_mask(path: Path, image_size: int) -> Tensor:
    """A mask as class numbers, bytes of shape (H, W), scaled down the same way.

    Raises:
        UserError: it cannot be read, or its pixels are colours.
    """
    with opened(path) as mask:
        if mask.mode not in ("L", "P"):
            raise UserError(f"mask {path} has mode {mask.mode}; save class numbers as 8 bit greyscale or palette PNG")
        pixels = mask.resize(scaled_size(mask.size, image_size), Image.Resampling.NEAREST)
        return to_tensor(pixels)


def by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by their names without ending; a UserError where two have the same."""
    stems: dict[str, Path] = {}
    for path in paths:
        if stems.setdefault(path.stem, path) != path:
            raise UserError(f"{stems[path.stem]} and {path} have the same stem, by which masks are named; rename one")
    return stems


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """The files in images/ and the masks of the same stems in masks/.

    Raises:
        UserError: no images, two of the same stem, one without a mask, or a mask in JPEG, which blurs class numbers.
    """
    images, masks = (by_stem(find_images(folder / name)) for name in ("images", "masks"))
    if not images:
        raise UserError(f"{folder / 'images'} has no images")
    for stem, image in images.items():
        if stem not in masks:
            raise UserError(f"{image} has no mask {folder / 'masks' / stem}.png")
        if masks[stem].suffix.lower() in (".jpg", ".jpeg"):
            raise UserError(f"mask {masks[stem]} is JPEG, which blurs class numbers; save masks as PNG")
    return [(image, masks[stem]) for stem, image in images.items()]


def check_pair(files: tuple[Path, Path]) -> tuple[tuple[int, int], set[int]]:
    """Width and height of a pair, and the class numbers in its mask; a UserError where image and mask differ."""
    image_path, mask_path = files
    with opened(image_path) as image, opened(mask_path) as mask:
        size = upright_size(image)
        if size != mask.size:
            sizes = "{} x {} pixels, its image {} {} x {}".format(*mask.size, image_path, *size)
            raise UserError(f"mask {mask_path} has {sizes}")
    return size, set(read_mask(mask_path, max(size)).unique().tolist())


def check_all(files: Sequence[tuple[Path, Path]]) -> tuple[list[tuple[int, int]], list[set[int]]]:
    """Of all pairs the sizes (width, height), and the class numbers."""
    with ThreadPoolExecutor() as pool:  # decoding lets go of the interpreter lock
        sizes, numbers = zip(*pool.map(check_pair, files), strict=True)
    return list(sizes), list(numbers)


def read_all(files: Sequence[tuple[Path, Path]], image_size: int) -> list[Pair]:
    """All pairs, scaled."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(PairFiles(files, image_size).__getitem__, range(len(files))))


def usual_size(sizes: Sequence[tuple[int, int]]) -> int:
    """The median shorter side, in pixels; 256 at most."""
    return min(256, median_low(map(min, sizes)))
