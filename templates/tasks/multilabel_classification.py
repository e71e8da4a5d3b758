"""The task, multilabel classification: its data, network, loss and scores. How it is trained is in engine/."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones import build_trunk
from config import Config
from engine import UserError
from engine.data import Rows, choose_rows, loaders
from engine.network import Fp32Linear, merge_stages
from engine.optimizers import build_optimizers
from engine.seeding import epoch_generator, seed_everything
from engine.trainer import Trainer
from grids import draw_grid
from images import find_images
from label_scores import F1, MeanAveragePrecision
from squares import AugmentedRows, SquareFiles, check_size, image_meta, read_splits, read_squares
from tables import Table, find_tables, read_table

Splits = dict[str, tuple[Any, Tensor]]  # images of shape (N, 3, S, S) and labels, 0 or 1, of shape (N, L), by split


class Task(Trainer):
    """Batches are bytes of shape (B, 3, S, S) and labels, 0.0 or 1.0, of shape (B, L)."""

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
        self.criterion = nn.BCEWithLogitsLoss()
        self.key_metric, self.key_mode = "map", "max"
        self.set_metrics = {"map": MeanAveragePrecision(), "f1_micro": F1(micro=True), "f1_macro": F1(micro=False)}

    def draw(self, batch: Any) -> dict[str, Any]:
        """Some images under the labels that were predicted."""
        x, y = batch
        predicted, true = (self.names_of(there) for there in (self.inference(x) > 0, y > 0.5))
        pairs = list(zip(predicted, true, strict=True))
        titles = [names if names == truth else f"{names}; not {truth}" for names, truth in pairs]
        return {"predictions": draw_grid(x, titles, [names == truth for names, truth in pairs])}

    def names_of(self, there: Tensor) -> list[str]:
        """The labels that are there, by image, from booleans (B, L)."""
        names = [[name for name, it_is in zip(self.meta["labels"], row, strict=True) if it_is] for row in there]
        return [", ".join(of_image) or "none" for of_image in names]


# ---- network ----


def build_model_list(meta: dict[str, Any], num_parts: int, pretrained: bool = False) -> list[nn.Module]:
    """The network, from bytes (B, 3, S, S) to logits (B, L), in `num_parts` parts.

    Channels come last in memory: convolutions are fastest that way.
    """
    stem, body, features = build_trunk(meta, pretrained)
    parts = merge_stages([stem, body, Fp32Linear(features, len(meta["labels"]))], num_parts)
    return [part.to(memory_format=torch.channels_last) for part in parts]  # type: ignore[call-overload]


# ---- data ----


def load_data(config: Config) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Train and val, test where there is one, and what prediction needs to know.

    Without a val split a part of train is held out, of the images of every label; test never chooses the model.
    """
    check_size(config.image_size, config.backbone)
    splits, labels = make_synthetic(config) if config.data == "synthetic" else read_own(config)
    groups = {name: rarest_label(y) for name, (_, y) in splits.items()}
    rows = choose_rows(groups, config.val_fraction, config.seed)
    data = {name: Rows(*splits[source], chosen) for name, (source, chosen) in rows.items()}
    for name, images in data.items():
        for label, count in zip(labels, images.y[images.rows].sum(0).tolist(), strict=True):
            if not count:
                print(f"note: no image of {name} has the label {label!r}")
    meta = {"labels": labels, **image_meta(data["train"], config)}
    sizes = ", ".join(f"{len(images):,} {name}" for name, images in data.items())
    print(f"data: {sizes} images of {meta['image_size']} pixels with {len(labels)} labels")
    return data | {"train": AugmentedRows(data["train"], config)}, meta


def rarest_label(y: Tensor) -> Tensor:
    """For each row of labels (N, L) the number of its rarest one, L where it has none: what a hold-out is drawn by."""
    frequency = y.sum(0).where(y > 0, float("inf"))
    return frequency.argmin(1).where(y.any(1), y.shape[1])


def read_own(config: Config) -> tuple[Splits, list[str]]:
    """A folder of one's own with images/ and labels.csv, or in its place train.csv, and val.csv or test.csv or both.

    Raises:
        UserError: no table, an image that is not there, a label that is neither 0 nor 1, other labels than train's.
    """
    tables = {name: read_table(path) for name, path in find_tables(config.data, ("labels", "train")).items()}
    labels = tables["train"].names[1:]
    files: dict[str, list[Path]] = {}
    places: dict[Path, str] = {}
    for name, table in tables.items():
        if not labels or set(labels) != set(table.names[1:]) or not table.rows:
            wanted = labels or "each label"
            raise UserError(f"{table.path} needs a row for each image: its file, then 0 or 1 for {wanted}")
        files[name] = [table.path.parent / "images" / cell for cell in table.column(0)]
        for row, file in enumerate(files[name]):
            if not file.is_file():
                raise UserError(f"{table.place(row)}: {file} does not exist")
            if places.setdefault(file, table.place(row)) != table.place(row):
                raise UserError(f"{table.place(row)}: {file.name} is in {places[file]} already; an image has one row")
    truths = {name: read_labels(table, labels) for name, table in tables.items()}
    images = read_splits(files, config.image_size)
    return {name: (images[name], truths[name]) for name in files}, labels


def read_labels(table: Table, labels: list[str]) -> Tensor:
    """The labels of every row, 0.0 or 1.0, shape (N, L); a UserError names the first cell that is something else."""
    columns = [table.column(table.number(label, "its first line")) for label in labels]
    for label, column in zip(labels, columns, strict=True):
        for row, cell in enumerate(column):
            if cell not in ("0", "1"):
                raise UserError(f"{table.place(row)}: {label!r} is {cell!r}; a label is 0 or 1")
    return torch.tensor([[float(cell) for cell in column] for column in columns]).T.contiguous()


def make_synthetic(config: Config) -> tuple[Splits, list[str]]:
    """Five labels, each a grating of its own direction and width under noise: seeded, and learnt in seconds."""
    generator = epoch_generator(config.seed, 0)
    size = config.image_size or 32
    down, right = torch.meshgrid(*[torch.linspace(0, 2 * torch.pi, size)] * 2, indexing="ij")
    waves = torch.stack([2 * down, 3 * right, 3 * (down + right), 6 * down, 6 * right])
    splits = {}
    for name, count in {"train": 256 if config.smoke else 2048, "test": 64 if config.smoke else 256}.items():
        labels = (torch.rand(count, len(waves), generator=generator) < 0.3).float()
        phase = 2 * torch.pi * torch.rand(count, len(waves), 1, 1, generator=generator)
        pattern = (labels.view(count, -1, 1, 1) * (waves + phase).sin()).sum(1, keepdim=True)
        noise = torch.randn(count, 3, size, size, generator=generator)
        splits[name] = (128 + 40 * pattern + 30 * noise).clamp(0, 255).byte(), labels
    return splits, ["coarse level", "coarse upright", "slanting", "fine level", "fine upright"]


# ---- prediction ----


def read_inputs(paths: Sequence[Path], meta: dict[str, Any], batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """Batches of file names and images (B, 3, S, S) from files, and from folders and what is below them."""
    files = [file for path in paths for file in find_images(path)]
    for batch in (files[start : start + batch_size] for start in range(0, len(files), batch_size)):
        yield [str(file) for file in batch], read_squares(batch, meta["image_size"], keep=True)


def to_rows(names: list[str], pred: Tensor, meta: dict[str, Any], output: Path) -> list[dict[str, str]]:
    """The labels above one half, and the probability of each, from logits (B, L)."""
    rows = []
    for name, probabilities in zip(names, pred.sigmoid().tolist(), strict=True):
        found = list(zip(meta["labels"], probabilities, strict=True))
        likely = [label for label, probability in found if probability > 0.5]
        each = {f"p({label})": f"{probability:.4f}" for label, probability in found}
        rows.append({"input": name, "labels": " + ".join(likely), **each})
    return rows


# ==== config.py ====
class Settings:
    # The images and the network
    data: str = "synthetic"  # synthetic, or a folder with images/ and labels.csv (or train.csv, val.csv ...)
    val_fraction: float = 0.1  # part of the training images that chooses the best epoch, where there is no val.csv
    image_size: int = 0  # side in pixels to which images are resized and cropped; 0 takes it from the images
    batch_size: int = 64  # images per batch
    workers: int = 2  # processes that read image files while training; images that fit into memory need none
    shift_fraction: float = 0.0625  # training images are shifted at random, by up to this part of their side
    no_mirror: bool = False  # mirror no image in training, nor average it with its mirror image in prediction
    backbone: str = "small"  # small (for 32 pixels and more), or one of torchvision's, as resnet18
    from_scratch: bool = False  # start a torchvision backbone with random weights even where pretrained ones can be had
    width: int = 32  # channels of small's first convolution; the cost grows with its square
    optimizer: Literal["sgd", "adamw", "muon"] = "adamw"  # sgd uses Nesterov momentum; muon: see engine/muon.py
    lr: tuple[float, ...] = (0.003,)  # base learning rate: one for all parts, or one per part
    weight_decay: float = 0.01  # on weights of two and more dimensions; biases and normalisation have none


# ==== tests/test_task.py ====
"""What this project promises of images with labels: any size can be predicted, and a bad file or label is named."""

from pathlib import Path

import pytest
from PIL import Image

import predict
from config import Config
from engine import UserError
from task import load_data
from test_project import run


def write(folder: Path, *lines: str) -> Path:
    """labels.csv with these lines after twelve good ones, and thirteen images."""
    (folder / "images").mkdir(parents=True)
    for number in range(13):
        Image.new("RGB", (20 + number, 16), (number * 20, 0, 0)).save(folder / "images" / f"{number}.png")
    good = [f"{number}.png,{number % 2},{int(number > 5)}" for number in range(12)]
    (folder / "labels.csv").write_text("\n".join(["file,odd,red", *good, *lines]), encoding="utf-8")
    return folder


def test_trained_weights_predict_images_of_any_size(tmp_path: Path) -> None:
    data = write(tmp_path / "data")
    run_dir = run(tmp_path / "runs", "--data", str(data), "--epochs", "1", "--warm_up_mode", "none")
    Image.new("RGB", (90, 40), "white").save(tmp_path / "wide.png")
    output = tmp_path / "predictions.csv"
    predict.predict(predict.Arguments((tmp_path / "wide.png",), run_dir / "best.pth", output))
    header, row = (line.split(",") for line in output.read_text("utf-8").splitlines())
    assert header == ["input", "labels", "p(odd)", "p(red)"]
    assert Path(row[0]).name == "wide.png" and all(0 <= float(cell) <= 1 for cell in row[2:])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0.png,1,1", r"labels\.csv:14: 0\.png is in .*labels\.csv:2 already"),
        ("12.png,1,2", r"labels\.csv:14: 'red' is '2'; a label is 0 or 1"),
        ("12.png,1,", r"labels\.csv:14: 'red' is ''; a label is 0 or 1"),
        ("none.png,1,1", r"labels\.csv:14: .*none\.png does not exist"),
        ("bad.png,1,1", r"bad\.png cannot be read"),
    ],
)
def test_a_bad_line_or_image_is_named(line: str, words: str, tmp_path: Path) -> None:
    data = write(tmp_path, line)
    (data / "images" / "bad.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=words):
        load_data(Config(data=str(data)))


# ==== README.md ====
README = """\
## Train

    python train.py                                  # synthetic images, made up on the spot
    python train.py --data FOLDER                    # your own images
    python train.py --data FOLDER --backbone resnet18 --image_size 224 --lr 0.001

Your own images lie beside a table of their labels:

    FOLDER/images/*.jpg
    FOLDER/labels.csv     file,beach,sea      <- the names of the labels
                          1.jpg,0,1           <- a file in images/, then 0 or 1 for each label

or, in place of labels.csv, train.csv, and val.csv or test.csv or both. val.csv chooses the best epoch; without it a
tenth of train does (`--val_fraction`), drawn by `--seed` from the images of every label. test.csv is what that epoch
is tested on at the end. Images may have any size: the square in the centre is resized to
`--image_size` (by default what is usual among them, 224 at most). A torchvision backbone
starts with pretrained weights where they can be downloaded; a line of the run says whether.

## Predict

    python predict.py --checkpoint check_point/<date>_<time>/best.pth IMAGE_OR_FOLDER...

prints for each image the labels whose probability is above one half, and all probabilities, and writes them to
`predictions.csv`.
"""
