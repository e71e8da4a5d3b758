"""What this project promises of series: the next number is predicted, and a bad file is named."""

from pathlib import Path

import pytest

import predict
from config import Config
from data import load_data
from engine import UserError, checkpoint
from test_project import run


def test_it_learns(tmp_path: Path) -> None:
    best = checkpoint.load(run(tmp_path, "--epochs", "4", "--warm_up_epochs", "0.5") / "best.pth")
    assert best["best_metric"][best["key_metric"]] > 0.6  # chance is far below


def test_the_next_number_is_predicted(tmp_path: Path) -> None:
    run_dir = run(tmp_path / "runs", "--epochs", "1", "--warm_up_mode", "none")
    (tmp_path / "new.txt").write_text("\n".join(map(str, range(40))), "utf-8")
    output = tmp_path / "predictions.csv"
    predict.predict(predict.Arguments((tmp_path / "new.txt",), run_dir / "best.pth", output))
    assert output.read_text("utf-8").splitlines()[0] == "input,next"


@pytest.mark.parametrize("numbers", [0, 10, 60])
def test_a_series_that_is_too_short_is_refused(numbers: int, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("1\n" * numbers, "utf-8")
    with pytest.raises(UserError, match="smaller --window"):
        load_data(Config(data=str(tmp_path / "data.txt")))


def test_a_file_with_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("1\ntwo\n", "utf-8")
    with pytest.raises(UserError, match=r"data\.txt cannot be read"):
        load_data(Config(data=str(tmp_path / "data.txt")))
