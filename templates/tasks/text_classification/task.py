"""Text classification: loss, metrics and pictures. Files are read in data.py; the loop is in engine/trainer.py."""

from pathlib import Path
from typing import Any

from torch import Tensor

from classification import (
    BalancedAccuracy,
    MacroF1,
    class_loss,
    class_rows,
    draw_confusion,
    mean_of_logits,
    report_classes,
)
from config import Config
from data import load_data
from engine.data.loaders import make_loaders
from engine.optim.optimizers import build_optimizers
from engine.runtime.errors import UserError
from engine.trainer import Trainer
from model import build_model_list


class Task(Trainer):
    """Batches are texts, bytes plus one and 0 for padding (B, L), and class indices (B,); outputs are logits (B, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        splits, self.meta = load_data(config)
        self.train_loader, self.eval_loader, self.test_loader = make_loaders(
            splits, config.batch_size, config.seed, self.device
        )
        self.model_list = build_model_list(self.meta, config.num_parts)
        self.optimizer_list = build_optimizers(self.model_list, config)
        self.criterion = class_loss(config, splits["train"], self.meta["classes"])
        self.confusion = MacroF1(len(self.meta["classes"]))
        self.dataset_metrics = {"f1": self.confusion, "balanced_acc": BalancedAccuracy(len(self.meta["classes"]))}
        self.key_metric = "acc"

    def check_inputs(self, x: Tensor) -> None:
        """Raises a UserError for anything but texts as `Texts` in data.py makes them."""
        if x.dim() != 2 or x.is_floating_point() or x.min() < 0 or x.max() > 256:
            what = f"a tensor {tuple(x.shape)} of {x.dtype}"
            raise UserError(f"{what} is no batch of texts: (B, L) whole numbers from 0 to 256, from Texts in data.py")

    def loss(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Cross-entropy; any other loss by name would be recorded beside it."""
        return {"loss": self.criterion(pred, y)}

    def metric(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Accuracy."""
        return {"acc": (pred.argmax(1) == y).float().mean()}

    def draw(self, batch: Any) -> dict[str, Any]:
        """The confusion matrix of the whole evaluation."""
        return {"confusion": draw_confusion(self.confusion.matrix, self.meta["classes"])}

    def report(self, split: str) -> None:
        """Precision, recall, F1 and number of texts of each class."""
        report_classes(self.confusion.matrix, self.meta["classes"], Path(self.ckpt_dir) / f"{split}_classes.csv")


def to_rows(names: list[str], pred: Tensor, meta: dict[str, Any], output: Path) -> list[dict[str, Any]]:
    """For predict.py: a row for each input, from logits (B, C)."""
    return class_rows(names, pred, meta["classes"])


def average(preds: list[Tensor], metas: list[dict[str, Any]]) -> Tensor:
    """For predict.py: the mean of several networks' probabilities, as logits (B, C), of the same classes."""
    return mean_of_logits(preds)
