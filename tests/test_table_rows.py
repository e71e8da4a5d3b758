"""Rows of tables for both tasks: columns left out, rows held out by group and time, probabilities, intervals."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from conftest import Render, modules_of
from engine import UserError
from scripts import run_script
from sklearn import metrics

TASKS = ("regression", "tabular_classification")
PLACES = [f"2024-{1 + number // 28:02}-{1 + number % 28:02}" for number in range(120)]


@pytest.fixture(scope="module", params=TASKS)
def own(request: pytest.FixtureRequest, render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The modules of a project of each task."""
    with modules_of(render_into(tmp_path_factory.mktemp("rows"), task_type=request.param)) as modules:
        yield modules


@pytest.fixture(scope="module")
def classes(render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The modules of a project of tabular classification."""
    with modules_of(render_into(tmp_path_factory.mktemp("of"), task_type="tabular_classification")) as modules:
        yield modules


@pytest.fixture(scope="module")
def numbers(render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The modules of a project of regression."""
    with modules_of(render_into(tmp_path_factory.mktemp("of"), task_type="regression")) as modules:
        yield modules


def table(path: Path, count: int = 120) -> Path:
    """Rows of persons, each of whom has four, day by day; the target is 0 or 1, which for regression are numbers."""
    rows = [f"{n * 7 % 31},p{n // 4},{PLACES[n]},{n % 2}" for n in range(count)]
    path.write_text("\n".join(["size,person,day,y", *rows]) + "\n", "utf-8")
    return path


def settings(own: Any, path: Path, **changes: Any) -> Any:
    """A config for that table."""
    return replace(own.config.Config(), data=str(path), target="y", **changes)


def names_of(meta: dict[str, Any]) -> list[str]:
    return [column["name"] for column in meta["columns"]]


# ---- columns and rows ----


def test_columns_to_drop_are_no_features(own: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path / "t.csv")
    _, meta = own.data.load_data(settings(own, path))
    assert names_of(meta) == ["size", "person", "day"]
    capsys.readouterr()
    _, meta = own.data.load_data(settings(own, path, drop=("day", "person")))
    assert names_of(meta) == ["size"]
    assert "no features (2): day (--drop), person (--drop)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"drop": ("days",)}, "no column 'days'; did you mean 'day'"),
        ({"drop": ("y",)}, "--drop y: that is the target, --target y; give another column"),
        ({"group": "persons"}, "no column 'persons'; did you mean 'person'"),
        ({"time": "person"}, "'person' is 'p0'; --time needs a number or a date in every row"),
        ({"group": "person", "time": "day"}, "--group person and --time day each say what is held out; give one"),
        ({"time": "day", "folds": 2, "fold": 1}, "--folds 2 would train on samples later than those of val"),
    ],
)
def test_columns_that_cannot_be_used_are_named(changes: dict[str, Any], words: str, own: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        own.data.load_data(settings(own, table(tmp_path / "t.csv"), **changes))


def test_a_row_without_a_group_is_named(own: Any, tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv")
    path.write_text(path.read_text("utf-8") + "1,,2024-05-01,1\n", "utf-8")
    with pytest.raises(UserError, match=r"t.csv:122: 'person' is empty; every row needs its group"):
        own.data.load_data(settings(own, path, group="person"))


def test_no_group_has_rows_in_two_splits(own: Any, tmp_path: Path) -> None:
    splits, meta = own.data.load_data(settings(own, table(tmp_path / "t.csv"), group="person"))
    persons = {name: {int(row) // 4 for row in split.indices} for name, split in splits.items()}
    assert names_of(meta) == ["size", "day"]
    assert sum(map(len, persons.values())) == 30 == len(set.union(*persons.values()))
    assert sum(map(len, splits.values())) == 120


def test_later_rows_are_held_out_by_time(own: Any, tmp_path: Path) -> None:
    splits, _ = own.data.load_data(settings(own, table(tmp_path / "t.csv"), time="day"))
    found = {name: split.indices.sort().values.tolist() for name, split in splits.items()}
    assert found == {"train": [*range(96)], "val": [*range(96, 108)], "test": [*range(108, 120)]}


def test_every_row_that_is_not_test_is_in_val_in_one_fold(own: Any, tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv")
    folds = [own.data.load_data(settings(own, path, folds=4, fold=fold))[0] for fold in (1, 2, 3, 4)]
    assert len({tuple(splits["test"].indices.tolist()) for splits in folds}) == 1
    held = torch.cat([splits["val"].indices for splits in folds]).tolist()
    assert sorted([*held, *folds[0]["test"].indices.tolist()]) == [*range(120)]


# ---- classes ----


@pytest.mark.parametrize("levels", [4, 10**6])
def test_areas_and_curves_are_those_of_scikit_learn(levels: int, classes: Any) -> None:
    torch.manual_seed(0)
    positive = torch.rand(300) < 0.3
    scores = ((torch.rand(300) + 0.3 * positive) * levels).floor()  # of 4 levels most are equal
    area = classes.metrics.area_under_roc(scores, positive)
    assert area == pytest.approx(metrics.roc_auc_score(positive, scores), abs=1e-12)
    false, true = classes.metrics.roc_curve(scores, positive)
    wanted = metrics.roc_curve(positive, scores, drop_intermediate=False)
    numpy.testing.assert_allclose(false, wanted[0])
    numpy.testing.assert_allclose(true, wanted[1])


def test_a_class_that_no_row_has_is_left_out_of_the_mean_area(classes: Any) -> None:
    auc = classes.metrics.RocAuc()
    pred, y = torch.randn(50, 3), torch.arange(50) % 2
    auc.update(pred, y)
    p = pred.double().softmax(1)
    areas = [metrics.roc_auc_score(y == number, p[:, number]) for number in (0, 1)]
    assert float(auc.compute()) == pytest.approx(sum(areas) / 2, abs=1e-12)


def test_probabilities_that_are_right_have_no_calibration_error(classes: Any) -> None:
    for sure, right, error in ((0.75, 75, 0), (0.75, 50, 0.25), (0.9, 75, 0.15)):
        metric = classes.metrics.CalibrationError()
        pred = torch.tensor([1 - sure, sure]).log().repeat(100, 1)
        metric.update(pred, (torch.arange(100) < right).long())
        assert float(metric.compute()) == pytest.approx(error, abs=1e-6)


@pytest.mark.parametrize("count", [2, 3, 14])
def test_curves_and_reliability_are_drawn_of_any_number_of_classes(count: int, classes: Any) -> None:
    torch.manual_seed(0)
    y = torch.arange(200) % count
    pred = 2 * torch.nn.functional.one_hot(y, count) + torch.randn(200, count)
    auc, calibration = classes.metrics.RocAuc(), classes.metrics.CalibrationError()
    auc.update(pred, y)
    calibration.update(pred, y)
    figures = __import__("probability_figures")
    [axis] = figures.draw_roc(*auc.predictions(), [f"class {number}" for number in range(count)]).axes
    assert len(axis.get_lines()) == 1 + {2: 1, 3: 3, 14: 10}[count]
    assert len(figures.draw_reliability(calibration).axes) == 2


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["1,a", "2,a", "3,a", "4,a"], r"has 1 classes in 4 rows \('a'\); is --target y right"),
        (["1,a"], "has 1 classes in 1 rows"),
        ([f"{n},c{n}" for n in range(50)], "has 50 classes in 50 rows"),
        ([f"{n},c{n % 1001}" for n in range(3003)], "'y' has 1,001 classes, and 1,000 are the most"),
    ],
)
def test_a_target_that_is_no_class_is_refused(rows: list[str], words: str, classes: Any, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\n".join(["x,y", *rows]) + "\n", "utf-8")
    with pytest.raises(UserError, match=words):
        classes.data.load_data(settings(classes, tmp_path / "t.csv"))


def test_a_class_of_one_row_is_in_train_and_is_named(
    classes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{n},{'ab'[n % 2]}" for n in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["x,y", *rows, "3,rare"]) + "\n", "utf-8")
    splits, meta = classes.data.load_data(settings(classes, tmp_path / "t.csv"))
    assert meta["classes"] == ["a", "b", "rare"] and 40 in splits["train"].indices
    assert "note: classes of one row, which is in train: 'rare'" in capsys.readouterr().out


def test_of_unequal_classes_each_row_is_known_by_its_number_also_when_the_epoch_repeats_it(
    classes: Any, tmp_path: Path
) -> None:
    rows = [f"{n},{int(n % 10 == 0)}" for n in range(100)]
    (tmp_path / "t.csv").write_text("\n".join(["x,y", *rows]) + "\n", "utf-8")
    task = classes.task.Task(settings(classes, tmp_path / "t.csv", sampler="balanced", width=8))
    remembered = task.model_list[0][0].retrieval.remembered
    for (x, number), y in task.train_loader:
        torch.testing.assert_close(remembered[number], x)
        assert len(y) == len(x)
    assert float(y.float().mean()) > 0.2


# ---- intervals ----


def test_an_interval_has_as_many_of_new_targets_as_was_asked_for(numbers: Any) -> None:
    scale = numbers.metrics.TargetScale({"target_mean": 10.0, "target_std": 2.0})
    torch.manual_seed(0)
    inside = []
    for _ in range(200):
        interval = numbers.metrics.IntervalWidth(scale, 0.8)
        pred, y = torch.zeros(50), torch.randn(50).exp()
        interval.update(pred, y)
        low, high = interval.ends()
        new = torch.randn(1000).exp()
        inside.append(float(((new >= low) & (new <= high)).float().mean()))
        assert float(interval.compute()) == pytest.approx(2 * (high - low), abs=1e-6)
    assert 0.8 <= numpy.mean(inside) < 0.85


def test_intervals_come_with_predictions(numbers: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["x,y", *(f"{n},{3 * n + n % 5}" for n in range(100))]) + "\n", "utf-8")
    project = Path(numbers.task.__file__).parent
    flags = ["--data", str(path), "--target", "y", "--epochs", "2", "--width", "8", "--pictures", "none"]
    argv = ["train.py", *flags, "--interval", "0.9", "--ckpt_dir", str(tmp_path / "runs")]
    status, said = run_script(project, argv, tmp_path / "said")
    assert status == 0 and "interval_width" in said
    [best] = (tmp_path / "runs").glob("*/best.pth")
    row, *_ = numbers.predict.load(best).predict(path)
    assert list(row) == ["input", "predicted y", "lowest y", "highest y"]
    assert row["lowest y"] < row["highest y"]
