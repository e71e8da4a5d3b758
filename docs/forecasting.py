"""The task, forecasting: the next number of a series. How it is trained is in engine/trainer.py."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from config import Config
from engine import UserError
from engine.data import Rows, loaders
from engine.network import Fp32Linear, merge_stages
from engine.optimizers import build_optimizers
from engine.seeding import epoch_generator, seed_everything
from engine.trainer import Trainer


class Task(Trainer):
    """Batches are windows of numbers, shape (B, W), and the number after each, shape (B,), all standardised."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.configure(config)
        data, self.meta = load_data(config)
        self.train_loader, self.eval_loader, self.test_loader = loaders(
            data, config.batch_size, config.seed, 0, self.device
        )
        seed_everything(config.seed)
        self.model_list = build_model_list(self.meta, config.num_parts)
        self.optimizer_list = build_optimizers(self.model_list, config)
        self.criterion = nn.MSELoss()
        self.key_metric, self.key_mode = "close", "max"

    def metric(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Part of the predictions that are less than half a standard deviation from the truth."""
        return {"close": ((pred - y).abs() < 0.5).float().mean()}


def build_model_list(meta: dict[str, Any], num_parts: int) -> list[nn.Module]:
    """A perceptron in `num_parts` parts, from windows (B, W) to numbers (B,)."""
    w = meta["width"]
    stem = nn.Sequential(nn.Linear(meta["window"], w), nn.SiLU())
    body = nn.Sequential(nn.Linear(w, w), nn.SiLU())
    return merge_stages([stem, body, nn.Sequential(Fp32Linear(w, 1), nn.Flatten(0))], num_parts)


def load_data(config: Config) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Train, val, which are the last windows and share no number with train, and what prediction needs to know.

    Raises:
        UserError: no number, or too few.
    """
    series = make_synthetic(config) if config.data == "synthetic" else read_series(Path(config.data))
    windows = series.unfold(0, config.window + 1, 1) if len(series) > config.window else series[:0]
    end = len(windows) - max(1, round(config.val_fraction * len(windows)))
    if end <= config.window:
        raise UserError(f"--data {config.data} has {len(series)} numbers; give more, or a smaller --window")
    rows = {"train": torch.arange(end - config.window), "val": torch.arange(end, len(windows))}
    mean, std = series[:end].mean(), series[:end].std().clamp(min=1e-6)
    windows = (windows - mean) / std
    meta = {"window": config.window, "width": config.width, "mean": mean.item(), "std": std.item()}
    return {name: Rows(windows[:, :-1], windows[:, -1], chosen) for name, chosen in rows.items()}, meta


def read_series(path: Path) -> Tensor:
    """The numbers in a file, one in each line, shape (N,); a UserError where it cannot be read."""
    try:
        return torch.tensor([float(line) for line in path.read_text("utf-8").split()])
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); give a file with a number in each line") from error


def make_synthetic(config: Config) -> Tensor:
    """A wave with an overtone under noise: seeded, and learnt in seconds."""
    t = torch.arange(600.0 if config.smoke else 2000.0)
    noise = torch.randn(len(t), generator=epoch_generator(config.seed, 0))
    return 20 + 5 * (t / 5).sin() + 2 * (t / 2).sin() + 0.5 * noise


def read_inputs(paths: Sequence[Path], meta: dict[str, Any], batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """File by file its name, and its last window, shape (1, W); a UserError for a series that is too short."""
    for path in paths:
        series = read_series(path)[-meta["window"] :]
        if len(series) < meta["window"]:
            raise UserError(f"{path} has {len(series)} numbers; {meta['window']} are needed")
        yield [str(path)], ((series - meta["mean"]) / meta["std"])[None]


def to_rows(names: list[str], pred: Tensor, meta: dict[str, Any], output: Path) -> list[dict[str, str]]:
    """The number that comes next, from predictions of shape (B,)."""
    values = (pred * meta["std"] + meta["mean"]).tolist()
    return [{"input": name, "next": f"{value:.6g}"} for name, value in zip(names, values, strict=True)]


# ==== config.py ====
class Settings:
    # The series and the network
    data: str = "synthetic"  # synthetic, or a file with a number in each line
    window: int = 32  # numbers from which the next one is predicted
    val_fraction: float = 0.1  # part of the windows, the last ones, that chooses the best epoch
    batch_size: int = 64  # windows per batch
    width: int = 64  # units per layer
    optimizer: Literal["sgd", "adamw"] = "adamw"  # sgd uses Nesterov momentum
    lr: tuple[float, ...] = (0.003,)  # base learning rate: one for all parts, or one per part
    weight_decay: float = 0.01  # on weights of two and more dimensions; biases have none


# ==== tests/test_task.py ====
"""What this project promises of series: the next number is predicted, and a bad file is named."""

from pathlib import Path

import pytest

import predict
from config import Config
from engine import UserError
from task import load_data
from test_project import run


def test_the_next_number_is_predicted(tmp_path: Path) -> None:
    run_dir = run(tmp_path / "runs", "--epochs", "1", "--warm_up_mode", "none")
    (tmp_path / "new.txt").write_text("\n".join(map(str, range(40))), "utf-8")
    output = tmp_path / "predictions.csv"
    predict.predict(predict.Arguments((tmp_path / "new.txt",), run_dir / "best.pth", output))
    assert output.read_text("utf-8").splitlines()[0] == "input,next"


@pytest.mark.parametrize("numbers", [0, 10, 60])
def test_a_series_that_is_too_short_is_refused(numbers: int, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("1\n" * numbers, "utf-8")
    with pytest.raises(UserError, match="smaller --window"):
        load_data(Config(data=str(tmp_path / "data.txt")))


def test_a_file_with_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("1\ntwo\n", "utf-8")
    with pytest.raises(UserError, match=r"data\.txt cannot be read"):
        load_data(Config(data=str(tmp_path / "data.txt")))


# ==== README.md ====
README = """\
## Train

    python train.py                                  # a synthetic wave, made up on the spot
    python train.py --data FILE                      # your own series, a number in each line

## Predict

    python predict.py --checkpoint check_point/<date>_<time>/best.pth FILE...

prints the number that comes after the last one of each file, and writes it to `predictions.csv`.
"""
