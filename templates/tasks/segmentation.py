"""The task, segmentation: its data, network, loss and scores. How it is trained is in engine/trainer.py."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from config import Config
from confusion import draw_confusion
from engine import UserError
from engine.data import Rows, choose_rows, loaders
from engine.network import merge_stages
from engine.optimizers import build_optimizers
from engine.seeding import epoch_generator, seed_everything
from engine.trainer import Trainer
from images import FITS_INTO_MEMORY, find_images, opened, upright_size
from pairs import Crops, PairFiles, Pairs, by_stem, check_all, find_pairs, read_all, read_image, scaled_size, usual_size
from pixels import MeanIoU, PixelAccuracy, PixelCrossEntropy, draw_masks
from unet import Body, Decoder, Encoder


class Task(Trainer):
    """Batches are bytes of shape (B, 3, H, W) and class numbers, as bytes of shape (B, H, W)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.configure(config)
        data, self.meta = load_data(config)
        workers = config.workers if isinstance(data["train"].x, PairFiles) else 0
        self.train_loader, self.eval_loader, self.test_loader = loaders(
            data, config.batch_size, config.seed, workers, self.device
        )
        seed_everything(config.seed)
        self.model_list = build_model_list(self.meta, config.num_parts)
        self.optimizer_list = build_optimizers(self.model_list, config)
        self.criterion = PixelCrossEntropy(config.ignore_index)
        self.key_metric, self.key_mode = "miou", "max"
        counted = (len(self.meta["classes"]), config.ignore_index)
        self.set_metrics = {"miou": MeanIoU(*counted), "pixel_acc": PixelAccuracy(*counted)}

    def draw(self, batch: Any) -> dict[str, Any]:
        """Masks over some images, and how often pixels of each class are taken for which."""
        (x, y), counted = batch, cast(MeanIoU, self.set_metrics["miou"])
        masks = draw_masks(x, y, self.inference(x).argmax(1), counted.ignore_index)
        return {"predictions": masks, "confusion": draw_confusion(counted.confusion, self.meta["classes"])}


# ---- network ----


def build_model_list(meta: dict[str, Any], num_parts: int) -> list[nn.Module]:
    """A small U-Net (Ronneberger et al. 2015) in `num_parts` parts, from bytes (B, 3, H, W) to logits (B, C, H, W).

    H and W may be anything. Channels come last in memory: convolutions are fastest that way.
    """
    w = meta["width"]
    stages = [Encoder(w, meta["mean"], meta["std"]), Body(8 * w), Decoder(w, len(meta["classes"]))]
    parts = merge_stages(stages, num_parts)
    return [part.to(memory_format=torch.channels_last) for part in parts]  # type: ignore[call-overload]


# ---- data ----


def load_data(config: Config) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Train and val, test where there is one, and what prediction needs to know.

    Without a val split a part of train is held out; test never chooses the model.

    Raises:
        UserError: --ignore_index is no number of a pixel, or files that cannot be used.
    """
    if config.ignore_index > 255:
        raise UserError(f"--ignore_index {config.ignore_index} must be 255 or less, the largest number in a mask")
    splits, sizes, classes, image_size = (make_synthetic if config.data == "synthetic" else read_own)(config)
    groups = {name: torch.zeros(len(split)) for name, split in sizes.items()}
    rows = choose_rows(groups, config.val_fraction, config.seed)
    data: dict[str, Pairs] = {name: Pairs(splits[s], sizes[s], chosen) for name, (s, chosen) in rows.items()}
    train = data["train"]
    sample = torch.cat([train.pair(i)[0].flatten(1) for i in range(0, len(train), len(train) // 200 + 1)], 1).float()
    meta = {"classes": classes, "image_size": image_size, "width": config.width}
    meta |= {"mean": sample.mean(1).tolist(), "std": sample.std(1).clamp(min=1).tolist()}
    counts = ", ".join(f"{len(pairs):,} {name}" for name, pairs in data.items())
    print(f"data: {counts} images, cut to {image_size} pixels, {len(classes)} classes")
    return {**data, "train": Crops(train, image_size, config.ignore_index, config.seed)}, meta


Loaded = tuple[dict[str, Any], dict[str, list[tuple[int, int]]], list[str], int]  # pairs, sizes, classes, image_size


def read_own(config: Config) -> Loaded:
    """A folder of one's own: train/images/* and train/masks/*, and val or test or both with the same; or these alone.

    The names of the classes are the lines of classes.txt or, without it, the numbers up to the largest in train.

    Raises:
        UserError: a folder, image or mask is missing, has another size or an unknown class, or there is one class.
    """
    root = Path(config.data)
    folders = {name: root / name for name in ("train", "val", "test") if (root / name).is_dir()} or {"train": root}
    if not (folders.get("train", root / "train") / "images").is_dir():
        raise UserError(f"--data {root}: neither {root / 'train' / 'images'} nor {root / 'images'} is a folder")
    files = {name: find_pairs(folder) for name, folder in folders.items()}
    checked = {name: check_all(pairs) for name, pairs in files.items()}
    numbers_in = {name: set().union(*numbers) - {config.ignore_index} for name, (_, numbers) in checked.items()}
    classes, found = read_names(root / "classes.txt"), numbers_in["train"]
    if len(found) < 2 or not (classes or found == set(range(len(found)))) or not all(numbers_in.values()):
        shown = "; ".join(f"{name} {sorted(numbers)[:9]}" for name, numbers in numbers_in.items())
        raise UserError(
            f"the masks in {root} have the numbers {shown}, beside {config.ignore_index}, which is ignored; they must "
            "be 0, 1, 2 ... without a gap, two or more (or named in classes.txt), and every split has some"
        )
    classes = classes or [str(number) for number in sorted(found)]
    for split, (_, numbers) in checked.items():
        for (_, mask), in_mask in zip(files[split], numbers, strict=True):
            for number in sorted(in_mask - set(range(len(classes))) - {config.ignore_index}):
                known = f"the classes are 0 to {len(classes) - 1}, and {config.ignore_index} is ignored"
                raise UserError(f"mask {mask} has the unknown class {number}; {known}")
    image_size = config.image_size or usual_size(checked["train"][0])
    scaled = {n: [scaled_size(size, image_size)[::-1] for size in sizes] for n, (sizes, _) in checked.items()}
    keep = sum(4 * height * width for sizes in scaled.values() for height, width in sizes) <= FITS_INTO_MEMORY
    read: Any = read_all if keep else PairFiles
    return {name: read(pairs, image_size) for name, pairs in files.items()}, scaled, classes, image_size


def read_names(path: Path) -> list[str]:
    """The lines of classes.txt, none where there is none; a UserError for an empty line or one that is not UTF-8."""
    try:
        names = path.read_text("utf-8-sig").rstrip().split("\n") if path.exists() else []
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8; save it as UTF-8") from error
    if not all(map(str.strip, names)):
        raise UserError(f"{path} has an empty line; line N names class N - 1")
    return [name.strip() for name in names]


def make_synthetic(config: Config) -> Loaded:
    """Discs and bars of two brightnesses, some of them cut off, on noise: seeded, and learnt in seconds."""
    generator = epoch_generator(config.seed, 0)
    side = config.image_size or 32
    down, right = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    splits: dict[str, Any] = {}
    for name, count in {"train": 320 if config.smoke else 768, "test": 64}.items():
        splits[name] = []
        for draws in torch.rand(count, 4, generator=generator):
            y, x, u, v = (draws * side).tolist()
            disc = (down - y) ** 2 + (right - x) ** 2 < (side / 4) ** 2
            bar = ((right - u).abs() < side / 10) & ((down - v).abs() < side / 3) & ~disc
            mask = disc.byte() + 2 * bar.byte()
            image = 100 + 60 * disc - 60 * bar + 30 * torch.randn(3, side, side, generator=generator)
            splits[name].append((image.clamp(0, 255).byte(), mask))
    sizes = {name: [(side, side)] * len(pairs) for name, pairs in splits.items()}
    return splits, sizes, ["ground", "disc", "bar"], side


# ---- prediction ----


def read_inputs(paths: Sequence[Path], meta: dict[str, Any], batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """Batches of file names and images of one size (B, 3, H, W) from files, and from folders and what is below them."""
    files = [file for path in paths for file in find_images(path)]
    by_stem(files)
    batch: list[Tensor] = []
    for number, file in enumerate(files):
        image = read_image(file, meta["image_size"])
        if batch and (len(batch) == batch_size or image.shape != batch[0].shape):
            yield [str(f) for f in files[number - len(batch) : number]], torch.stack(batch)
            batch = []
        batch.append(image)
    if batch:
        yield [str(f) for f in files[-len(batch) :]], torch.stack(batch)


def to_rows(names: list[str], pred: Tensor, meta: dict[str, Any], output: Path) -> list[dict[str, str]]:
    """Masks of the images' own sizes, from logits (B, C, H, W), as PNG files beside `output`; the parts of classes.

    Raises:
        UserError: a mask would take the place of its image.
    """
    folder = output.with_name(f"{output.stem}_masks")
    folder.mkdir(exist_ok=True)
    rows = []
    for name, logits in zip(names, pred, strict=True):
        with opened(Path(name)) as image:
            width, height = upright_size(image)
        whole = F.interpolate(logits[None], (height, width), mode="bilinear", align_corners=False)
        numbers = whole[0].argmax(0).byte().cpu()
        path = folder / f"{Path(name).stem}.png"
        if path.resolve() == Path(name).resolve():
            raise UserError(f"the mask of {name} would overwrite it; give another --output")
        Image.frombytes("L", (width, height), numbers.numpy().tobytes()).save(path)
        parts = numbers.flatten().bincount(minlength=len(meta["classes"])) / numbers.numel()
        shown = [f"{c} {part:.1%}" for c, part in zip(meta["classes"], parts.tolist(), strict=True) if part]
        rows.append({"input": name, "mask": str(path), "classes": ", ".join(shown)})
    return rows


# ==== config.py ====
class Settings:
    # The images and the network
    data: str = "synthetic"  # synthetic, or a folder with train/images and train/masks, and val or test or both
    ignore_index: int = 255  # the number in masks of pixels that do not count
    val_fraction: float = 0.1  # part of the training images that chooses the best epoch, where there is no val folder
    image_size: int = 0  # images are scaled down to this shorter side and cut to squares of it; 0 takes it from them
    batch_size: int = 16  # images per batch
    workers: int = 2  # processes that read image files while training; images that fit into memory need none
    width: int = 16  # channels at full resolution; the cost grows with its square
    optimizer: Literal["sgd", "adamw", "muon"] = "adamw"  # sgd uses Nesterov momentum; muon: see engine/muon.py
    lr: tuple[float, ...] = (0.003,)  # base learning rate: one for all parts, or one per part
    weight_decay: float = 0.01  # on weights of two and more dimensions; biases and normalisation have none


# ==== tests/test_task.py ====
"""What this project promises of masks: any image size, pixels that do not count, and bad files named."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import predict
from config import Config
from engine import UserError
from pixels import PixelCrossEntropy
from task import load_data
from test_project import run


def write(root: Path, *names: str, size: tuple[int, int] = (24, 20), number: int = 1) -> Path:
    """A grey image with a mask, half of it of class 0 and half of `number`, for each of these names."""
    for name in names:
        split, stem = name.split("/")
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        mask = Image.new("L", size)
        mask.paste(number, (0, 0, size[0] // 2, size[1]))
        mask.save(root / split / "masks" / f"{stem}.png")
        mask.point(lambda value: 80 + 60 * value).convert("RGB").save(root / split / "images" / f"{stem}.jpg")
    return root


def test_images_of_any_size_are_trained_on_and_predicted(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name, size in (("a", (40, 21)), ("b", (17, 50)), ("c", (300, 290)), ("d", (9, 9))):
        write(data, f"train/{name}", f"val/{name}", size=size)
    run_dir = run(tmp_path / "runs", "--data", str(data), "--epochs", "1", "--warm_up_mode", "none")
    output = tmp_path / "predictions.csv"
    predict.predict(predict.Arguments((data / "val" / "images",), run_dir / "best.pth", output))
    assert len(output.read_text("utf-8").splitlines()) == 5
    for name, size in (("b", (17, 50)), ("c", (300, 290))):
        with Image.open(tmp_path / "predictions_masks" / f"{name}.png") as mask:
            assert mask.size == size and set(mask.tobytes()) <= {0, 1}


def test_images_and_masks_without_a_split_are_enough(tmp_path: Path) -> None:
    data, _ = load_data(Config(data=str(write(tmp_path, *(f"./{number}" for number in range(10))))))
    assert {name: len(pairs) for name, pairs in data.items()} == {"train": 9, "val": 1}


def test_ignored_pixels_change_no_loss() -> None:
    torch.manual_seed(0)
    pred, y = torch.randn(2, 3, 4, 6), torch.randint(3, (2, 4, 6)).byte()
    y[0, :, 3:] = 255
    expected = [
        torch.nn.functional.cross_entropy(pred[:1, :, :, :3], y[:1, :, :3].long()),
        torch.nn.functional.cross_entropy(pred[1:], y[1:].long()),
    ]
    torch.testing.assert_close(PixelCrossEntropy(255)(pred, y), torch.stack(expected).mean())


def test_a_bad_mask_is_named(tmp_path: Path) -> None:
    write(tmp_path, "train/a", "train/b", "val/c")
    masks = tmp_path / "val" / "masks"
    for content, words in (
        (Image.new("L", (24, 20), 7), "c.png has the unknown class 7; the classes are 0 to 1"),
        (Image.new("L", (20, 20)), "c.png has 20 x 20 pixels, its image .*c.jpg 24 x 20"),
        (Image.new("RGB", (24, 20)), "c.png has mode RGB"),
    ):
        content.save(masks / "c.png")
        with pytest.raises(UserError, match=words):
            load_data(Config(data=str(tmp_path)))
    (masks / "c.png").unlink()
    with pytest.raises(UserError, match="c.jpg has no mask"):
        load_data(Config(data=str(tmp_path)))


# ==== README.md ====
README = """\
## Train

    python train.py                                  # synthetic images, made up on the spot
    python train.py --data FOLDER                    # your own images and masks

Your own masks have the stems of their images, and as pixels the numbers of classes (8 bit greyscale or palette PNG):

    FOLDER/train/images/1.jpg   FOLDER/train/masks/1.png     what is learnt
    FOLDER/val/images/*         FOLDER/val/masks/*           what chooses the best epoch; may be missing
    FOLDER/test/images/*        FOLDER/test/masks/*          what it is tested on at the end; may be missing
    FOLDER/classes.txt                                       a name per line, for 0, 1, 2 ...; may be missing

or just FOLDER/images/ and FOLDER/masks/. Without val a tenth of train, drawn by `--seed`, takes its place. Pixels of number 255 (`--ignore_index`) do not count.
Images may have any size, each its own: they are scaled down to the shorter side `--image_size` (by default what is
usual among them, 256 at most), cut to squares of it for training, and evaluated whole at that scale.

## Predict

    python predict.py --checkpoint check_point/<date>_<time>/best.pth IMAGE_OR_FOLDER...

writes a mask for each image, in the image's own size, into the folder `predictions_masks`, prints the part of each class
and writes it to `predictions.csv`.
"""
