"""Segmentation: loss, metrics and pictures. Files are read in data.py; the loop is in engine/trainer.py."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from classification import draw_confusion, mean_of_logits
from config import Config
from data import load_data
from engine.data.loaders import make_loaders
from engine.network import merge_stages
from engine.optim.optimizers import build_optimizers
from engine.runtime.errors import UserError
from engine.trainer import Trainer
from fine_tuning import choose_batch_size, freeze, lr_factors
from images import check_images, opened, upright_size
from metrics import DiceLoss, MeanIoU, PixelAccuracy, PixelCrossEntropy, draw_masks
from model import STAGES, build_stages


class Task(Trainer):
    """Batches are uint8 images (B, 3, H, W), 0 to 255, and masks, uint8 class indices (B, H, W).

    Outputs are logits (B, C, H, W).
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        splits, self.meta = load_data(config)
        batch_size = choose_batch_size(config, self.meta, len(splits["train"]))
        self.train_loader, self.eval_loader, self.test_loader = make_loaders(
            splits, batch_size, config.seed, self.device, config.workers
        )
        stages = build_stages(self.meta, config.weights)
        self.frozen = freeze(dict(zip(STAGES, stages, strict=True)), config, self.meta)
        self.model_list = merge_stages(stages, config.num_parts)
        self.optimizer_list = build_optimizers(self.model_list, config, lr_factors(stages, config, self.meta))
        self.criterion = PixelCrossEntropy(config.ignore_index)
        self.dice_loss, self.dice_weight = DiceLoss(config.ignore_index), config.dice_weight
        self.iou = MeanIoU(len(self.meta["classes"]), config.ignore_index)
        accuracy = PixelAccuracy(len(self.meta["classes"]), config.ignore_index)
        self.dataset_metrics = {"miou": self.iou, "pixel_acc": accuracy}
        self.key_metric = "miou"

    def begin_epoch(self) -> None:
        """Trains the frozen stages, too, once their epochs are over."""
        self.frozen.begin_epoch(self.epoch)

    def check_inputs(self, x: Tensor) -> None:
        """Raises a UserError for anything but images of bytes."""
        check_images(x)

    def loss(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Cross-entropy plus the Dice loss; in training both are recorded, too."""
        terms = {"ce": self.criterion(pred, y), "dice_loss": self.dice_loss(pred, y)}
        loss = terms["ce"] + self.dice_weight * terms["dice_loss"]
        return {"loss": loss, **(terms if torch.is_grad_enabled() else {})}

    def draw(self, batch: Any) -> dict[str, Any]:
        """Some images with their true and predicted masks, and the confusion matrix of the whole evaluation."""
        x, y = batch
        masks = draw_masks(x, y, self.inference(x).argmax(1), self.iou.ignore_index)
        return {"predictions": masks, "confusion": draw_confusion(self.iou.matrix, self.meta["classes"])}


def to_rows(names: list[str], pred: Tensor, meta: dict[str, Any], output: Path) -> list[dict[str, Any]]:
    """For predict.py: a mask for each input, in the image's own size, as PNG beside `output`, and a row about it.

    Args:
        names: the files of the images.
        pred: logits (B, C, H, W).
        meta: what `load_data` returned.
        output: the table of predictions; masks go into a folder named after it.

    Raises:
        UserError: a mask would overwrite its image.
    """
    folder = output.with_name(f"{output.stem}_masks")
    folder.mkdir(exist_ok=True)
    rows = []
    for name, logits in zip(names, pred, strict=True):
        height, width = logits.shape[1:]
        if Path(name).is_file():  # else it is from an array, and the mask has the size of that
            with opened(Path(name)) as image:
                width, height = upright_size(image)
        resized = F.interpolate(logits[None], (height, width), mode="bilinear", align_corners=False)
        mask = resized[0].argmax(0).byte().cpu()
        path = folder / f"{Path(name).stem}.png"
        if path.resolve() == Path(name).resolve():
            raise UserError(f"the mask of {name} would overwrite it; give another --output")
        Image.frombytes("L", (width, height), mask.numpy().tobytes()).save(path)
        fractions = mask.flatten().bincount(minlength=len(meta["classes"])) / mask.numel()
        shown = [f"{c} {part:.1%}" for c, part in zip(meta["classes"], fractions.tolist(), strict=True) if part]
        rows.append({"input": name, "mask": str(path), "classes": ", ".join(shown)})
    return rows


def average(preds: list[Tensor], metas: list[dict[str, Any]]) -> Tensor:
    """For predict.py: the mean of several networks' probabilities, as logits (B, C, H, W), of the same classes."""
    return mean_of_logits(preds)
