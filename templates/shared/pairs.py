"""Splits of pairs, each an image and its mask: batches of one size, and random crops to train on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from config import Config
from engine.data.splits import Split
from engine.runtime.errors import UserError
from engine.runtime.seeding import epoch_generator
from images import luma, resized

Pair = tuple[Tensor, Tensor]  # an image, uint8 (3, H, W), and its mask, uint8 class indices (H, W)

MOST_CROPPED = 256  # side of crops by default, in pixels


class Pairs(Split):
    """A split of pairs; batches hold pairs of one size, uncropped: images (B, 3, H, W) and masks (B, H, W).

    Args:
        pairs: by number, a pair: a list, or an object that reads files.
        sizes: height and width of every pair.
        indices: numbers of the pairs that belong to this split, shape (N,).
    """

    def __init__(self, pairs: Any, sizes: Sequence[tuple[int, int]], indices: Tensor) -> None:
        super().__init__(pairs, None, indices)
        self.sizes = sizes

    @property
    def in_memory(self) -> bool:
        """Whether reading needs no worker process."""
        return isinstance(self.x, list)

    def __getitems__(self, positions: list[int]) -> Pair:
        images, masks = zip(*(self.pair(position) for position in positions), strict=True)
        return torch.stack(images), torch.stack(masks)

    def pair(self, position: int) -> Pair:
        """One image and its mask."""
        image, mask = self.x[int(self.indices[position])]
        return image, mask

    def preview(self, count: int) -> Pair:
        """A batch to look at: one of the batches of an evaluation, chosen at random, since they are of one size."""
        batches = self.eval_batches(count)
        return self.__getitems__(batches[torch.randint(len(batches), (), generator=epoch_generator(0, 0))])

    def eval_batches(self, batch_size: int) -> list[list[int]]:
        """The batches of an evaluation: pairs of different sizes never share one, so that none is padded."""
        by_size: dict[tuple[int, int], list[int]] = {}
        for position, index in enumerate(self.indices.tolist()):
            by_size.setdefault(self.sizes[index], []).append(position)
        return [same[i : i + batch_size] for same in by_size.values() for i in range(0, len(same), batch_size)]


@dataclass(frozen=True)
class Augmentation:
    """What is done to training pairs; config.py explains each setting."""

    crop_size: int  # side of the square crops, in pixels
    scale_range: tuple[float, float]
    flip: bool
    color_jitter: float
    ignore_index: int  # class index of the pixels that do not count, such as those beyond the edge of a pair

    def __call__(self, pair: Pair, draws: Sequence[float]) -> Pair:
        """A crop of a pair, scaled, flipped and with other colours, as seven random numbers in [0, 1) say."""
        down, right, flip, scale, *colors = draws
        image, mask = self.crop(pair, scale, down, right)
        if self.flip and flip < 0.5:
            image, mask = image.flip(-1), mask.flip(-1)
        return jittered(image, self.color_jitter, colors) if self.color_jitter else image, mask

    def crop(self, pair: Pair, scale: float, down: float, right: float) -> Pair:
        """A square of a pair, resized to `crop_size`; beyond the edge of the pair it is 0 and `ignore_index`.

        Args:
            pair: of any size.
            scale: where the scale of the crop lies between the least and the largest, 0 to 1, logarithmically.
            down: where its upper edge lies between the highest and the lowest place, 0 to 1.
            right: where its left edge lies, in the same way.
        """
        (image, mask), (least, largest) = pair, self.scale_range
        side = max(1, round(self.crop_size / (least * (largest / least) ** scale)))  # of the square, before resizing
        padding = [0, max(0, side - mask.shape[1]), 0, max(0, side - mask.shape[0])]
        image, mask = F.pad(image, padding), F.pad(mask, padding, value=self.ignore_index)
        top, left = int(down * (mask.shape[0] - side + 1)), int(right * (mask.shape[1] - side + 1))
        image, mask = (v[..., top : top + side, left : left + side] for v in (image, mask))
        if side != self.crop_size:
            size = self.crop_size, self.crop_size
            # Unlike "nearest", "nearest-exact" takes the pixel in the middle of where "bilinear" takes its mean.
            image, mask = resized(image, *size), F.interpolate(mask[None, None], size, mode="nearest-exact")[0, 0]
        return image, mask


def augmentation_of(config: Config, image_size: int) -> Augmentation:
    """The settings, and what is meant by those that are 0.

    Args:
        config: the settings.
        image_size: the shorter side of most pairs, in pixels.

    Raises:
        UserError: a range of scales that ends before it begins.
    """
    least, largest = config.scale_range
    if least > largest:
        raise UserError(f"--scale_range {least} {largest} must be the least and the largest scale, in this order")
    crop_size = config.crop_size or min(image_size, MOST_CROPPED)
    return Augmentation(crop_size, config.scale_range, config.flip, config.color_jitter, config.ignore_index)


def jittered(image: Tensor, strength: float, draws: Sequence[float]) -> Tensor:
    """An image, uint8 (3, H, W), with another brightness, saturation and contrast.

    Args:
        image: of any size.
        strength: the largest relative change of each.
        draws: a random number in [0, 1) for each.
    """
    brightness, saturation, contrast = (1 + strength * (2 * draw - 1) for draw in draws)
    x = brightness * image.float()
    grey = luma(x)
    x = grey + saturation * (x - grey)
    return (grey.mean() + contrast * (x - grey.mean())).round().clamp(0, 255).byte()


class AugmentedPairs(Pairs):
    """Pairs, each augmented by random numbers that depend on (seed, epoch, index) alone, whichever worker reads it.

    Args:
        pairs: what is augmented.
        augmentation: in which way.
        seed: of the random numbers.
    """

    def __init__(self, pairs: Pairs, augmentation: Augmentation, seed: int) -> None:
        super().__init__(pairs.x, pairs.sizes, pairs.indices)
        self.augmentation = augmentation
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draws the random numbers of each pair."""
        self.draws = torch.rand(len(self), 7, generator=epoch_generator(self.seed, epoch))

    def pair(self, position: int) -> Pair:
        """The crop of one pair, of this epoch."""
        return self.augmentation(super().pair(position), self.draws[position].tolist())
