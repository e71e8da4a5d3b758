"""Random resized crops: boxes have torchvision's distribution, and crops are those of arithmetic in floats."""

import math

import images
import pytest
import torch
import torch.nn.functional as F
from random_crops import boxes_in, draw_numbers, random_resized_crops
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
COUNT = 4000


def boxes_of(
    sizes: list[tuple[int, int]], seed: int = 0, scale: tuple[float, float] = SCALE, ratio: tuple[float, float] = RATIO
) -> Tensor:
    """Boxes drawn with that seed."""
    draws = draw_numbers(len(sizes), torch.Generator().manual_seed(seed))
    return boxes_in(torch.tensor(sizes), draws, scale, ratio)


def torchvision_boxes(size: tuple[int, int], count: int, scale: tuple[float, float] = SCALE) -> Tensor:
    """So many boxes that torchvision draws for an image of that size."""
    torch.manual_seed(1)
    image = torch.empty(1, *size)
    return torch.tensor([RandomResizedCrop.get_params(image, list(scale), list(RATIO)) for _ in range(count)])


def largest_gap(a: Tensor, b: Tensor) -> float:
    """The Kolmogorov-Smirnov statistic of two samples."""
    at = torch.cat([a, b]).sort().values
    below = [torch.searchsorted(x.sort().values, at, right=True) / len(x) for x in (a, b)]
    return float((below[0] - below[1]).abs().max())


# Of the last two sizes many tries do not fit, and all, so that the fallback counts, too.
@pytest.mark.parametrize("size", [(256, 341), (256, 256), (300, 200), (256, 500), (20, 400)])
def test_boxes_have_the_distribution_of_torchvision(size: tuple[int, int]) -> None:
    ours, theirs = boxes_of([size] * COUNT).double(), torchvision_boxes(size, COUNT).double()
    for of_box in (
        lambda box: box[:, 0],
        lambda box: box[:, 1],
        lambda box: box[:, 2],
        lambda box: box[:, 3],
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 3] / box[:, 2],
        lambda box: box[:, 0] + box[:, 2] / 2,
    ):
        # Equal distributions are further apart once in a thousand times.
        assert largest_gap(of_box(ours), of_box(theirs)) < 1.95 * math.sqrt(2 / COUNT)


@pytest.mark.parametrize("size", [(10, 1000), (1000, 10), (7, 300), (300, 7), (1, 50), (50, 1)])
def test_where_no_try_fits_the_box_is_the_central_one_of_torchvision(size: tuple[int, int]) -> None:
    whole = (0.99, 1.0)
    assert boxes_of([size], scale=whole).tolist() == torchvision_boxes(size, 1, whole).tolist()


def test_every_box_lies_in_its_image() -> None:
    sizes = [(1, 1), (1, 9), (9, 1), (2, 3), (256, 341), (5, 4000)] * 500
    top, left, height, width = boxes_of(sizes).unbind(1)
    full_height, full_width = torch.tensor(sizes).unbind(1)
    assert min(top.min(), left.min()) >= 0 and min(height.min(), width.min()) >= 1
    assert (top + height <= full_height).all() and (left + width <= full_width).all()


def test_boxes_follow_from_the_seed_and_not_from_the_sizes_of_other_images() -> None:
    assert torch.equal(boxes_of([(50, 60), (70, 80)]), boxes_of([(50, 60), (70, 80)]))
    assert torch.equal(boxes_of([(50, 60), (70, 80)])[1], boxes_of([(2000, 3), (70, 80)])[1])
    assert not torch.equal(boxes_of([(50, 60), (70, 80)]), boxes_of([(50, 60), (70, 80)], seed=1))


def test_no_images_have_no_boxes_and_no_crops() -> None:
    none = boxes_in(torch.empty(0, 2), draw_numbers(0, torch.Generator()), SCALE)
    assert none.shape == (0, 4) and random_resized_crops([], none, 8).shape == (0, 3, 8, 8)


def photographs() -> list[Tensor]:
    """Images of several sizes, smooth as photographs are, in the layout of a cache."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(256, 341), (256, 256), (341, 256), (60, 90), (224, 224)]
    coarse = [255 * torch.rand(1, 3, height // 8, width // 8, generator=generator) for height, width in sizes]
    smooth = [F.interpolate(x, size, mode="bilinear") for x, size in zip(coarse, sizes, strict=True)]
    return [image[0].byte().movedim(0, 2).contiguous().movedim(2, 0) for image in smooth]


def in_floats(image: Tensor, box: list[int], size: int) -> Tensor:
    """A crop by arithmetic in floats."""
    top, left, height, width = box
    part = image[None, :, top : top + height, left : left + width].float()
    return F.interpolate(part, (size, size), mode="bilinear", antialias=True)[0].round()


@pytest.mark.parametrize("size", [32, 224])
def test_crops_are_within_1_of_those_in_floats(size: int) -> None:
    pictures = photographs()
    boxes = boxes_of([(image.shape[1], image.shape[2]) for image in pictures])
    crops = random_resized_crops(pictures, boxes, size)
    assert crops.dtype == torch.uint8 and crops.shape == (len(pictures), 3, size, size)
    for crop, image, box in zip(crops, pictures, boxes.tolist(), strict=True):
        assert (crop - in_floats(image, box, size)).abs().max() <= 1


def test_crops_are_the_same_of_images_in_any_layout() -> None:
    pictures = photographs()
    boxes = boxes_of([(image.shape[1], image.shape[2]) for image in pictures])
    contiguous = [image.contiguous() for image in pictures]
    assert torch.equal(random_resized_crops(pictures, boxes, 48), random_resized_crops(contiguous, boxes, 48))


def test_crops_are_flipped_where_they_are_told_to_be() -> None:
    pictures = photographs()
    boxes = boxes_of([(image.shape[1], image.shape[2]) for image in pictures])
    flipped = torch.tensor([True, False, True, True, False])
    crops, plain = random_resized_crops(pictures, boxes, 64, flipped), random_resized_crops(pictures, boxes, 64)
    expected = torch.where(flipped.view(-1, 1, 1, 1), plain.flip(3), plain)
    assert (crops.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("part", [(slice(None), slice(None)), (slice(3, 90), slice(5, 200))])
def test_images_are_resized_on_the_fast_path_of_torch(part: tuple[slice, slice]) -> None:
    """Which returns channels last, and is left without a sign if the strides are not those of that layout."""
    image = photographs()[0][:, part[0], part[1]]
    assert images.resized(image, 24, 36).movedim(0, 2).is_contiguous()
