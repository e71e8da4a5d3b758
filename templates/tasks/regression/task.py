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
from importance import report_importance
from metrics import R2, RootMeanSquaredError, TargetScale
from model import build_model_list
from table_networks import choose_batch_size, count_members, describe_rows, for_members

EPOCHS = 60  # unless config.epochs says how many
LOSSES = {"mse": nn.MSELoss, "huber": nn.HuberLoss}


class Task(Trainer):
    """Batches are features (B, F) and standardised targets (B,), as are the outputs.

    In training batches also say which rows they are, and each member of the network has an output and a target.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        splits, self.meta = load_data(config)
        self.epochs = config.epochs or EPOCHS
        self.scale = TargetScale(self.meta)
        self.model_list = build_model_list(self.meta, config.num_parts)
        self.members = count_members(self.model_list)
        splits["train"] = describe_rows(self.model_list, splits["train"])
        batch_size = choose_batch_size(config.batch_size, len(splits["train"]))
        self.train_loader, self.eval_loader, self.test_loader = make_loaders(
            splits, batch_size, config.seed, self.device
        )
        self.optimizer_list = build_optimizers(self.model_list, config)
        self.criterion = LOSSES[config.loss]()
        self.dataset_metrics = {"r2": R2(self.scale), "rmse": RootMeanSquaredError(self.scale)}
        self.importance = config.importance
        self.key_metric = "loss"  # of the few rows of a validation set r2 is decided by the largest targets

    def check_inputs(self, x: Tensor) -> None:
        """Raises a UserError for features that are not those of the columns."""
        wanted = sum(map(num_features, self.meta["columns"]))
        if x.dim() != 2 or x.shape[1] != wanted:
            raise UserError(
                f"features have the shape {tuple(x.shape)}, not (B, {wanted}); encode in data.py makes them"
            )

    def augment(self, batch: Any) -> Any:
        """The batch with which rows it has, none of which is compared with itself, and a target for each member."""
        return for_members(batch, self.members)

    def loss(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Mean squared error, or Huber loss; any other loss by name would be recorded beside it."""
        return {"loss": self.criterion(pred, y)}

    def metric(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The mean absolute error, in the target's own unit."""
        return {"mae": (self.scale.relative(pred) - self.scale.relative(y)).abs().mean() * self.scale.std}

    def draw(self, batch: Any) -> dict[str, Any]:
        """Predicted against true targets of some rows, in the target's own unit; those on the line are right."""
        x, y = batch
        true, predicted = self.scale.in_unit(y), self.scale.in_unit(self.inference(x))
        figure, axes = new_figure()
        axes[0, 0].plot(true, predicted, ".")
        axes[0, 0].axline((float(true[0]), float(true[0])), slope=1, color="grey")
        target = caption(self.meta["target"])
        axes[0, 0].set(xlabel=f"true {target}", ylabel=f"predicted {target}")
        return {"predictions": figure}

    def analyse(self) -> dict[str, Any]:
        """With --importance: how much each column matters, and how predictions in the target's own unit follow it."""
        if not self.importance:
            return {}
        target = self.meta["target"]
        return report_importance(self, lambda pred: {target: self.scale.in_unit(pred)}, f"mean predicted {target}")


def to_rows(names: list[str], pred: Tensor, meta: dict[str, Any], output: Path) -> list[dict[str, Any]]:
    """For predict.py: a row for each input, with the target in its own unit, from standardised predictions (B,)."""
    values = TargetScale(meta).in_unit(pred).tolist()
    column = f"predicted {meta['target']}"
    return [{"input": name, column: value} for name, value in zip(names, values, strict=True)]
