"""What this project promises of images with labels: any size can be predicted, and a bad file or label is named."""

from pathlib import Path

import pytest
from PIL import Image

import predict
from config import Config
from data import load_data
from engine import UserError, checkpoint
from test_project import run


def write(folder: Path, *lines: str) -> Path:
    """labels.csv with these lines after twelve good ones, and thirteen images."""
    (folder / "images").mkdir(parents=True)
    for number in range(13):
        Image.new("RGB", (20 + number, 16), (number * 20, 0, 0)).save(folder / "images" / f"{number}.png")
    good = [f"{number}.png,{number % 2},{int(number > 5)}" for number in range(12)]
    (folder / "labels.csv").write_text("\n".join(["file,odd,red", *good, *lines]), encoding="utf-8")
    return folder


def test_it_learns(tmp_path: Path) -> None:
    flags = ["--epochs", "4", "--lr_scheduler_type", "annealing", "--warm_up_mode", "linear", "--warm_up_epochs", "0.5"]
    best = checkpoint.load(run(tmp_path, *flags) / "best.pth")
    assert best["best_metric"][best["key_metric"]] > 0.6  # chance is far below


def test_trained_weights_predict_images_of_any_size(tmp_path: Path) -> None:
    data = write(tmp_path / "data")
    run_dir = run(tmp_path / "runs", "--data", str(data), "--epochs", "1", "--warm_up_mode", "none")
    Image.new("RGB", (90, 40), "white").save(tmp_path / "wide.png")
    output = tmp_path / "predictions.csv"
    predict.predict(predict.Arguments((tmp_path / "wide.png",), run_dir / "best.pth", output, explain=True))
    header, row = (line.split(",") for line in output.read_text("utf-8").splitlines())
    assert header == ["input", "labels", "p(odd)", "p(red)", "explained"]
    assert Path(row[0]).name == "wide.png" and all(0 <= float(cell) <= 1 for cell in row[2:4])
    assert Path(row[4]) == tmp_path / "predictions_explained" / "wide.png" and Path(row[4]).is_file()


def test_labels_may_be_numbers_or_true_and_false(tmp_path: Path) -> None:
    splits, meta = load_data(Config(data=str(write(tmp_path, "12.png,1.0,True"))))
    assert meta["labels"] == ["odd", "red"] and splits.keys() == {"train", "val", "test"}
    assert splits["train"].y[12].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0.png,1,1", r"labels\.csv:14: 0\.png is in .*labels\.csv:2 already"),
        ("12.png,1,2", r"labels\.csv:14: 'red' is '2'; a label is 0 or 1, or True or False"),
        ("12.png,1,", r"labels\.csv:14: 'red' is ''; a label is 0 or 1, or True or False"),
        ("none.png,1,1", r"labels\.csv:14: .*none\.png does not exist"),
        ("bad.png,1,1", r"bad\.png cannot be read"),
    ],
)
def test_a_bad_line_or_image_is_named(line: str, words: str, tmp_path: Path) -> None:
    data = write(tmp_path, line)
    (data / "images" / "bad.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=words):
        load_data(Config(data=str(data)))
