"""A grid of images to look at, each below a title."""

import textwrap
from typing import Any

from torch import Tensor

from engine.monitor.figures import caption, new_figure

GRID_IMAGES = 16  # of a figure


def draw_images(images: Tensor, titles: list[str], correct: list[bool]) -> Any:
    """The first 16 images, uint8 (N, 3, H, W), in a figure, each below its title, in red if that is not correct."""
    images = images[:GRID_IMAGES].cpu()
    columns = min(4, len(images))
    figure, axes = new_figure(columns, -(-len(images) // columns), 8, 8)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title, is_correct in zip(axes.flat, images, titles, correct, strict=False):
        axis.imshow(image.permute(1, 2, 0).numpy())
        axis.set_title(textwrap.fill(caption(title), 24), fontsize=8, color="black" if is_correct else "red")
    return figure
