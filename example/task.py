"""Image classification: loss, metrics and pictures. Files are read in data.py; the loop is in engine/trainer.py."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from augmentation import augmentation_of
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
from engine.network import merge_stages
from engine.optim.optimizers import build_optimizers
from engine.trainer import Trainer
from fine_tuning import choose_batch_size, choose_epochs, freeze, lr_factors
from grad_cam import draw_most_probable
from image_grid import draw_images
from images import check_images
from linear_probe import fit_head
from model import STAGES, build_stages


class Task(Trainer):
    """Batches are uint8 images (B, 3, S, S), 0 to 255, and class indices (B,); outputs are logits (B, classes)."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        splits, self.meta = load_data(config)
        self.augmentation = augmentation_of(config, self.meta)
        self.epochs = choose_epochs(config, self.meta)
        batch_size = choose_batch_size(config, self.meta, len(splits["train"]))
        self.train_loader, self.eval_loader, self.test_loader = make_loaders(
            splits, batch_size, config.seed, self.device, config.workers
        )
        self.stages = build_stages(self.meta, config.weights)
        self.frozen = freeze(dict(zip(STAGES, self.stages, strict=True)), config, self.meta)
        self.model_list = merge_stages(self.stages, config.num_parts)
        self.optimizer_list = build_optimizers(self.model_list, config, lr_factors(self.stages, config, self.meta))
        classes = self.meta["classes"]
        self.criterion = class_loss(config, splits["train"], classes, config.label_smoothing)
        self.confusion = MacroF1(len(classes))
        self.dataset_metrics = {"f1": self.confusion, "balanced_acc": BalancedAccuracy(len(classes))}
        self.key_metric = "acc"

    def augment(self, batch: Any) -> Any:
        """Images and targets after what is done to whole batches; mixed images have probabilities (B, C) as targets."""
        return self.augmentation(batch, len(self.meta["classes"]))

    def prepare(self) -> None:
        """Fits the head of a pretrained network to what its backbone says of the training images."""
        if self.meta["pretrained"]:
            fit_head(self.stages, self.train_loader, self.criterion, self.device)

    def begin_epoch(self) -> None:
        """Trains the frozen stages, too, once their epochs are over."""
        self.frozen.begin_epoch(self.epoch)

    def check_inputs(self, x: Tensor) -> None:
        """Raises a UserError for anything but images of bytes."""
        check_images(x)

    def loss(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Cross-entropy; any other loss by name would be recorded beside it."""
        return {"loss": self.criterion(pred, y)}

    def metric(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Top-1 and top-5 accuracy."""
        hits = pred.topk(min(5, pred.shape[1])).indices == y.unsqueeze(1)
        return {"acc": hits[:, 0].float().mean(), "acc_top5": hits.any(1).float().mean()}

    def draw(self, batch: Any) -> dict[str, Any]:
        """Some images with their predicted classes, and the confusion matrix of the whole evaluation."""
        (x, y), classes = batch, self.meta["classes"]
        best = self.inference(x).argmax(1)
        pairs = [(classes[predicted], classes[true]) for predicted, true in zip(best, y, strict=True)]
        titles = [predicted if predicted == true else f"{predicted}, not {true}" for predicted, true in pairs]
        return {
            "predictions": draw_images(x, titles, (best == y).tolist()),
            "confusion": draw_confusion(self.confusion.matrix, classes),
        }

    def report(self, split: str) -> None:
        """Precision, recall, F1 and number of images of each class."""
        report_classes(self.confusion.matrix, self.meta["classes"], Path(self.ckpt_dir) / f"{split}_classes.csv")


def to_rows(names: list[str], pred: Tensor, meta: dict[str, Any], output: Path) -> list[dict[str, Any]]:
    """For predict.py: a row for each input, from logits (B, classes)."""
    return class_rows(names, pred, meta["classes"])


def average(preds: list[Tensor], metas: list[dict[str, Any]]) -> Tensor:
    """For predict.py: the mean of several networks' probabilities, as logits (B, classes), of the same classes."""
    return mean_of_logits(preds)


def explain(task: Trainer, x: Tensor, pred: Tensor) -> Iterator[Any]:
    """For predict.py --explain: a figure for each image, of where the network looks for the class that it predicts.

    Args:
        task: with weights.
        x: images (B, 3, S, S).
        pred: their logits (B, classes).
    """
    return draw_most_probable(task, x, pred.softmax(1), task.meta["classes"])
