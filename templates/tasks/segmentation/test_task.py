"""What this project promises of masks: any image size, pixels that do not count, and bad files named."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import predict
from config import Config
from data import load_data
from engine import UserError, checkpoint
from metrics import PixelCrossEntropy
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


def test_it_learns(tmp_path: Path) -> None:
    flags = ["--epochs", "4", "--lr_scheduler_type", "annealing", "--warm_up_mode", "linear", "--warm_up_epochs", "0.5"]
    best = checkpoint.load(run(tmp_path, *flags) / "best.pth")
    assert best["best_metric"][best["key_metric"]] > 0.6  # chance is far below


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
        (Image.new("RGB", (24, 20)), "a.png has grey levels and mask .*c.png has colours"),
    ):
        content.save(masks / "c.png")
        with pytest.raises(UserError, match=words):
            load_data(Config(data=str(tmp_path)))
    (masks / "c.png").unlink()
    with pytest.raises(UserError, match="c.jpg has no mask"):
        load_data(Config(data=str(tmp_path)))
