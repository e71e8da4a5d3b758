"""What this project promises of images: images of any size are predicted, and a bad file is named."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import predict
from backbones import from_torchvision
from config import Config
from data import load_data
from engine import UserError, checkpoint
from task import Task
from test_project import run


def write_images(root: Path, *names: str) -> None:
    """A small image in each of these files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)


def test_it_learns(tmp_path: Path) -> None:
    flags = ["--epochs", "4", "--lr_scheduler_type", "annealing", "--warm_up_mode", "linear", "--warm_up_epochs", "0.5"]
    best = checkpoint.load(run(tmp_path, *flags) / "best.pth")
    assert best["best_metric"][best["key_metric"]] > 0.6  # chance is far below


def test_trained_weights_predict_images_of_any_size(tmp_path: Path) -> None:
    run_dir = run(tmp_path / "runs", "--epochs", "1", "--warm_up_mode", "none")
    for name, size in (("wide.png", (90, 40)), ("tall.jpg", (33, 70))):
        Image.new("RGB", size, "white").save(tmp_path / name)
    output = tmp_path / "predictions.csv"
    predict.predict(predict.Arguments((tmp_path / "wide.png", tmp_path / "tall.jpg"), run_dir / "best.pth", output))
    header, *rows = output.read_text("utf-8").splitlines()
    assert header == "input,class,probability"
    assert [Path(row.split(",")[0]).name for row in rows] == ["wide.png", "tall.jpg"]


def test_a_folder_of_class_folders_is_enough(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
    splits, meta = load_data(Config(data=str(tmp_path)))
    assert meta["classes"] == ["cat", "dog"]
    assert {name: len(images) for name, images in splits.items()} == {"train": 2, "val": 2}


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
    stem, body, features = from_torchvision(name, pretrained=False)
    last = list(whole.modules())[-1]
    chain = torch.nn.Sequential(*stem, *body, last).eval()
    x = torch.rand(2, 3, 64, 64)
    assert last.in_features == features
    torch.testing.assert_close(chain(x), whole(x))
