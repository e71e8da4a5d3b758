"""Scores of classes: they equal scikit-learn's, as a number and as a table, which ends a run."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from classification import BalancedAccuracy, ConfusionMetric, class_scores, report_classes
from sklearn import metrics
from small import Small
from torch import Tensor, nn

from engine.monitor.figures import new_figure  # isort: skip


def counted(metric: ConfusionMetric, y: Tensor, found: Tensor) -> Tensor:
    """The confusion matrix of a metric that has seen these classes in two batches."""
    for part in (slice(0, 7), slice(7, None)):
        metric.update(nn.functional.one_hot(found[part], metric.num_classes).float(), y[part])
    return metric.matrix


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true:UserWarning")
@pytest.mark.parametrize("seed", range(5))
def test_balanced_accuracy_equals_scikit_learn_with_classes_that_do_not_occur(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 4, (40,), generator=generator)
    found = torch.where(torch.rand(40, generator=generator) < 0.5, y, torch.randint(1, 6, (40,), generator=generator))
    counted(metric := BalancedAccuracy(7), y, found)
    assert float(metric.compute()) == pytest.approx(metrics.balanced_accuracy_score(y, found), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_table_of_classes_has_scikit_learns_numbers(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    y, found = torch.randint(0, 4, (40,), generator=generator), torch.randint(1, 6, (40,), generator=generator)
    rows = class_scores(counted(BalancedAccuracy(7), y, found), list("abcdefg"))
    expected = metrics.precision_recall_fscore_support(y, found, labels=range(7), zero_division=math.nan)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [row[name] for row in rows] == pytest.approx(values.tolist(), abs=1e-12, nan_ok=True), name
    assert [row["class"] for row in rows] == list("abcdefg")


def test_a_few_classes_are_printed_all_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    confusion = torch.tensor([[1_999_999, 1, 0], [3, 1, 0], [0, 0, 0]])
    report_classes(confusion, ["cat", "a" * 100, "never"], tmp_path / "test_classes.csv")
    header, *rows, note = capsys.readouterr().out.splitlines()
    assert header.split() == ["class", "precision", "recall", "f1", "support"]
    assert [row.split()[1:] for row in rows] == [
        ["1.0000", "1.0000", "1.0000", "2,000,000"], ["0.5000", "0.2500", "0.3333", "4"], ["-", "-", "-", "0"],
    ]  # fmt: skip
    assert max(map(len, (header, *rows, note))) <= 80 and note == "the same is in test_classes.csv"
    with (tmp_path / "test_classes.csv").open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["class"] for row in written] == ["cat", "a" * 100, "never"]
    assert float(written[1]["recall"]) == 0.25 and written[2]["recall"] == "" and written[2]["support"] == "0"


def test_of_many_classes_the_worst_are_printed_and_all_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    confusion = torch.zeros(30, 30, dtype=torch.long)
    for number in range(29):  # the last has no sample
        confusion[number, number], confusion[number, 0] = number + 1, 100 - number
    report_classes(confusion, [f"class {number}" for number in range(30)], tmp_path / "eval_classes.csv")
    _, *rows, note = capsys.readouterr().out.splitlines()
    assert [row.split()[1] for row in rows] == [str(number) for number in range(1, 11)]
    assert note == "the 10 classes of lowest recall; 20 more are in eval_classes.csv"
    assert len((tmp_path / "eval_classes.csv").read_text("utf-8").splitlines()) == 31


def test_a_table_that_cannot_be_written_is_printed_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test_classes.csv").mkdir()
    report_classes(torch.eye(2), ["a", "b"], tmp_path / "test_classes.csv")
    said = capsys.readouterr().out
    assert "1.0000" in said and "no table of classes: cannot write" in said


class Reported(Small):
    """Says for which split it reports, and on what."""

    def report(self, split: str) -> None:
        print(f"report of {split}: {self.dataset_metrics['balanced_acc'].matrix.sum()} samples")  # type: ignore[attr-defined]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_report_ends_a_run_with_or_without_a_test_set(
    ema: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = {"balanced_acc": BalancedAccuracy(2)}
    trainer = Reported(tmp_path, epochs=1, ema=ema, dataset_metrics=metrics)
    trainer.fit(1)
    assert trainer.test() == {} and capsys.readouterr().out.splitlines()[-1] == "report of eval: 20 samples"
    trainer.test_loader = [*trainer.eval_loader][:2]
    assert trainer.test() and capsys.readouterr().out.splitlines()[-1] == "report of test: 16 samples"


class Analysed(Small):
    """Says how much it predicts at the end, and draws nothing else."""

    def analyse(self) -> dict[str, Any]:
        print(f"analysed {len(self.inference(self.example_input()))}")
        return {"nothing": new_figure()[0]}


@pytest.mark.parametrize("pictures", ["end", "none"])
def test_an_analysis_ends_a_run_and_without_pictures_draws_none(
    pictures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Analysed(tmp_path, epochs=1, pictures=pictures)
    trainer.fit(1)
    trainer.test()
    assert "analysed" in capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "nothing.png").exists() == (pictures == "end")
