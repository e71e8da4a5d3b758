"""Regression: loss, metrics and pictures. Tables are read in data.py; the loop is in engine/trainer.py."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from columns import num_features
from config import Config
from data import load_data
from engine.data.loaders import make_loaders
from engine.monitor.figures import caption, new_figure
from engine.optim.optimizers import build_optimizers
from engine.runtime.errors import UserError
from engine.trainer import Trainer
from metrics import R2, RootMeanSquaredError
from model import build_model_list

LOSSES = {"mse": nn.MSELoss, "huber": nn.HuberLoss}


class Task(Trainer):
    """Batches are features (B, F) and standardised targets (B,); so are the outputs."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        splits, self.meta = load_data(config)
        self.train_loader, self.eval_loader, self.test_loader = make_loaders(
            splits, config.batch_size, config.seed, self.device
        )
        self.model_list = build_model_list(self.meta, config.num_parts)
        self.optimizer_list = build_optimizers(self.model_list, config)
        self.criterion = LOSSES[config.loss]()
        self.dataset_metrics = {"r2": R2(), "rmse": RootMeanSquaredError(self.meta["target_std"])}
        self.key_metric = "r2"

    def check_inputs(self, x: Tensor) -> None:
        """Raises a UserError for features that are not those of the columns."""
        wanted = sum(map(num_features, self.meta["columns"]))
        if x.dim() != 2 or x.shape[1] != wanted:
            raise UserError(
                f"features have the shape {tuple(x.shape)}, not (B, {wanted}); encode in data.py makes them"
            )

    def loss(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Mean squared error, or Huber loss; any other loss by name would be recorded beside it."""
        return {"loss": self.criterion(pred, y)}

    def metric(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The mean absolute error, in the target's own unit."""
        return {"mae": (pred.cpu().double() - y.cpu()).abs().mean() * self.meta["target_std"]}

    def draw(self, batch: Any) -> dict[str, Any]:
        """Predicted against true targets of some rows, in the target's own unit; those on the line are right."""
        x, y = batch
        standardised = (v.cpu().double() for v in (y, self.inference(x)))
        true, predicted = (v * self.meta["target_std"] + self.meta["target_mean"] for v in standardised)
        figure, axes = new_figure()
        axes[0, 0].plot(true, predicted, ".")
        axes[0, 0].axline((float(true[0]), float(true[0])), slope=1, color="grey")
        target = caption(self.meta["target"])
        axes[0, 0].set(xlabel=f"true {target}", ylabel=f"predicted {target}")
        return {"predictions": figure}


def to_rows(names: list[str], pred: Tensor, meta: dict[str, Any], output: Path) -> list[dict[str, Any]]:
    """For predict.py: a row for each input, with the target in its own unit, from standardised predictions (B,)."""
    values = (pred.cpu().double() * meta["target_std"] + meta["target_mean"]).tolist()
    column = f"predicted {meta['target']}"
    return [{"input": name, column: value} for name, value in zip(names, values, strict=True)]
