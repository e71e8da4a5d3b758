"""Random crops and flips of training images, the same in every run with the same seed."""

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.data.splits import Split
from engine.runtime.seeding import epoch_generator


class AugmentedSplit(Split):
    """A split of images, each cropped and flipped at random, by numbers that depend only on (seed, epoch, index).

    So it does not matter which worker reads an image. One that is flipped in one epoch is not in the next (alternating
    flip, Jordan 2024, 3.6).

    Args:
        split: images, uint8 (B, 3, S, S), and targets.
        seed: of the random numbers.
        shift_fraction: part of S by which images are padded, by reflection, before an S x S crop is taken.
        flip: whether images are flipped horizontally.
    """

    def __init__(self, split: Split, seed: int, shift_fraction: float, flip: bool) -> None:
        super().__init__(split.x, split.y, split.indices)
        self.seed = seed
        self.padding = int(split.x[split.indices[:1]].shape[-1] * shift_fraction)
        first = torch.rand(len(self), generator=epoch_generator(seed, 0)) < 0.5
        self.flipped_by_parity = [first & flip, ~first & flip]
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draws the corner of each image's crop, and flips every image that was not flipped before."""
        draws = torch.rand(len(self), 2, generator=epoch_generator(self.seed, epoch))
        self.corners = (draws * (2 * self.padding + 1)).long()
        self.flipped = self.flipped_by_parity[epoch % 2]

    def __getitems__(self, positions: list[int]) -> tuple[Tensor, Tensor]:
        x, y = super().__getitems__(positions)
        return crop_and_flip(x, self.padding, self.corners[positions], self.flipped[positions]), y


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
