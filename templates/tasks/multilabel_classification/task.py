"""Multilabel classification: loss, metrics, pictures. Files are read in data.py; the loop is in engine/trainer.py."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from augmentation import augmentation_of
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
from metrics import F1, MeanAveragePrecision
from model import STAGES, build_stages


class Task(Trainer):
    """Batches are uint8 images (B, 3, S, S), 0 to 255, and labels (B, L), 0.0 or 1.0; outputs are logits (B, L)."""

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
        self.criterion = nn.BCEWithLogitsLoss()
        self.dataset_metrics = {"map": MeanAveragePrecision(), "f1_micro": F1(micro=True), "f1_macro": F1(micro=False)}
        self.key_metric = "map"

    def augment(self, batch: Any) -> Any:
        """Images and targets after what is done to whole batches; mixed images have probabilities (B, C) as targets."""
        return self.augmentation(batch, len(self.meta["labels"]))

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


def average(preds: list[Tensor], metas: list[dict[str, Any]]) -> Tensor:
    """For predict.py: the mean of several networks' probabilities, as logits (B, L), of the same labels."""
    logits = torch.stack(preds)
    return F.logsigmoid(logits).logsumexp(0) - F.logsigmoid(-logits).logsumexp(0)


def explain(task: Trainer, x: Tensor, pred: Tensor) -> Iterator[Any]:
    """For predict.py --explain: a figure for each image, of where the network looks for the most probable label.

    Args:
        task: with weights.
        x: images (B, 3, S, S).
        pred: their logits (B, L).
    """
    return draw_most_probable(task, x, pred.sigmoid(), task.meta["labels"])
