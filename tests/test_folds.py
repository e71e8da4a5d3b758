"""Splits by group, by time and fold by fold; cross-validation: resumed, tabled, and its networks averaged."""

import csv
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from classification import mean_of_logits
from conftest import Render, modules_of
from engine import UserError, checkpoint
from engine.checkpoint.run_folder import find_state, resumed_folder, runs_in
from engine.cross_validation import DifferentFolds, cross_validate
from engine.data.splits import choose_splits, hold_out_groups, hold_out_latest
from ranks import said, start_ranks
from scripts import run_script
from small import Small, SmallConfig, data
from torch import Tensor

# ---- what is held out ----

CLASSES = torch.randint(3, (200,), generator=torch.Generator().manual_seed(0))
GROUPS = torch.randint(30, (200,), generator=torch.Generator().manual_seed(1))
TIMES = torch.rand(200, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
WAYS: dict[str, dict[str, Any]] = {"plain": {}, "groups": {"together": {"train": GROUPS}}}


def splits(strata: Tensor = CLASSES, test_fraction: float = 0.1, **options: Any) -> dict[str, Tensor]:
    """The numbers of the samples of each split; `options` are settings, and `together` or `order`."""
    by_sample = {name: options.pop(name) for name in ("together", "order") if name in options}
    config = SimpleNamespace(**{"val_fraction": 0.1, "seed": 0, "folds": 1, "fold": 0, **options})
    chosen = choose_splits(config, {"train": strata}, test_fraction, **by_sample)
    return {name: numbers for name, (_, numbers) in chosen.items()}


def refusal(*args: Any, **options: Any) -> str:
    """What is said of splits that cannot be made."""
    with pytest.raises(UserError) as error:
        splits(*args, **options)
    return str(error.value)


@pytest.mark.parametrize("way", WAYS)
def test_every_sample_is_in_test_or_in_val_of_one_fold(way: str) -> None:
    folds = [splits(folds=4, fold=fold, **WAYS[way]) for fold in range(1, 5)]
    once = torch.cat([folds[0]["test"], *(parts["val"] for parts in folds)])
    assert torch.equal(once.sort().values, torch.arange(200))
    for parts in folds:
        assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(200))


@pytest.mark.parametrize("way", WAYS)
def test_folds_leave_the_test_set_as_it_is(way: str) -> None:
    assert torch.equal(splits(folds=4, fold=3, **WAYS[way])["test"], splits(**WAYS[way])["test"])


def test_each_fold_has_its_part_of_every_class() -> None:
    counts = torch.stack([CLASSES[splits(folds=4, fold=fold)["val"]].bincount() for fold in range(1, 5)])
    assert (counts.amax(0) - counts.amin(0)).max() == 1
    assert counts.sum(1).max() - counts.sum(1).min() <= 1


def test_folds_of_groups_have_about_the_same_part_of_every_class() -> None:
    parts = [splits(folds=4, fold=fold, **WAYS["groups"])["val"] for fold in range(1, 5)]
    counts = torch.stack([CLASSES[part].bincount() for part in parts]).double()
    assert (counts - counts.mean(0)).abs().max() < 0.25 * counts.mean()


def test_a_class_keeps_a_sample_in_train_in_every_fold() -> None:
    classes = torch.tensor([0] * 20 + [1, 1, 2])
    folds = [splits(classes, 0.0, folds=5, fold=fold) for fold in range(1, 6)]
    assert all(set(classes[parts["train"]].tolist()) == {0, 1, 2} for parts in folds)
    held_out = sorted(torch.cat([parts["val"] for parts in folds]).tolist())
    assert held_out == list(range(22))  # 22 is alone in its class


@pytest.mark.parametrize("fold", [0, 1, 2, 3])
def test_no_group_is_in_two_splits(fold: int) -> None:
    parts = splits(folds=3 if fold else 1, fold=fold, **WAYS["groups"])
    groups = [set(GROUPS[numbers].tolist()) for numbers in parts.values()]
    assert sum(map(len, groups)) == 30 and set.union(*groups) == set(range(30))


def test_groups_are_held_out_to_about_the_fraction_of_every_class() -> None:
    kept, held = hold_out_groups(GROUPS, CLASSES, 0.2, seed=0)
    assert len(kept) + len(held) == 200 and abs(len(held) - 40) <= 3
    assert (CLASSES[held].bincount() - 0.2 * CLASSES.bincount()).abs().max() < 4


def test_the_groups_that_are_held_out_follow_from_the_seed() -> None:
    held = [hold_out_groups(GROUPS, CLASSES, 0.2, seed=seed)[1].tolist() for seed in (3, 3, 4)]
    assert held[0] == held[1] != held[2]


def test_one_large_group_is_held_out_whole() -> None:
    groups = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    assert hold_out_groups(groups, torch.zeros(100), 0.01, seed=0)[1].tolist() == list(range(80, 100))


def test_the_latest_samples_are_test_and_those_before_them_val() -> None:
    parts = splits(order={"train": TIMES})
    assert [len(parts[name]) for name in ("train", "val", "test")] == [160, 20, 20]
    assert TIMES[parts["train"]].max() < TIMES[parts["val"]].min() < TIMES[parts["val"]].max()
    assert TIMES[parts["val"]].max() < TIMES[parts["test"]].min()


def test_samples_of_one_time_stay_together() -> None:
    days = torch.arange(10, dtype=torch.float64).repeat_interleave(7)
    parts = splits(torch.zeros(70), 0.1, order={"train": days}, val_fraction=0.15)
    assert [days[parts[name]].unique().tolist() for name in ("val", "test")] == [[8], [9]]


def test_samples_of_one_time_alone_are_divided() -> None:
    kept, held = hold_out_latest(torch.ones(10, dtype=torch.float64), 0.3)
    assert (kept.tolist(), held.tolist()) == (list(range(7)), [7, 8, 9])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "held out: val and test (--val_fraction 0.1 --test_fraction 0.1 --seed 0)"),
        (
            WAYS["groups"],
            "held out: val (3 groups) and test (4 groups) (--val_fraction 0.1\n    --test_fraction 0.1 --seed 0)",
        ),
        (
            {"order": {"train": TIMES}},
            "held out: val and test, the latest (--val_fraction 0.1 --test_fraction 0.1)",
        ),
        ({"folds": 3, "fold": 2}, "held out: val, fold 2 of 3, and test (--folds 3 --test_fraction 0.1 --seed 0)"),
        ({"folds": 3, "fold": 2, "test_fraction": 0.0}, "held out: val, fold 2 of 3 (--folds 3 --seed 0)"),
    ],
)
def test_what_is_held_out_is_printed(options: dict[str, Any], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    splits(**options)
    assert capsys.readouterr().out == f"{line}\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 3}, "--folds 3 needs a --fold, 1 to 3; train.py trains each in turn"),
        ({"fold": 2}, "--fold 2 is one of several; give --folds, their number, too"),
        ({"folds": 3, "fold": 4}, "--fold 4 is none of --folds 3; give 1 to 3, or 0 for all in turn"),
        ({"folds": 300, "fold": 1}, "--folds 300 are more than the 180 samples that can be held out; give fewer"),
        (
            {"folds": 30, "fold": 1, **WAYS["groups"]},
            "--folds 30 are more than the 26 groups that can be held out; give fewer",
        ),
        (
            {"folds": 3, "fold": 1, "order": {"train": TIMES}},
            "--folds 3 would train on samples later than those of val; leave --folds out, or the times",
        ),
        (
            {"order": {"train": TIMES}, **WAYS["groups"]},
            "samples are held out by group or by time, not by both; leave one of them out",
        ),
        (
            {"together": {"train": CLASSES.clamp(max=1)}},
            "the samples to hold some out of are of 2 groups, which stay whole; 3 are the least",
        ),
        (
            {"order": {"train": TIMES.clone().index_fill(0, torch.tensor([3]), torch.nan)}},
            "1 of 200 samples have no time to hold them out by; give each one, or none",
        ),
    ],
)
def test_what_cannot_be_held_out_is_refused(options: dict[str, Any], message: str) -> None:
    assert refusal(**options) == message


def test_folds_beside_a_val_split_are_refused() -> None:
    config = SimpleNamespace(val_fraction=0.1, seed=0, folds=3, fold=1)
    with pytest.raises(UserError, match="there is a val split; add it to train, or leave --folds out"):
        choose_splits(config, {"train": CLASSES, "val": CLASSES})


def test_groups_that_are_in_another_split_on_the_disk_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    config = SimpleNamespace(val_fraction=0.1, seed=0, folds=1, fold=0)
    together = {"train": GROUPS, "test": torch.tensor([28, 29, 30])}
    choose_splits(config, {"train": CLASSES, "test": torch.zeros(3)}, together=together)
    assert capsys.readouterr().out.startswith("note: 2 groups of train are in test, too: its scores are too good\n")


# ---- which folder goes on ----


def test_auto_goes_on_with_the_newest_of_ordinary_runs_and_cross_validations(tmp_path: Path) -> None:
    files = [tmp_path / "a" / "epoch1.pth", *(tmp_path / "b" / f"fold{number}" / "epoch1.pth" for number in (1, 2))]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").touch()
    for newest in ((0, 1, 2), (1, 2, 0)):
        for seconds, number in enumerate(newest):
            files[number].parent.mkdir(exist_ok=True)
            checkpoint.save({}, files[number])
            os.utime(files[number], (seconds,) * 2)
        assert find_state("auto", tmp_path) == files[newest[-1]]
    assert [resumed_folder(path, "auto").name for path in files] == ["a", "b", "b"]


def test_the_run_of_a_fold_that_is_named_goes_on_alone(tmp_path: Path) -> None:
    state = tmp_path / "fold2" / "epoch1.pth"
    state.parent.mkdir()
    (tmp_path / "config.json").touch()
    checkpoint.save({}, state)
    for named in (state, state.parent):
        assert resumed_folder(state, str(named)) == state.parent
    assert find_state(str(tmp_path), "") == state and resumed_folder(state, str(tmp_path)) == tmp_path


def test_folds_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        (tmp_path / f"fold{number}").mkdir()
    assert [run.name for run in runs_in(tmp_path)] == ["fold1", "fold9", "fold10"]


# ---- a data set that ignores folds ----


@dataclass(frozen=True)
class FoldsConfig(SmallConfig):
    """The settings of a small cross-validation."""

    folds: int = 1
    fold: int = 0
    smoke: bool = False


def test_folds_with_the_same_validation_set_are_refused(tmp_path: Path) -> None:
    check = DifferentFolds()
    check(Small(tmp_path))
    check(Small(tmp_path, eval_loader=data(seed=2)))
    with pytest.raises(UserError, match="two folds have the same validation set: .* leave --folds out"):
        check(Small(tmp_path, eval_loader=data(seed=2)))


class Alike:
    """Trains a fold of a data set that is the same in all of them; it is stopped in the second one."""

    def __init__(self) -> None:
        self.started = 0

    def __call__(
        self, config: Any, folder: Path, state_path: Path | None, check: Any
    ) -> tuple[Small, dict[str, float]]:
        """Trains in that folder."""
        self.started += 1
        trainer = Small(folder, epochs=1)
        check(trainer)
        trainer.fit()
        return trainer, {}


def test_they_are_refused_again_when_it_is_resumed(tmp_path: Path) -> None:
    config, train_run = FoldsConfig(folds=3), Alike()
    for started in (2, 3):
        with pytest.raises(UserError, match="two folds have the same validation set"):
            cross_validate(config, tmp_path, train_run)
        assert train_run.started == started


# ---- from the command line ----

TASKS = {"regression": "--target price --width 8", "text_classification": "--width 16 --layers 1"}
FLAGS = "--data rows.csv --epochs 3 --folds 3 --batch_size 16 --pictures none --device cpu --precision fp32"
# In fold 2 it is told to stop, in the middle of an epoch.
STOPPED = """import os, signal, sys
import train
from engine.trainer import Trainer

def update(trainer, batches, update=Trainer._update):
    if trainer.config.fold == 2 and trainer.global_step == 5:
        os.kill(os.getpid(), signal.SIGTERM)
    update(trainer, batches)

Trainer._update = update
train.train(sys.argv[1:])
"""


def write_rows(path: Path, task: str) -> None:
    """A table of 90 rows."""
    draws = torch.rand(90, 3, generator=torch.Generator().manual_seed(0)).tolist()
    rows: list[tuple[str, str]] = [
        (f"{a:.3f},{b:.3f},{(10 * a + b) * (20 if c > 0.9 else 1):.3f}", "a,b,price") for a, b, c in draws
    ]
    if task == "text_classification":
        rows = [
            (f"{'bread and soup' if a > b else 'song and choir'} {c:.4f},{int(a > b)}", "text,label")
            for a, b, c in draws
        ]
    path.write_text("\n".join([rows[0][1], *(row for row, _ in rows)]), "utf-8")


@pytest.fixture(scope="module", params=TASKS)
def trained(request: Any, render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A project of a task, its flags, and the folder of a cross-validation that was never stopped."""
    project = render_into(tmp_path_factory.mktemp("folds"), task_type=request.param)
    write_rows(project / "rows.csv", request.param)
    (project / "scripts" / "stopped.py").write_text(STOPPED, "utf-8")
    flags = [*FLAGS.split(), *TASKS[request.param].split()]
    status, output = run_script(project, ["train.py", *flags, "--ckpt_dir", "whole"], project / "output")
    assert status == 0, output
    with modules_of(project) as modules:
        yield SimpleNamespace(
            project=project, flags=flags, folder=next((project / "whole").iterdir()), output=output, modules=modules
        )


def table(folder: Path) -> dict[str, dict[str, float]]:
    """The scores in folds.csv, by fold."""
    with (folder / "folds.csv").open(newline="", encoding="utf-8") as file:
        return {row.pop("fold"): {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)}


def model_of(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint."""
    weights: dict[str, Tensor] = checkpoint.load(path)["model0"]
    return weights


def equal(one: Path, other: Path) -> bool:
    """Whether two checkpoints have the same weights, to the last bit."""
    a, b = model_of(one), model_of(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_table_has_the_best_scores_of_each_fold_their_mean_and_deviation(trained: Any) -> None:
    rows = table(trained.folder)
    assert list(rows) == ["1", "2", "3", "mean", "std"]
    for number in ("1", "2", "3"):
        best = checkpoint.load(trained.folder / f"fold{number}" / "best.pth")
        assert {f"val_{name}": value for name, value in best["best_metric"].items()}.items() <= rows[number].items()
    losses = torch.tensor([rows[number]["test_loss"] for number in ("1", "2", "3")], dtype=torch.float64)
    assert rows["mean"]["test_loss"] == pytest.approx(losses.mean().item())
    assert rows["std"]["test_loss"] == pytest.approx(losses.std().item())


def test_no_line_of_the_tables_is_too_long(trained: Any) -> None:
    tables = trained.output[trained.output.rindex("validation: best epoch of each fold") :]
    assert max(map(len, tables.splitlines())) <= 80 and "test set: best epoch of each fold" in tables


def test_a_stopped_cross_validation_ends_like_one_that_was_not(trained: Any) -> None:
    flags = [*trained.flags, "--ckpt_dir", "cut"]
    status, output = run_script(trained.project, ["scripts/stopped.py", *flags], trained.project / "output")
    assert status == 143, output
    cut = next((trained.project / "cut").iterdir())
    finished = (cut / "fold1" / "epoch3.pth").stat().st_mtime_ns
    again = ["train.py", "--ckpt_dir", "cut", "--resume", "auto", "--device", "cpu"]
    status, output = run_script(trained.project, again, trained.project / "output")
    assert status == 0 and "fold 1 of 3 is finished: it is not trained again" in output, output
    assert re.search(r"continuing from cut/.*/fold2/epoch\d_step6.pth: ", output), output
    assert (cut / "fold1" / "epoch3.pth").stat().st_mtime_ns == finished
    assert (cut / "folds.csv").read_text() == (trained.folder / "folds.csv").read_text()
    for number in (1, 2, 3):
        assert equal(cut / f"fold{number}" / "epoch3.pth", trained.folder / f"fold{number}" / "epoch3.pth")


def test_a_fold_by_itself_is_the_same_run(trained: Any) -> None:
    flags = [*trained.flags, "--fold", "3", "--ckpt_dir", "alone"]
    status, output = run_script(trained.project, ["train.py", *flags], trained.project / "output")
    assert status == 0, output
    [run] = (trained.project / "alone").iterdir()
    assert equal(run / "best.pth", trained.folder / "fold3" / "best.pth")


def test_with_more_epochs_finished_folds_go_on(trained: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(trained.folder, tmp_path / "runs" / "copy")
    flags = ["train.py", "--resume", str(folder), "--epochs", "4", "--device", "cpu"]
    status, output = run_script(trained.project, flags, tmp_path / "output")
    assert status == 0, output
    assert all((folder / f"fold{number}" / "epoch4.pth").exists() for number in (1, 2, 3))


def test_the_mean_of_the_folds_predicts(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.project)
    load = trained.modules.predict.load
    rows = load(trained.folder, "cpu").predict("rows.csv")
    folds = [load(trained.folder / f"fold{number}", "cpu").predict("rows.csv") for number in (1, 2, 3)]
    column = "predicted price" if "predicted price" in rows[0] else "p(1)"
    for row, *of_folds in zip(rows, *folds, strict=True):
        mean = sum(fold[column] for fold in of_folds) / 3
        assert row["input"] == of_folds[0]["input"] and row[column] == pytest.approx(mean, rel=1e-5, abs=1e-6)


def test_a_batch_is_refused_where_folds_encode_it_differently(trained: Any) -> None:
    folds, task = trained.modules.predict.load(trained.folder, "cpu"), trained.modules.task
    if trained.flags[-2:] == ["--layers", "1"]:  # texts are encoded alike
        x = torch.randint(1, 256, (2, 9))
        expected = task.average([fold(x) for fold in folds.folds], folds.metas)
        assert torch.equal(folds(x), expected)
        return
    with pytest.raises(UserError, match="the folds encode inputs differently"):
        folds(torch.zeros(2, 2))


def test_a_task_without_average_is_named(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(trained.modules.task, "average")
    with pytest.raises(UserError, match="has no average"):
        trained.modules.predict.load(trained.folder, "cpu")


def test_two_processes_walk_through_the_same_folds(trained: Any, tmp_path: Path) -> None:
    argv = ["train.py", "--smoke", "--folds", "2", "--device", "cpu"]
    for process in (started := start_ranks(trained.project, argv, tmp_path, 2, OMP_NUM_THREADS="1")):
        process.join(100)
    first, second = said(tmp_path, 2)
    assert [process.exitcode for process in started] == [0, 0], first + second
    assert first.count("smoke epoch: loss") == 2 and "test set: best epoch of each fold" in first


# ---- the mean of several outputs ----


def test_the_mean_of_logits_has_the_mean_of_probabilities() -> None:
    preds = list(4 * torch.randn(3, 5, 4, 2, generator=torch.Generator().manual_seed(0)))
    expected = torch.stack([pred.softmax(1) for pred in preds]).mean(0)
    torch.testing.assert_close(mean_of_logits(preds).softmax(1), expected)


def test_the_mean_of_labels_has_the_mean_of_probabilities(render: Render) -> None:
    preds = list(4 * torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)))
    with modules_of(render(task_type="multilabel_classification")) as modules:
        mean = modules.task.average(preds, [{}] * 3)
    torch.testing.assert_close(mean.sigmoid(), torch.stack([pred.sigmoid() for pred in preds]).mean(0))


def test_targets_are_averaged_in_their_own_unit(render: Render) -> None:
    metas = [{"target_mean": 3.0, "target_std": 2.0, "target_log": [1.0, 0.5]}, {"target_mean": 1.0, "target_std": 4.0}]
    preds = [torch.tensor([0.0, 1.0]), torch.tensor([1.0, -9.0])]
    with modules_of(render(task_type="regression")) as modules:
        mean = modules.task.average(preds, metas)
        scale = modules.metrics.TargetScale(metas[0])
    expected = [(torch.tensor(1.0).exp().item() + 5) / 2, 0.0]  # a logarithm has no mean below 0
    assert scale.in_unit(mean).tolist() == pytest.approx(expected, abs=1e-5)
