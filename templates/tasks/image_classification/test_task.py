"""What this project promises of images: images of any size are predicted, and a bad file is named."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import predict
from backbones import from_timm, from_torchvision
from config import Config
from data import load_data
from engine import UserError, checkpoint
from pretrained import build_timm, build_torchvision, torchvision_names
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
    inputs = (tmp_path / "wide.png", tmp_path / "tall.jpg")
    predict.predict(predict.Arguments(inputs, run_dir / "best.pth", output, explain=True))
    header, *rows = (line.split(",") for line in output.read_text("utf-8").splitlines())
    assert header[:4] == ["input", "class", "probability", "top2"]
    assert {f"p({name})" for name in checkpoint.load(run_dir / "best.pth")["meta"]["classes"]} <= set(header)
    assert [Path(row[0]).name for row in rows] == ["wide.png", "tall.jpg"]
    assert [Path(row[-1]).name for row in rows] == ["wide.png", "tall.png"]  # what they rest on, drawn
    assert all(Path(row[-1]).is_file() for row in rows)


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


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "tf_efficientnet_lite0"])
def test_a_backbone_computes_what_its_library_does(name: str) -> None:
    x = torch.rand(2, 3, 64, 64)
    if name in torchvision_names():
        torch.manual_seed(0)
        whole = build_torchvision(name, "none").eval()
        torch.manual_seed(0)
        stem, body, features = from_torchvision(name, "none")
        last = list(whole.modules())[-1]
    else:
        torch.manual_seed(0)
        whole = build_timm(name, None, num_classes=0).eval()
        torch.manual_seed(0)
        stem, body, features = from_timm(name, None, 64)
        last = torch.nn.Identity()
    chain = torch.nn.Sequential(*stem.values(), *body.values(), last).eval()
    assert len(stem) > 0
    torch.testing.assert_close(chain(x), whole(x))
