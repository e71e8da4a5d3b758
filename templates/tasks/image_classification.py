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


# ==== config.py ====
class Settings:
    # The images and the network
    data: str = "cifar10"  # cifar10 (downloaded into data_dir), synthetic, or a folder with train/CLASS/*
    data_dir: str = "data"  # folder for downloads
    val_fraction: float = 0.1  # part of the training images that chooses the best epoch, where there is no val folder
    image_size: int = 0  # side in pixels to which images are resized and cropped; 0 takes it from the images
    batch_size: int = 128  # images per batch
    workers: int = 2  # processes that read image files while training; images that fit into memory need none
    shift_fraction: float = 0.0625  # training images are shifted at random, by up to this part of their side
    no_mirror: bool = False  # mirror no image in training, nor average it with its mirror image in prediction
    backbone: str = "small"  # small (for 32 pixels and more), or one of torchvision's, as resnet18
    from_scratch: bool = False  # start a torchvision backbone with random weights even where pretrained ones can be had
    width: int = 32  # channels of small's first convolution; the cost grows with its square
    label_smoothing: float = 0.1  # part of each label that is spread over all classes
    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"  # sgd uses Nesterov momentum; muon: see engine/muon.py
    lr: tuple[float, ...] = (0.05,)  # base learning rate: one for all parts, or one per part
    weight_decay: float = 5e-4  # on weights of two and more dimensions; biases and normalisation have none


# ==== tests/test_task.py ====
"""What this project promises of images: any size can be predicted, and a bad file is named."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import predict
from backbones import of_torchvision
from config import Config
from engine import UserError
from task import Task, load_data
from test_project import run


def test_trained_weights_predict_images_of_any_size(tmp_path: Path) -> None:
    run_dir = run(tmp_path / "runs", "--epochs", "1", "--warm_up_mode", "none")
    for name, size in (("wide.png", (90, 40)), ("tall.jpg", (33, 70))):
        Image.new("RGB", size, "white").save(tmp_path / name)
    output = tmp_path / "predictions.csv"
    predict.predict(predict.Arguments((tmp_path / "wide.png", tmp_path / "tall.jpg"), run_dir / "best.pth", output))
    header, *rows = output.read_text("utf-8").splitlines()
    assert header == "input,class,probability"
    assert [Path(row.split(",")[0]).name for row in rows] == ["wide.png", "tall.jpg"]


def write_images(root: Path, *names: str) -> None:
    """A small image in each of these files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)


def test_a_folder_of_class_folders_is_enough(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
    data, meta = load_data(Config(data=str(tmp_path)))
    assert meta["classes"] == ["cat", "dog"]
    assert {name: len(images) for name, images in data.items()} == {"train": 2, "val": 2}


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png")
    (tmp_path / "test/a/2.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"2\.png cannot be read"):
        Task(Config(data=str(tmp_path)))


@pytest.mark.parametrize("name", ["resnet18"])
def test_a_torchvision_backbone_computes_what_torchvision_does(name: str) -> None:
    from torchvision.models import get_model

    torch.manual_seed(0)
    whole = get_model(name).eval()
    torch.manual_seed(0)
    stem, body, features = of_torchvision(name, pretrained=False)
    last = list(whole.modules())[-1]
    chain = torch.nn.Sequential(*stem, *body, last).eval()
    x = torch.rand(2, 3, 64, 64)
    assert last.in_features == features
    torch.testing.assert_close(chain(x), whole(x))


# ==== README.md ====
README = """\
## Train

    python train.py                                  # CIFAR-10, downloaded once into data/
    python train.py --data FOLDER                    # your own images
    python train.py --data synthetic                 # made up on the spot: no download
    python train.py --data FOLDER --backbone resnet18 --image_size 224 --lr 0.01
    python train.py --data FOLDER --no_mirror        # letters, digits: what a mirror would turn into something else

The best recipe so far for CIFAR-10, 88 % of the test images after 14 epochs:

    python train.py --epochs 14 --batch_size 512 --optimizer muon --lr 0.1 --momentum 0.8 --weight_decay 0.1 --label_smoothing 0.2 --clip_grad 0

Your own images lie in one folder per class:

    FOLDER/train/CLASS/*.jpg      what is learnt
    FOLDER/val/CLASS/*.jpg        what chooses the best epoch; without it, a tenth of train does (--val_fraction)
    FOLDER/test/CLASS/*.jpg       what the best epoch is tested on at the end; may be missing

or just in FOLDER/CLASS/. They may have any size: the square in the centre is resized to `--image_size` (by default what is
usual among them, 224 at most). A torchvision backbone starts with pretrained weights where
they can be downloaded; a line of the run says whether.

## Predict

    python predict.py --checkpoint check_point/<date>_<time>/best.pth IMAGE_OR_FOLDER...

prints the class and its probability for each image and writes them to `predictions.csv`.
"""
