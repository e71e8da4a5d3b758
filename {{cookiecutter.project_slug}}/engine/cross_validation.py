"""Cross-validation: a network for each fold, each trained in a run of its own, and a table of their scores.

Which samples a fold holds out is in data/splits.py; --folds of train.py starts it; predict.py averages the networks.
"""

import gc
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from . import checkpoint, settings
from .checkpoint.file import is_intact
from .checkpoint.run_folder import fold_folder, locked, states_in
from .data.splits import check_folds
from .distributed.process_group import is_rank_0, on_rank_0
from .logger import Logger
from .monitor import console
from .runtime.errors import UserError
from .runtime.files import read_csv, write_csv
from .trainer import Trainer

TABLE = "folds.csv"  # a row for each fold that is finished, then mean and standard deviation
WHETHER_FINISHED = ("epochs", "early_stopping_patience")  # with other values of these a finished fold may go on
Scores = dict[str, float]


class FoldsConfig(Protocol):
    """The settings that say whether it is a cross-validation."""

    @property
    def folds(self) -> int: ...
    @property
    def fold(self) -> int: ...


class TrainRun(Protocol):
    """Trains one network with the settings `config`, in `folder`, from the state at `state_path` if there is one.

    Calls `check` with the trainer before it trains; returns it afterwards, and its scores on the test set.
    """

    def __call__(
        self, config: Any, folder: Path, state_path: Path | None, check: Callable[[Trainer], None]
    ) -> tuple[Trainer, Scores]: ...


def is_cross_validation(config: FoldsConfig) -> bool:
    """Whether all folds are trained, one after another.

    Raises:
        UserError: a fold that is not one of the folds.
    """
    check_folds(config.folds, config.fold)
    return config.folds > 1 and not config.fold


def cross_validate(config: Any, folder: Path, train_run: TrainRun) -> None:
    """Trains a network for each fold that is not finished, and prints and writes the scores of all.

    Args:
        config: the settings of all runs.
        folder: of the cross-validation; each run gets a folder in it.
        train_run: trains one network.

    Raises:
        UserError: all that training raises; or two folds have the same validation set.
    """
    with locked(folder), Logger(folder / "log.txt") if is_rank_0() else nullcontext():
        rows: dict[int, Scores] = on_rank_0(_begin, config, folder)
        check = DifferentFolds()
        for number in range(1, config.folds + 1):
            if number in rows:
                print(f"fold {number} of {config.folds} is finished: it is not trained again")
                continue
            print(f"{f' fold {number} of {config.folds} ':=^60}")
            if number - 1 in rows and not check.means:
                check.means = on_rank_0(_sample_means, fold_folder(folder, number - 1))
            run, state = on_rank_0(_open_run, folder, number)
            rows[number] = _row(*train_run(replace(config, fold=number), run, state, check))
            on_rank_0(_write, rows, config.folds, folder)
            gc.collect()  # the network before the next one is built
            if config.compile:
                torch.compiler.reset()  # which compiles a function for so many networks only
        _print_tables([rows[number] for number in sorted(rows)])
        if not config.smoke:  # which leaves no files
            print(f"the same is in {folder / TABLE}")


class DifferentFolds:
    """Called with the trainer of each fold, it raises a UserError if one has the validation set of the fold before.

    Data sets are compared by the means of some samples of training and validation, and by the numbers of the samples of
    validation where both have `indices`. Where no means are known, as of an IterableDataset, nothing is compared.
    """

    def __init__(self) -> None:
        self.means: list[float] = []  # of the fold before
        self.indices: list[int] = []

    def __call__(self, trainer: Trainer) -> None:
        """Compares the validation set with that of the fold before."""
        means, numbers = trainer.sample_means, getattr(getattr(trainer.eval_loader, "dataset", None), "indices", ())
        indices = list(map(int, numbers))
        if means and means == self.means and (indices == self.indices or not (indices and self.indices)):
            raise UserError(
                "two folds have the same validation set: the data set in data.py is not divided by --folds and --fold; "
                "let make_splits(config, ...) of engine/data/splits.py do it, or leave --folds out"
            )
        self.means, self.indices = means, indices


def _sample_means(run: Path) -> list[float]:
    """The means of some samples of a run of which there is a state."""
    path = next(filter(is_intact, states_in(run)), None)
    means: list[float] = checkpoint.load(path).get("sample_means", []) if path else []
    return means


def _begin(config: Any, folder: Path) -> dict[int, Scores]:
    """Writes the settings of all folds into their folder; returns the scores of those that are finished."""
    path, rows = folder / "config.json", {}
    if path.is_file():
        before = settings.load(config, path)
        if all(getattr(before, name) == getattr(config, name) for name in WHETHER_FINISHED):
            rows = _read(folder / TABLE)
        else:
            (folder / TABLE).unlink(missing_ok=True)
    settings.save(config, folder)
    return rows


def _open_run(folder: Path, number: int) -> tuple[Path, Path | None]:
    """The folder of a fold's run and its newest intact state, None if there is none."""
    run = fold_folder(folder, number)
    run.mkdir(exist_ok=True)
    return run, next(filter(is_intact, states_in(run)), None)


def _row(trainer: Trainer, test_scores: Mapping[str, float]) -> Scores:
    """What the table has of a fold."""
    row: Scores = {"best_epoch": trainer.best_epoch}
    row |= {f"val_{name}": value for name, value in trainer.best_metric.items()}
    return row | {f"test_{name}": value for name, value in test_scores.items()}


def _columns(rows: Iterable[Scores]) -> list[str]:
    """The names of all scores, in their order."""
    return list(dict.fromkeys(name for row in rows for name in row))


def mean_and_deviation(rows: Sequence[Scores]) -> dict[str, Scores]:
    """The mean and the sample standard deviation of each score over the folds; NaN where a fold has none."""
    columns = {name: [row.get(name, math.nan) for row in rows] for name in _columns(rows)}
    values = {name: torch.tensor(column, dtype=torch.float64) for name, column in columns.items()}
    mean = {name: column.mean().item() for name, column in values.items()}
    return {"mean": mean, "std": {name: column.std().item() for name, column in values.items()}}


def _write(rows: Mapping[int, Scores], folds: int, folder: Path) -> None:
    """Writes the scores of the folds that are finished; below all of them mean and standard deviation."""
    named: dict[Any, Scores] = {number: rows[number] for number in sorted(rows)}
    if len(rows) == folds:
        named |= mean_and_deviation(list(named.values()))
    columns = _columns(rows.values())
    table = [{"fold": name, **{column: row.get(column, math.nan) for column in columns}} for name, row in named.items()]
    write_csv(table, folder / TABLE)


def _read(path: Path) -> dict[int, Scores]:
    """What `_write` has written, but mean and standard deviation; nothing if there is no such file."""
    rows = {row.pop("fold"): row for row in read_csv(path)} if path.is_file() else {}
    return {
        int(number): {name: int(value) if value.isdigit() else float(value or math.nan) for name, value in row.items()}
        for number, row in rows.items()
        if number.isdigit()
    }


def _print_tables(rows: Sequence[Scores]) -> None:
    """Prints the scores of each fold's best epoch, with mean and deviation: of validation, and of the test set."""
    named = {str(number): row for number, row in enumerate(rows, 1)} | mean_and_deviation(rows)
    for prefix, what in (("val_", "validation"), ("test_", "test set")):
        columns = [name for name in _columns(rows) if name.startswith(prefix)]
        if not columns:
            continue
        print(f"{what}: best epoch of each fold, mean and standard deviation of {len(rows)} folds")
        table = [_cells(name, row, columns, prefix) for name, row in named.items()]
        shown = console.leading_columns(table)
        console.print_table([{column: row[column] for column in shown} for row in table])


def _cells(name: str, row: Scores, columns: Sequence[str], prefix: str) -> dict[str, str]:
    """A row as it is printed: numbers on the right, NaN as a dash."""
    cells = {"fold": name, "epoch": f"{row['best_epoch']:.4g}".rjust(5)}
    for column in columns:
        value, title = row.get(column, math.nan), f"{column.removeprefix(prefix):>7}"
        cells[title] = ("-" if math.isnan(value) else console.cell(value)).rjust(len(title))
    return cells
