"""Augmentation of training images: crops and flips as they are read, the rest on whole batches, on the device.

All random numbers depend only on (seed, epoch, sample): not on workers, processes, or the other images of a batch.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from batch_augmentation import COLUMNS, Draws, erase, mixed, trivial_augment
from config import Config
from engine.data.splits import Split
from engine.runtime.seeding import epoch_generator
from random_crops import boxes_in, draw_numbers, random_resized_crops


class Partner(NamedTuple):
    """What the images of a batch are mixed with."""

    x: Tensor  # uint8 (B, 3, S, S)
    y: Tensor
    draws: Draws
    shares: Draws  # the part of each image that stays, (B,)
    cut: Any  # whether it gets a box of the other image, rather than the mean of both, (B,)


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images; config.py explains each setting."""

    size: int  # side of the crops, in pixels
    shift_fraction: float
    crop_area: float
    flip: bool
    auto_augment: str
    erasing: float
    mixup: float
    cutmix: float

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with others."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def needs_draws(self) -> bool:
        """Whether anything is done to whole batches."""
        return self.mixes or self.erasing > 0 or self.auto_augment != "none"

    def __call__(self, batch: Any, num_classes: int) -> tuple[Tensor, Tensor]:
        """Images and targets of a training batch, augmented on their device.

        Args:
            batch: what `AugmentedSplit` gives.
            num_classes: C, into which class indices become probabilities (B, C) where images are mixed.
        """
        x, y, *numbers = batch
        if not numbers:
            return x, y
        draws, *partners = numbers
        x = self.changed(x.float(), draws)
        for partner in partners:
            others, other_y = self.changed(partner.x.float(), partner.draws), partner.y
            if not y.is_floating_point():
                y, other_y = (F.one_hot(classes, num_classes).float() for classes in (y, other_y))
            x, y = mixed(x, y, others, other_y, partner.shares, partner.cut, draws)
        return x, y

    def changed(self, x: Tensor, draws: Any) -> Tensor:
        """Images (B, 3, S, S), floats, after TrivialAugment and random erasing."""
        if self.auto_augment == "trivial":
            x = trivial_augment(x, draws)
        return erase(x, draws, self.erasing) if self.erasing else x


def augmentation_of(config: Config, meta: dict[str, Any]) -> Augmentation:
    """The settings, and what `choose_backbone` has chosen where they are None."""
    return Augmentation(
        meta["image_size"],
        config.shift_fraction,
        meta["crop_area"],
        config.flip,
        config.auto_augment,
        config.erasing,
        config.mixup,
        config.cutmix,
    )


class AugmentedSplit(Split):
    """A split of images, each cropped and flipped at random, by numbers that depend only on (seed, epoch, index).

    So it does not matter which worker reads an image. One that is flipped in one epoch is not in the next (alternating
    flip, Jordan 2024, 3.6). Crops are random resized ones, if `crop_area` is below 1, else shifted by some pixels.

    Args:
        split: images, uint8 (B, 3, S, S), and targets.
        augmentation: what is done to them.
        seed: of the random numbers.
    """

    def __init__(self, split: Split, augmentation: Augmentation, seed: int) -> None:
        super().__init__(split.x, split.y, split.indices)
        self.augmentation = augmentation
        self.split = split
        self.seed = seed
        self.padding = int(augmentation.size * augmentation.shift_fraction)
        first = torch.rand(len(self), generator=epoch_generator(seed, 0)) < 0.5
        self.flipped_by_parity = [first & augmentation.flip, ~first & augmentation.flip]
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draws each image's crop, and flips every image that was not flipped before."""
        if hasattr(self.split, "set_epoch"):  # it draws its samples, too
            self.split.set_epoch(epoch)
            self.indices = self.split.indices
        generator = epoch_generator(self.seed, epoch)
        self.draws = draw_numbers(len(self), generator) if self.augmentation.crop_area < 1 else None
        self.corners = (torch.rand(len(self), 2, generator=generator) * (2 * self.padding + 1)).long()
        self.flipped = self.flipped_by_parity[epoch % 2]
        if self.augmentation.needs_draws:
            self.batch_draws = torch.rand(len(self), COLUMNS, generator=generator).numpy()
        if self.augmentation.mixes:
            self.draw_partners(epoch)

    def draw_partners(self, epoch: int) -> None:
        """For each image, with which other one it is mixed, in which way, and which part of it stays."""
        generator = np.random.default_rng([self.seed, epoch])
        alphas = np.array([self.augmentation.mixup, self.augmentation.cutmix])
        self.partners = generator.integers(len(self), size=len(self))
        self.cut = generator.random(len(self)) < (alphas[1] > 0) / (alphas > 0).sum()  # each way alike, if both are on
        self.shares = generator.beta(alphas[self.cut.astype(int)], alphas[self.cut.astype(int)])

    def __getitems__(self, positions: list[int]) -> Any:
        """Images and targets and, if whole batches are augmented, the numbers for it and what images are mixed with."""
        batch: tuple[Any, ...] = self.cropped(positions)
        if self.augmentation.needs_draws:
            batch += (self.batch_draws[positions],)
        if self.augmentation.mixes:
            others = self.partners[positions].tolist()
            x, y = self.cropped(others)
            batch += (Partner(x, y, self.batch_draws[others], self.shares[positions], self.cut[positions]),)
        return batch

    def cropped(self, positions: list[int]) -> tuple[Tensor, Tensor]:
        """Crops of the images at these positions, uint8 (B, 3, S, S), and their targets."""
        numbers = self.indices[positions]
        flipped = self.flipped[positions]
        if self.draws is None:
            x = crop_and_flip(self.x[numbers], self.padding, self.corners[positions], flipped)
        else:
            whole = getattr(self.x, "images", self.x)
            images = [whole[number] for number in numbers.tolist()]
            sizes = torch.tensor([image.shape[1:] for image in images])
            boxes = boxes_in(sizes, self.draws[positions], (self.augmentation.crop_area, 1.0))
            x = random_resized_crops(images, boxes, self.augmentation.size, flipped)
        return x, self.y[numbers]


def crop_and_flip(images: Tensor, padding: int, corners: Tensor, flipped: Tensor) -> Tensor:
    """Images (B, C, S, S), padded by reflection, cropped to S x S at a corner of their own, some of them flipped.

    Args:
        images: of any type of number.
        padding: pixels on each side.
        corners: row and column of each crop's top left corner in the padded image, shape (B, 2), 0 to 2 padding.
        flipped: whether each is flipped horizontally, shape (B,).
    """
    size = images.shape[-1]
    # A view of every crop of every image; indexing copies only those that were drawn.
    crops = F.pad(images, [padding] * 4, mode="reflect").unfold(2, size, 1).unfold(3, size, 1)
    row, column = corners.unbind(1)
    cropped = crops[torch.arange(len(images)), :, row, column]
    return torch.where(flipped.view(-1, 1, 1, 1), cropped.flip(-1), cropped)
