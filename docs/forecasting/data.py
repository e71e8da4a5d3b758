"""A series of numbers: from a file to windows and the number after each, for training and prediction."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config import Config
from engine.data.splits import Split, sizes_of
from engine.runtime.errors import UserError
from engine.runtime.seeding import epoch_generator


def load_data(config: Config) -> tuple[dict[str, Split], dict[str, Any]]:
    """Train and val, which are the last windows and share no number with train, and what prediction needs to know.

    Raises:
        UserError: no number, or too few.
    """
    series = make_synthetic(config) if config.data == "synthetic" else read_series(Path(config.data))
    windows = series.unfold(0, config.window + 1, 1) if len(series) > config.window else series[:0]
    end = len(windows) - max(1, round(config.val_fraction * len(windows)))
    if end <= config.window:
        raise UserError(f"--data {config.data} has {len(series)} numbers; give more, or a smaller --window")
    indices = {"train": torch.arange(end - config.window), "val": torch.arange(end, len(windows))}
    mean, std = series[:end].mean(), series[:end].std().clamp(min=1e-6)
    windows = (windows - mean) / std
    splits = {name: Split(windows[:, :-1], windows[:, -1], chosen) for name, chosen in indices.items()}
    print(f"data: {sizes_of(splits)} windows of {config.window} numbers")
    return splits, {"window": config.window, "width": config.width, "mean": mean.item(), "std": std.item()}


def read_series(path: Path) -> Tensor:
    """The numbers in a file, one in each line, shape (N,); a UserError where it cannot be read."""
    try:
        return torch.tensor([float(line) for line in path.read_text("utf-8").split()])
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); give a file with a number in each line") from error


def make_synthetic(config: Config) -> Tensor:
    """A sine wave with an overtone and noise: seeded, and learnt in seconds."""
    t = torch.arange(600.0 if config.smoke else 2000.0)
    noise = torch.randn(len(t), generator=epoch_generator(config.seed, 0))
    return 20 + 5 * (t / 5).sin() + 2 * (t / 2).sin() + 0.5 * noise


def read_inputs(inputs: Sequence[Any], meta: dict[str, Any], batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """For predict.py: of each file its name and its last window (1, W); a UserError for a series that is too short."""
    for path in inputs:
        series = read_series(Path(path))[-meta["window"] :]
        if len(series) < meta["window"]:
            raise UserError(f"{path} has {len(series)} numbers; {meta['window']} are needed")
        yield [str(path)], ((series - meta["mean"]) / meta["std"])[None]
