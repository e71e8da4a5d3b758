"""Forecasting: loss and metrics. Files are read in data.py; the loop is in engine/trainer.py."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from config import Config
from data import load_data
from engine.data.loaders import make_loaders
from engine.optim.optimizers import build_optimizers
from engine.trainer import Trainer
from model import build_model_list


class Task(Trainer):
    """Batches are windows of numbers (B, W) and the number after each (B,), all standardised; so are outputs (B,)."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        splits, self.meta = load_data(config)
        self.train_loader, self.eval_loader, self.test_loader = make_loaders(
            splits, config.batch_size, config.seed, self.device
        )
        self.model_list = build_model_list(self.meta, config.num_parts)
        self.optimizer_list = build_optimizers(self.model_list, config)
        self.criterion = nn.MSELoss()
        self.key_metric, self.key_mode = "close", "max"

    def metric(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The fraction of predictions less than half a standard deviation from the target."""
        return {"close": ((pred - y).abs() < 0.5).float().mean()}


def to_rows(names: list[str], pred: Tensor, meta: dict[str, Any], output: Path) -> list[dict[str, Any]]:
    """For predict.py: a row for each input, with the number that comes next, from predictions (B,)."""
    values = (pred * meta["std"] + meta["mean"]).tolist()
    return [{"input": name, "next": value} for name, value in zip(names, values, strict=True)]
