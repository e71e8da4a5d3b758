"""Figures: matplotlib without a display, with fonts for Chinese and Japanese text; written as PNG files."""

import os
import sys
import warnings
from pathlib import Path
from typing import Any

from ..runtime.errors import UserError
from ..runtime.files import atomic_write

# For characters that matplotlib's own font lacks: whichever of these a machine has.
FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Microsoft YaHei", "PingFang SC", "WenQuanYi Micro Hei", "SimHei")


def new_figure(columns: int = 1, rows: int = 1, width: float = 6.4, height: float = 4.8) -> Any:
    """A matplotlib figure, in inches, and its axes, an array of shape (rows, columns)."""
    if "matplotlib" not in sys.modules:
        os.environ["MPLBACKEND"] = "agg"  # a notebook's backend, which a process inherits, may not be installed here
    import matplotlib  # here: it takes half a second, and a run without figures needs none
    from matplotlib.figure import Figure
    from matplotlib.font_manager import get_font_names

    known = set(get_font_names())
    matplotlib.rcParams["font.family"] = ["DejaVu Sans", *(font for font in FONTS if font in known)]
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def caption(name: str, longest: int = 60) -> str:
    """A name as text of a figure: `$` starts no formula, what is no character is `?`, and what is too long is cut."""
    name = name.encode("utf-8", "replace").decode()
    cut = name if len(name) <= longest else f"{name[: longest - 1]}\u2026"
    return cut.replace("$", r"\$")


def render(figure: Any) -> Any:
    """The figure as a uint8 array of shape (height, width, 4)."""
    import numpy
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about characters that no font has, and names that leave no room
        canvas.draw()
    return numpy.asarray(canvas.buffer_rgba())


def write_png(picture: Any, path: Path) -> None:
    """Writes what `render` returned as PNG.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib.image import imsave

    with atomic_write(path) as file:
        imsave(file, picture, format="png")


def try_write_png(picture: Any, path: Path) -> None:
    """The same; if the file cannot be written it says so, and training continues."""
    try:
        write_png(picture, path)
    except UserError as error:
        print(f"no picture: {error}")
