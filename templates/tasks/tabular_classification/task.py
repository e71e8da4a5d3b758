"""Classes of rows: loss, metrics and pictures. Tables are read in data.py; the loop is in engine/trainer.py."""

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from classification import (
    BalancedAccuracy,
    MacroF1,
    class_loss,
    class_rows,
    draw_confusion,
    mean_of_logits,
    report_classes,
    sampled,
)
from config import Config
from data import load_data
from engine.data.loaders import make_loaders
from engine.optim.optimizers import build_optimizers
from engine.trainer import Trainer
from importance import report_importance
from metrics import CalibrationError, RocAuc
from model import build_model_list
from probability_figures import draw_reliability, draw_roc
from table_networks import choose_batch_size, choose_epochs, count_members, describe_rows, for_members
from table_rows import check_features

CURVES = 5  # classes whose partial dependence is drawn


class Task(Trainer):
    """Batches are features (B, F) and class indices (B,); outputs are logits (B, C).

    In training batches also say which rows they are, and each member of the network has an output and a target.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        splits, self.meta = load_data(config)
        classes = self.meta["classes"]
        self.epochs = config.epochs or choose_epochs(len(splits["train"]))
        self.model_list = build_model_list(self.meta, config.num_parts)
        self.members = count_members(self.model_list)
        self.criterion = class_loss(config, splits["train"], classes, config.label_smoothing)
        splits["train"] = sampled(describe_rows(self.model_list, splits["train"]), config)
        batch_size = choose_batch_size(config.batch_size, len(splits["train"]))
        self.train_loader, self.eval_loader, self.test_loader = make_loaders(
            splits, batch_size, config.seed, self.device
        )
        self.optimizer_list = build_optimizers(self.model_list, config)
        self.confusion, self.roc_auc, self.calibration = MacroF1(len(classes)), RocAuc(), CalibrationError()
        self.dataset_metrics = {
            "balanced_acc": BalancedAccuracy(len(classes)),
            "f1": self.confusion,
            "auc": self.roc_auc,
            "ece": self.calibration,
        }
        self.importance = config.importance
        self.key_metric = "log_loss"  # of the few rows of a validation set the accuracy takes few values

    def check_inputs(self, x: Any) -> None:
        """Raises a UserError for features that are not those of the columns."""
        check_features(x, self.meta["columns"])

    def augment(self, batch: Any) -> Any:
        """The batch with a target for each member of the network."""
        return for_members(batch, self.members)

    def loss(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Cross-entropy; any other loss by name would be recorded beside it."""
        return {"loss": self.criterion(pred, y)}

    def metric(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Accuracy, and the mean negative logarithm of the true class's probability, whatever the loss is."""
        return {"acc": (pred.argmax(1) == y).float().mean(), "log_loss": cross_entropy(pred.double(), y)}

    def draw(self, batch: Any) -> dict[str, Any]:
        """The confusion matrix, ROC curves and reliability of the whole evaluation."""
        classes = self.meta["classes"]
        return {
            "confusion": draw_confusion(self.confusion.matrix, classes),
            "roc": draw_roc(*self.roc_auc.predictions(), classes),
            "reliability": draw_reliability(self.calibration),
        }

    def report(self, split: str) -> None:
        """Precision, recall, F1 and number of rows of each class."""
        report_classes(self.confusion.matrix, self.meta["classes"], Path(self.ckpt_dir) / f"{split}_classes.csv")

    def analyse(self) -> dict[str, Any]:
        """With --importance: how much each column matters, and how probabilities of the largest classes follow it."""
        if not self.importance:
            return {}
        classes, sizes = self.meta["classes"], self.confusion.matrix.sum(1)
        drawn = sizes.argsort(descending=True, stable=True)[:CURVES].tolist() if len(classes) > 2 else [1]

        def curves(pred: Tensor) -> dict[str, Tensor]:
            probabilities = pred.softmax(1)
            return {classes[number]: probabilities[:, number] for number in drawn}

        unit = "mean probability" if len(classes) > 2 else f"mean probability of {classes[1]}"
        return report_importance(self, curves, unit)


def to_rows(names: list[str], pred: Tensor, meta: dict[str, Any], output: Path) -> list[dict[str, Any]]:
    """For predict.py: a row for each input, from logits (B, C)."""
    return class_rows(names, pred, meta["classes"])


def average(preds: list[Tensor], metas: list[dict[str, Any]]) -> Tensor:
    """For predict.py: the mean of several networks' probabilities, as logits (B, C), of the same classes."""
    return mean_of_logits(preds)
