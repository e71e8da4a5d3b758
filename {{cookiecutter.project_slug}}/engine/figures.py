"""Pictures of a run, as PNG files in its folder and in TensorBoard. What is on them a task says, in its `draw`."""

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy

from . import UserError
from .devices import to_device
from .distributed import is_main
from .files import replacing
from .seeding import kept_random_state

SAMPLES = 64  # that are predicted to be drawn, where the data set can choose them; else a batch
# For names that matplotlib's own font lacks, whichever of these a machine has.
FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Microsoft YaHei", "PingFang SC", "WenQuanYi Micro Hei", "SimHei")


def new_figure(columns: int = 1, rows: int = 1, width: float = 6.4, height: float = 4.8) -> Any:
    """A matplotlib figure, in inches, and its axes in rows and columns, an array of shape (rows, columns)."""
    if "matplotlib" not in sys.modules:
        os.environ["MPLBACKEND"] = "agg"  # a notebook's, which a process inherits, may not be installed here
    import matplotlib  # here: it takes half a second, and a run without pictures needs none
    from matplotlib.figure import Figure
    from matplotlib.font_manager import get_font_names

    known = set(get_font_names())
    matplotlib.rcParams["font.family"] = ["DejaVu Sans", *(font for font in FONTS if font in known)]
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def caption(name: str, longest: int = 60) -> str:
    """A name as it can stand in a picture: `$` begins no formula, and what is too long is cut."""
    cut = name if len(name) <= longest else f"{name[: longest - 1]}\u2026"
    return cut.replace("$", r"\$")


def rendered(figure: Any) -> Any:
    """A figure as an array of bytes of shape (height, width, 4)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that no font has, and of names that leave no room
        canvas.draw()
    return canvas.buffer_rgba()


def write(picture: Any, path: Path) -> None:
    """Writes what `rendered` returned as PNG.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib.image import imsave

    with replacing(path) as file:
        imsave(file, picture, format="png")


def keep(picture: Any, path: Path) -> None:
    """The same; where the file cannot be written it says so, and training goes on."""
    try:
        write(picture, path)
    except UserError as error:
        print(f"no picture: {error}")


def draw_evaluation(trainer: Any, loader: Any, split: str, step: int) -> None:
    """Draws what a trainer's `draw` makes of its last evaluation, that of `loader`, and of some samples there."""
    dataset: Any = getattr(loader, "dataset", None)
    with kept_random_state(trainer.device):
        batch = dataset.some(SAMPLES) if hasattr(dataset, "some") else next(iter(loader))
        batch = to_device(batch, trainer.device)
    figures = trainer.draw(batch)  # in every process: of divided weights each has a piece
    for name, figure in figures.items() if is_main() else ():
        picture = rendered(figure)
        keep(picture, Path(trainer.ckpt_dir) / f"{split}_{name}.png")
        trainer.writer.add_image(f"{split}/{name}", numpy.asarray(picture)[..., :3], step, dataformats="HWC")
