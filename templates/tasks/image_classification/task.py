"""Image classification: loss, metrics and pictures. Files are read in data.py; the loop is in engine/trainer.py."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from classification import MacroF1, class_rows, draw_confusion
from config import Config
from crops import draw_images
from data import load_data
from engine.data.loaders import make_loaders
from engine.optim.optimizers import build_optimizers
from engine.trainer import Trainer
from images import check_images
from model import build_model_list


class Task(Trainer):
    """Batches are uint8 images (B, 3, S, S), 0 to 255, and class indices (B,); outputs are logits (B, classes)."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        splits, self.meta = load_data(config)
        self.train_loader, self.eval_loader, self.test_loader = make_loaders(
            splits, config.batch_size, config.seed, self.device, config.workers
        )
        self.model_list = build_model_list(self.meta, config.num_parts, pretrained=not config.from_scratch)
        self.optimizer_list = build_optimizers(self.model_list, config)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
        self.confusion = MacroF1(len(self.meta["classes"]))
        self.dataset_metrics = {"f1": self.confusion}
        self.key_metric = "acc"

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


def to_rows(names: list[str], pred: Tensor, meta: dict[str, Any], output: Path) -> list[dict[str, Any]]:
    """For predict.py: a row for each input, from logits (B, classes)."""
    return class_rows(names, pred, meta["classes"])
