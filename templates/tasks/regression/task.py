"""Regression: loss, metrics and pictures. Tables are read in data.py; the loop is in engine/trainer.py."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from config import Config
from data import load_data
from engine.data.loaders import make_loaders
from engine.monitor.figures import caption, new_figure
from engine.optim.optimizers import build_optimizers
from engine.trainer import Trainer
from importance import report_importance
from metrics import R2, IntervalWidth, RootMeanSquaredError, TargetScale
from model import build_model_list
from table_networks import choose_batch_size, choose_epochs, count_members, describe_rows, for_members
from table_rows import check_features

LOSSES = {"mse": nn.MSELoss, "huber": nn.HuberLoss}


class Task(Trainer):
    """Batches are features (B, F) and standardised targets (B,), as are the outputs.

    In training batches also say which rows they are, and each member of the network has an output and a target.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        splits, self.meta = load_data(config)
        self.epochs = config.epochs or choose_epochs(len(splits["train"]))
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
        self.interval = IntervalWidth(self.scale, config.interval)
        self.dataset_metrics = {"r2": R2(self.scale), "rmse": RootMeanSquaredError(self.scale)}
        self.dataset_metrics |= {"interval_width": self.interval} if config.interval else {}
        self.score_modes = {"interval_width": "min"}
        self.importance = config.importance
        self.key_metric = "loss"  # of the few rows of a validation set r2 is decided by the largest targets

    def check_inputs(self, x: Any) -> None:
        """Raises a UserError for features that are not those of the columns."""
        check_features(x, self.meta["columns"])

    def augment(self, batch: Any) -> Any:
        """The batch with a target for each member of the network."""
        return for_members(batch, self.members)

    def loss(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Mean squared error, or Huber loss; any other loss by name would be recorded beside it."""
        return {"loss": self.criterion(pred, y)}

    def metric(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The mean absolute error, in the target's own unit."""
        return {"mae": (self.scale.relative(pred) - self.scale.relative(y)).abs().mean() * self.scale.std}

    def prediction_meta(self) -> dict[str, Any]:
        """What to add to a prediction for the ends of its interval, from the residuals of the evaluation."""
        return {"interval": self.interval.ends()} if self.interval.targets else {}

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
    scale, target = TargetScale(meta), meta["target"]
    columns = {f"predicted {target}": scale.in_unit(pred).tolist()}
    for end, added in zip(("lowest", "highest"), meta.get("interval", []), strict=False):
        columns[f"{end} {target}"] = scale.in_unit(pred + added).tolist()
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [{"input": name, **row} for name, row in zip(names, rows, strict=True)]


def average(preds: list[Tensor], metas: list[dict[str, Any]]) -> Tensor:
    """For predict.py: the mean of several networks' targets in their own unit, standardised for the first meta (B,).

    If the first fold has chosen the logarithm and another one has not, a mean below 0 counts as 0.
    """
    scale, values = TargetScale(metas[0]), [TargetScale(m).in_unit(pred) for pred, m in zip(preds, metas, strict=True)]
    mean = torch.stack(values).mean(0)
    return scale.standardised(mean.clamp(min=torch.finfo(mean.dtype).tiny) if scale.log else mean)
