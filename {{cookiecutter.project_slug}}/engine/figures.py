"""Pictures of a run, as PNG files in its folder and in TensorBoard. What is on them a task says, in its `draw`."""

from pathlib import Path
from typing import Any

from . import UserError
from .devices import to_device
from .distributed import is_main
from .files import replacing
from .seeding import kept_random_state

SAMPLES = 64  # that are predicted to be drawn, where the data set can choose them; else a batch


def new_figure(columns: int = 1, rows: int = 1, width: float = 6.4, height: float = 4.8) -> Any:
    """A matplotlib figure, in inches, and its axes in rows and columns, an array of shape (rows, columns)."""
    from matplotlib.figure import Figure  # here: it takes half a second, and a run without pictures needs none

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def keep(figure: Any, path: Path) -> None:
    """Writes a figure as PNG. Where that fails it says so, and training goes on."""
    try:
        with replacing(path) as file:
            figure.savefig(file, format="png", dpi=100)
    except UserError as error:
        print(f"no picture: {error}")


def draw_evaluation(trainer: Any, loader: Any, split: str) -> None:
    """Draws what a trainer's `draw` makes of its last evaluation, that of `loader`, and of some samples there."""
    dataset: Any = getattr(loader, "dataset", None)
    with kept_random_state(trainer.device):
        batch = dataset.some(SAMPLES) if hasattr(dataset, "some") else next(iter(loader))
        batch = to_device(batch, trainer.device)
    pred = trainer.inference(batch[0])
    if is_main():
        for name, figure in trainer.draw(batch, pred).items():
            keep(figure, Path(trainer.ckpt_dir) / f"{split}_{name}.png")
            trainer.writer.add_figure(f"{split}/{name}", figure, trainer.global_step)
