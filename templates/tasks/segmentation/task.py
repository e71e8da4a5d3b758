"""Segmentation: loss, metrics and pictures. Files are read in data.py; the loop is in engine/trainer.py."""

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from classification import draw_confusion
from config import Config
from data import load_data
from engine.data.loaders import make_loaders
from engine.optim.optimizers import build_optimizers
from engine.runtime.errors import UserError
from engine.trainer import Trainer
from images import check_images, opened, upright_size
from metrics import MeanIoU, PixelAccuracy, PixelCrossEntropy, draw_masks
from model import build_model_list


class Task(Trainer):
    """Batches are uint8 images (B, 3, H, W), 0 to 255, and masks, uint8 class indices (B, H, W).

    Outputs are logits (B, C, H, W).
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        splits, self.meta = load_data(config)
        self.train_loader, self.eval_loader, self.test_loader = make_loaders(
            splits, config.batch_size, config.seed, self.device, config.workers
        )
        self.model_list = build_model_list(self.meta, config.num_parts)
        self.optimizer_list = build_optimizers(self.model_list, config)
        self.criterion = PixelCrossEntropy(config.ignore_index)
        self.iou = MeanIoU(len(self.meta["classes"]), config.ignore_index)
        accuracy = PixelAccuracy(len(self.meta["classes"]), config.ignore_index)
        self.dataset_metrics = {"miou": self.iou, "pixel_acc": accuracy}
        self.key_metric = "miou"

    def check_inputs(self, x: Tensor) -> None:
        """Raises a UserError for anything but images of bytes."""
        check_images(x)

    def loss(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Cross-entropy over pixels; any other loss by name would be recorded beside it."""
        return {"loss": self.criterion(pred, y)}

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
