"""Multilabel classification: loss, metrics, pictures. Files are read in data.py; the loop is in engine/trainer.py."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from config import Config
from crops import draw_images
from data import load_data
from engine.data.loaders import make_loaders
from engine.optim.optimizers import build_optimizers
from engine.trainer import Trainer
from images import check_images
from metrics import F1, MeanAveragePrecision
from model import build_model_list


class Task(Trainer):
    """Batches are uint8 images (B, 3, S, S), 0 to 255, and labels (B, L), 0.0 or 1.0; outputs are logits (B, L)."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        splits, self.meta = load_data(config)
        self.train_loader, self.eval_loader, self.test_loader = make_loaders(
            splits, config.batch_size, config.seed, self.device, config.workers
        )
        self.model_list = build_model_list(self.meta, config.num_parts, pretrained=not config.from_scratch)
        self.optimizer_list = build_optimizers(self.model_list, config)
        self.criterion = nn.BCEWithLogitsLoss()
        self.dataset_metrics = {"map": MeanAveragePrecision(), "f1_micro": F1(micro=True), "f1_macro": F1(micro=False)}
        self.key_metric = "map"

    def check_inputs(self, x: Tensor) -> None:
        """Raises a UserError for anything but images of bytes."""
        check_images(x)

    def loss(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Binary cross-entropy; any other loss by name would be recorded beside it."""
        return {"loss": self.criterion(pred, y)}

    def draw(self, batch: Any) -> dict[str, Any]:
        """Some images with their predicted labels."""
        x, y = batch
        predicted, true = (self.names_of(present) for present in (self.inference(x) > 0, y > 0.5))
        pairs = list(zip(predicted, true, strict=True))
        titles = [names if names == right else f"{names}; not {right}" for names, right in pairs]
        return {"predictions": draw_images(x, titles, [names == right for names, right in pairs])}

    def names_of(self, present: Tensor) -> list[str]:
        """The names of the labels that are present in each image, from booleans (B, L)."""
        names = [
            [name for name, is_present in zip(self.meta["labels"], row, strict=True) if is_present] for row in present
        ]
        return [", ".join(of_image) or "none" for of_image in names]


def to_rows(names: list[str], pred: Tensor, meta: dict[str, Any], output: Path) -> list[dict[str, Any]]:
    """For predict.py: a row for each input, with its labels and all probabilities, from logits (B, L)."""
    rows = []
    for name, probabilities in zip(names, pred.sigmoid().tolist(), strict=True):
        found = list(zip(meta["labels"], probabilities, strict=True))
        likely = [label for label, probability in found if probability > 0.5]
        each = {f"p({label})": probability for label, probability in found}
        rows.append({"input": name, "labels": " + ".join(likely), **each})
    return rows
