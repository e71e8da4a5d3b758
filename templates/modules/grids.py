"""Images beside each other, each under a title that says what was predicted."""

import textwrap
from typing import Any

from torch import Tensor

from engine.figures import caption, new_figure

SHOWN = 16


def draw_grid(images: Tensor, titles: list[str], right: list[bool]) -> Any:
    """The first 16 images, bytes of shape (N, 3, H, W), each with its title, in red where that is not right."""
    images = images[:SHOWN].cpu()
    columns = min(4, len(images))
    figure, axes = new_figure(columns, -(-len(images) // columns), 8, 8)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title, is_right in zip(axes.flat, images, titles, right, strict=False):
        axis.imshow(image.permute(1, 2, 0).numpy())
        axis.set_title(textwrap.fill(caption(title), 24), fontsize=8, color="black" if is_right else "red")
    return figure
