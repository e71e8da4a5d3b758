"""The task, image classification: its data, network, loss and scores. How it is trained is in engine/trainer.py."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from config import Config
from engine import UserError
from engine.data import eval_loader, hold_out, train_loader
from engine.devices import pick_device
from engine.metrics import MacroF1
from engine.network import merge_stages
from engine.seeding import epoch_generator, seed_everything
from engine.trainer import Trainer
from images import AugmentedImages, Images, Split, find_images, read_folder, read_image


class Task(Trainer):
    """Batches are bytes of shape (B, 3, size, size) and class numbers of shape (B,)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.configure(config)
        self.device = pick_device(config.device)

        data, self.meta = load_data(config)
        workers = 0 if data["train"].split.in_memory else config.workers
        pin = self.device.type == "cuda"
        self.train_loader = train_loader(data["train"], config.batch_size, config.seed, workers, pin)
        self.eval_loader = eval_loader(data["val"], config.batch_size, workers, pin)
        self.test_loader = eval_loader(data["test"], config.batch_size, workers, pin) if "test" in data else []

        seed_everything(config.seed)
        self.model_list = build_model_list(self.meta, config.num_parts)
        self.optimizer_list = [
            build_optimizer(part, lr, config) for part, lr in zip(self.model_list, config.lr_per_part(), strict=True)
        ]
        self.criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)

        self.key_metric, self.key_mode = "acc", "max"
        self.set_metrics = {"f1": MacroF1(len(self.meta["classes"]))}

    def metric(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Part of the images whose class is the first, or among the first five, of the logits (B, classes)."""
        hits = pred.topk(min(5, pred.shape[1])).indices == y.unsqueeze(1)
        return {"acc": hits[:, 0].float().mean(), "acc_top5": hits.any(1).float().mean()}


# ---- network ----


class Normalize(nn.Module):
    """Takes bytes of shape (B, 3, H, W) to numbers with mean 0 and standard deviation 1 in each channel."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() - self.mean) / self.std


class Residual(nn.Module):
    """relu(x + f(x)), where f is two convolutions (He et al. 2016) that start as zero (Goyal et al. 2017, 5.1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.BatchNorm2d(width)
        nn.init.zeros_(last.weight)
        self.body = nn.Sequential(*conv(width, width), nn.Conv2d(width, width, 3, padding=1, bias=False), last)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.body(x)).relu()


def conv(inp: int, out: int) -> list[nn.Module]:
    """A 3 x 3 convolution that keeps height and width, normalised and rectified."""
    return [nn.Conv2d(inp, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]


def build_stages(meta: dict[str, Any]) -> list[nn.Module]:
    """Stem, body and head of a small residual network, from bytes (B, 3, H, W) to logits (B, classes)."""
    w = meta["width"]
    stem = [Normalize(meta["mean"], meta["std"]), *conv(3, w), nn.MaxPool2d(2)]
    body = [*conv(w, 2 * w), nn.MaxPool2d(2), Residual(2 * w), *conv(2 * w, 4 * w), nn.MaxPool2d(2), Residual(4 * w)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * w, len(meta["classes"]))]
    return [nn.Sequential(*stem), nn.Sequential(*body), nn.Sequential(*head)]


def build_model_list(meta: dict[str, Any], num_parts: int) -> list[nn.Module]:
    """The network in `num_parts` parts. Channels come last in memory: convolutions are fastest that way."""
    return [part.to(memory_format=torch.channels_last) for part in merge_stages(build_stages(meta), num_parts)]  # type: ignore[call-overload]


def build_optimizer(part: nn.Module, lr: float, config: Config) -> Optimizer:
    """The optimizer of one part; biases and normalisation, of one dimension, do not decay."""
    parameters = list(part.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return AdamW(groups, lr)
    return SGD(groups, lr, config.momentum, nesterov=config.momentum > 0)


# ---- data ----


def load_data(config: Config) -> tuple[dict[str, Images], dict[str, Any]]:
    """Train and val, test where there is one, and what prediction needs to know.

    Without a val split a part of train is held out, `val_fraction` of every class; test never chooses the model.
    """
    splits, classes = SOURCES.get(config.data, read_own)(config)
    train = splits["train"]
    rows = {name: torch.arange(len(split.labels)) for name, split in splits.items()}
    if "val" not in splits:
        splits["val"] = train
        rows["train"], rows["val"] = hold_out(train.labels, config.val_fraction, config.seed)
        if not len(rows["val"]):
            raise UserError("no class has two training images, so none can be held out; add a val folder or images")
    order = sorted(splits, key=("train", "val", "test").index)
    data: dict[str, Images] = {name: Images(splits[name], rows[name]) for name in order}
    data["train"] = AugmentedImages(train, rows["train"], config.seed)

    if config.image_size and config.image_size < 8:
        raise UserError(f"--image_size {config.image_size} is too small for the network; give 8 or more")
    sample = train.pixels[rows["train"][:: len(rows["train"]) // 2000 + 1]].float()
    meta = {"classes": classes, "image_size": sample.shape[-1], "width": config.width}
    meta |= {"mean": sample.mean((0, 2, 3)).tolist(), "std": sample.std((0, 2, 3)).clamp(min=1).tolist()}
    sizes = ", ".join(f"{len(images):,} {name}" for name, images in data.items())
    print(f"data: {sizes} images of {sample.shape[-1]} pixels in {len(classes)} classes")
    return data, meta


def read_own(config: Config) -> tuple[dict[str, Split], list[str]]:
    """A folder of one's own: train/CLASS/*, and val/CLASS/* or test/CLASS/* or both."""
    return read_folder(Path(config.data), config.image_size)


def read_cifar10(config: Config) -> tuple[dict[str, Split], list[str]]:
    """CIFAR-10 (Krizhevsky 2009), downloaded into data_dir once."""
    from torchvision.datasets import CIFAR10  # here, since it takes as long to import as torch and only this needs it

    try:
        parts = {name: CIFAR10(config.data_dir, train=name == "train", download=True) for name in ("train", "test")}
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"CIFAR-10 is not in {config.data_dir!r} and cannot be downloaded ({error}); connect to the internet, "
            "or give --data FOLDER with images of your own, or --data synthetic"
        ) from error
    return {
        name: Split(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
        for name, part in parts.items()
    }, parts["train"].classes


def make_synthetic(config: Config) -> tuple[dict[str, Split], list[str]]:
    """Ten kinds of stripes under noise, two directions of five widths each: seeded, small, and learnt in seconds."""
    generator = epoch_generator(config.seed, 0)
    ramp = torch.linspace(0, 2 * torch.pi, config.image_size or 32)
    splits = {}
    for name, count in {"train": 512 if config.smoke else 2048, "test": 256}.items():
        labels = torch.arange(count) % 10
        phase = 2 * torch.pi * torch.rand(count, 1, 1, 1, generator=generator)
        stripes = (ramp * (1 + labels // 2).view(-1, 1, 1, 1) + phase).sin().expand(-1, 3, len(ramp), -1)
        stripes = torch.where((labels % 2 == 0).view(-1, 1, 1, 1), stripes, stripes.mT)
        noise = torch.randn(stripes.shape, generator=generator)
        splits[name] = Split((128 + 60 * stripes + 40 * noise).clamp(0, 255).byte(), labels)
    return splits, [f"{1 + number // 2} {('upright', 'level')[number % 2]}" for number in range(10)]


SOURCES = {"cifar10": read_cifar10, "synthetic": make_synthetic}


# ---- prediction ----


def read_inputs(paths: Sequence[Path], meta: dict[str, Any], batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """Batches of file names and images (B, 3, size, size) from files, and from folders and what is below them."""
    files = [file for path in paths for file in find_images(path)]
    for batch in (files[start : start + batch_size] for start in range(0, len(files), batch_size)):
        yield [str(file) for file in batch], torch.stack([read_image(file, meta["image_size"]) for file in batch])


def to_rows(pred: Tensor, meta: dict[str, Any]) -> list[dict[str, str]]:
    """The likeliest class of each row of logits (B, classes), and its probability."""
    best = pred.float().softmax(1).max(1)
    return [
        {"class": meta["classes"][number], "probability": f"{probability:.4f}"}
        for number, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
