"""What this project promises of tables: every kind of column is used, new rows are predicted, bad cells are named."""

from pathlib import Path

import pytest

import predict
from config import Config
from data import load_data
from engine import UserError, checkpoint
from test_project import run

HEADER = "size,city,price\n"


def table(folder: Path, *rows: str) -> Path:
    """A file with these rows and 30 good ones before them."""
    path = folder / "houses.csv"
    good = [f"{n},{'Rome' if n % 2 else 'Oslo'},{100 + 3 * n}" for n in range(30)]
    path.write_text(HEADER + "\n".join([*good, *rows]) + "\n", encoding="utf-8")
    return path


def test_it_learns(tmp_path: Path) -> None:
    flags = ["--epochs", "4", "--lr_scheduler_type", "annealing", "--warm_up_mode", "linear", "--warm_up_epochs", "0.5"]
    best = checkpoint.load(run(tmp_path, *flags) / "best.pth")
    assert best["best_metric"]["r2"] > 0.6  # chance is far below


def test_rows_that_training_never_saw_are_predicted_in_the_target_s_unit(tmp_path: Path) -> None:
    data = table(tmp_path, ",Oslo,130")
    run_dir = run(tmp_path / "runs", "--data", str(data), "--target", "price", "--epochs", "20", "--lr", "0.01")
    new = tmp_path / "new.csv"
    new.write_text("city,size\nRome,15\nParis,\n", encoding="utf-8")
    output = tmp_path / "predictions.csv"
    predict.predict(predict.Arguments((new,), run_dir / "best.pth", output))
    header, *rows = (line.split(",") for line in output.read_text("utf-8").splitlines())
    assert header == ["input", "predicted price"]
    assert [place for place, _ in rows] == [f"{new}:2", f"{new}:3"]
    assert all(60 < float(price) < 230 for _, price in rows)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("1,Oslo,", "houses.csv:32: 'price' is ''; the target must be a number"),
        ("1,Oslo,nan", "houses.csv:32: 'price' is 'nan'; the target must be a number"),
        ("12a,Oslo,100", "houses.csv:32: 'size' is '12a' where other rows have numbers"),
        ("1;Oslo;100", "houses.csv:32: 1 cells where the first line has 3"),
        ("1,Oslo", "houses.csv:32: 2 cells where the first line has 3"),
    ],
)
def test_a_bad_row_is_named_with_its_line(row: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        load_data(Config(data=str(table(tmp_path, row)), target="price"))


def test_a_missing_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no column 'prize'; did you mean 'price'\?"):
        load_data(Config(data=str(table(tmp_path)), target="prize"))
