"""The task, image classification: its data, network, loss and scores. How it is trained is in engine/trainer.py."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones import build_trunk
from config import Config
from confusion import MacroF1, draw_confusion
from engine import UserError
from engine.data import Rows, choose_rows, loaders
from engine.distributed import main_first
from engine.network import Fp32Linear, merge_stages
from engine.optimizers import build_optimizers
from engine.seeding import epoch_generator, seed_everything
from engine.trainer import Trainer
from grids import draw_grid
from images import find_images
from squares import AugmentedRows, Resized, SquareFiles, check_size, image_meta, read_splits, read_squares

Splits = dict[str, tuple[Any, Tensor]]  # images of shape (N, 3, S, S) and class numbers of shape (N,), by split


class Task(Trainer):
    """Batches are bytes of shape (B, 3, S, S) and class numbers of shape (B,)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.configure(config)
        data, self.meta = load_data(config)
        workers = config.workers if isinstance(data["train"].x, SquareFiles) else 0
        self.train_loader, self.eval_loader, self.test_loader = loaders(
            data, config.batch_size, config.seed, workers, self.device
        )
        seed_everything(config.seed)
        self.model_list = build_model_list(self.meta, config.num_parts, pretrained=not config.from_scratch)
        self.optimizer_list = build_optimizers(self.model_list, config)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
        self.key_metric, self.key_mode = "acc", "max"
        self.set_metrics = {"f1": MacroF1(len(self.meta["classes"]))}

    def metric(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Part of the images whose class is the first, or among the first five, of the logits (B, classes)."""
        hits = pred.topk(min(5, pred.shape[1])).indices == y.unsqueeze(1)
        return {"acc": hits[:, 0].float().mean(), "acc_top5": hits.any(1).float().mean()}

    def draw(self, batch: Any) -> dict[str, Any]:
        """Some images under the class that was predicted, and how often each class is taken for which."""
        (x, y), classes = batch, self.meta["classes"]
        best = self.inference(x).argmax(1)
        pairs = [(classes[predicted], classes[true]) for predicted, true in zip(best, y, strict=True)]
        titles = [predicted if predicted == true else f"{predicted}, not {true}" for predicted, true in pairs]
        return {
            "predictions": draw_grid(x, titles, (best == y).tolist()),
            "confusion": draw_confusion(self.set_metrics["f1"].confusion, classes),  # type: ignore[attr-defined]
        }


# ---- network ----


def build_model_list(meta: dict[str, Any], num_parts: int, pretrained: bool = False) -> list[nn.Module]:
    """The network, from bytes (B, 3, S, S) to logits (B, classes), in `num_parts` parts.

    Channels come last in memory: convolutions are fastest that way.
    """
    stem, body, features = build_trunk(meta, pretrained)
    head = Fp32Linear(features, len(meta["classes"]))
    parts = merge_stages([stem, body, head], num_parts)
    return [part.to(memory_format=torch.channels_last) for part in parts]  # type: ignore[call-overload]


# ---- data ----


def load_data(config: Config) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Train and val, test where there is one, and what prediction needs to know.

    Without a val split a part of train is held out, `val_fraction` of every class; test never chooses the model.
    """
    check_size(config.image_size, config.backbone)
    splits, classes = SOURCES.get(config.data, read_own)(config)
    rows = choose_rows({name: labels for name, (_, labels) in splits.items()}, config.val_fraction, config.seed)
    data = {name: Rows(*splits[source], chosen) for name, (source, chosen) in rows.items()}
    meta = {"classes": classes, **image_meta(data["train"], config)}
    sizes = ", ".join(f"{len(images):,} {name}" for name, images in data.items())
    print(f"data: {sizes} images of {meta['image_size']} pixels in {len(classes)} classes")
    return data | {"train": AugmentedRows(data["train"], config)}, meta


def read_own(config: Config) -> tuple[Splits, list[str]]:
    """A folder of one's own: train/CLASS/*, and val/CLASS/* or test/CLASS/* or both; or CLASS/* alone.

    Raises:
        UserError: no such folder, fewer than two classes, a split without images, a class that train has not.
    """
    root = Path(config.data)
    folders = {name: root / name for name in ("train", "val", "test") if (root / name).is_dir()} or {"train": root}
    if not folders.get("train", root / "train").is_dir():
        missing = root / "train" if root.is_dir() else root
        raise UserError(f"--data {root}: {missing} is no folder; give one with images in CLASS/* or train/CLASS/*")
    found = {name: find_images(folder) for name, folder in folders.items()}
    for name, files in found.items():
        for loose in [file for file in files if file.parent == folders[name]][:1]:
            raise UserError(f"{loose} is in no CLASS folder; move it into one")
    names = {name: [f.relative_to(folders[name]).parts[0] for f in files] for name, files in found.items()}
    classes = sorted(set(names["train"]))
    if len(classes) < 2:
        raise UserError(f"{folders['train']} has images in {len(classes)} CLASS folders; two are the least")
    for name, used in names.items():
        if not used or set(used) - set(classes):
            unknown = f"the unknown class {min(set(used) - set(classes))!r}" if used else "no images"
            raise UserError(f"{folders[name]} has {unknown}; it needs images in the folders that train has")
    number = {name: index for index, name in enumerate(classes)}
    images = read_splits(found, config.image_size)
    return {name: (images[name], torch.tensor([number[n] for n in used])) for name, used in names.items()}, classes


def read_cifar10(config: Config) -> tuple[Splits, list[str]]:
    """CIFAR-10 (Krizhevsky 2009), downloaded into data_dir once; a UserError where that fails."""
    from torchvision.datasets import CIFAR10  # here, since it takes as long to import as torch and only this needs it

    try:
        with main_first():
            parts = {name: CIFAR10(config.data_dir, name == "train", download=True) for name in ("train", "test")}
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"CIFAR-10 is not in {config.data_dir!r} and cannot be downloaded ({error}); connect to the internet, "
            "or give --data FOLDER with images of your own, or --data synthetic"
        ) from error
    pixels = {name: torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for name, part in parts.items()}
    resized = {name: Resized(p, config.image_size) if config.image_size else p for name, p in pixels.items()}
    return {n: (resized[n], torch.tensor(part.targets)) for n, part in parts.items()}, parts["train"].classes


def make_synthetic(config: Config) -> tuple[Splits, list[str]]:
    """Ten kinds of stripes under noise, two directions of five widths each: seeded, small, and learnt in seconds."""
    generator = epoch_generator(config.seed, 0)
    ramp = torch.linspace(0, 2 * torch.pi, config.image_size or 32)
    splits = {}
    for name, count in {"train": 256 if config.smoke else 2048, "test": 64 if config.smoke else 256}.items():
        labels = torch.arange(count) % 10
        phase = 2 * torch.pi * torch.rand(count, 1, 1, 1, generator=generator)
        stripes = (ramp * (1 + labels // 2).view(-1, 1, 1, 1) + phase).sin().expand(-1, 3, len(ramp), -1)
        stripes = torch.where((labels % 2 == 0).view(-1, 1, 1, 1), stripes, stripes.mT)
        noise = torch.randn(stripes.shape, generator=generator)
        splits[name] = (128 + 60 * stripes + 40 * noise).clamp(0, 255).byte(), labels
    return splits, [f"{1 + number // 2} {('upright', 'level')[number % 2]}" for number in range(10)]


SOURCES = {"cifar10": read_cifar10, "synthetic": make_synthetic}


# ---- prediction ----


def read_inputs(paths: Sequence[Path], meta: dict[str, Any], batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """Batches of file names and images (B, 3, S, S) from files, and from folders and what is below them."""
    files = [file for path in paths for file in find_images(path)]
    for batch in (files[start : start + batch_size] for start in range(0, len(files), batch_size)):
        yield [str(file) for file in batch], read_squares(batch, meta["image_size"], keep=True)


def to_rows(names: list[str], pred: Tensor, meta: dict[str, Any], output: Path) -> list[dict[str, str]]:
    """The likeliest class of each row of logits (B, classes), and its probability."""
    best = pred.softmax(1).max(1)
    return [
        {"input": name, "class": meta["classes"][number], "probability": f"{probability:.4f}"}
        for name, number, probability in zip(names, best.indices.tolist(), best.values.tolist(), strict=True)
    ]
