"""What this project promises of tables: classes of any kind, every column used, new rows predicted, bad cells named."""

import csv
from pathlib import Path

import pytest

import predict
from config import Config
from data import load_data
from engine import UserError, checkpoint
from test_project import run

GOOD = [f"{n},{'Rome' if n % 2 else 'Oslo'},{('no', 'yes')[n > 14]}" for n in range(30)]


def table(folder: Path, *rows: str, header: str = "size,city,sold") -> Path:
    """A file with these rows."""
    path = folder / "houses.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_it_learns(tmp_path: Path) -> None:
    flags = ["--epochs", "4", "--lr_scheduler_type", "annealing", "--warm_up_mode", "linear", "--warm_up_epochs", "0.5"]
    best = checkpoint.load(run(tmp_path, *flags) / "best.pth")
    assert best["best_metric"]["acc"] > 0.6 and best["best_metric"]["auc"] > 0.8  # chance is far below


def test_rows_that_training_never_saw_are_predicted(tmp_path: Path) -> None:
    data = table(tmp_path, *GOOD, ",Oslo,yes")
    run_dir = run(tmp_path / "runs", "--data", str(data), "--target", "sold", "--epochs", "20", "--lr", "0.01")
    new = tmp_path / "new.csv"
    new.write_text("city,size\nRome,2\nParis,28\n", encoding="utf-8")
    output = tmp_path / "predictions.csv"
    predict.predict(predict.Arguments((new,), run_dir / "best.pth", output))
    first, second = csv.DictReader(output.open(encoding="utf-8"))
    assert [*first] == ["input", "class", "probability", "top2", "top2_probability", "p(no)", "p(yes)"]
    assert (first["input"], second["input"]) == (f"{new}:2", f"{new}:3")
    assert (first["class"], second["class"]) == ("no", "yes")
    assert float(first["p(no)"]) + float(first["p(yes)"]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        (["10", "9", "2"], ["2", "9", "10"]),
        (["1.0", "0.0"], ["0", "1"]),
        (["0.5", "1.5"], ["0.5", "1.5"]),
        (["True", "False"], ["False", "True"]),
        (["b", "a"], ["a", "b"]),
    ],
)
def test_a_class_may_be_a_number_a_boolean_or_a_text(cells: list[str], classes: list[str], tmp_path: Path) -> None:
    rows = [f"{n},x,{cells[n % len(cells)]}" for n in range(30)]
    _, meta = load_data(Config(data=str(table(tmp_path, *rows)), target="sold"))
    assert meta["classes"] == classes


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*GOOD, "1,Oslo,"], r"houses.csv:32: a row has no class \(1 in all\)"),
        ([*GOOD, "12a,Oslo,no"], "houses.csv:32: 'size' is '12a' where other rows have numbers"),
        (GOOD[:10], r"has 1 classes in 10 rows \('no'\); is --target sold right\?"),
        ([f"{n},Oslo,{n}" for n in range(30)], r"has 30 classes in 30 rows"),
    ],
)
def test_a_bad_table_is_named_with_its_line(rows: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        load_data(Config(data=str(table(tmp_path, *rows)), target="sold"))


def test_a_missing_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no column 'solt'; did you mean 'sold'\?"):
        load_data(Config(data=str(table(tmp_path, *GOOD)), target="solt"))
