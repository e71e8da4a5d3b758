"""Predicts with trained weights: `python predict.py --checkpoint check_point/.../best.pth INPUT...`.

From Python: `from predict import load`, then `load("best.pth").predict("input")`. Of the folder of a cross-validation
the networks of all folds predict, and their mean is taken.

Of your files it needs `build_model_list(meta, num_parts)` in model.py, `read_inputs(inputs, meta, batch_size)` in
data.py, and `Task` and `to_rows(names, pred, meta, output)` in task.py; and there, for `--explain`,
`explain(task, x, pred)`, which makes a matplotlib figure for each input, and for a cross-validation
`average(preds, metas)`, which makes one output from those of several networks.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from config import Config
from engine.runtime.command_line import command_line
from engine.runtime.errors import UserError

if TYPE_CHECKING:
    from engine.trainer import Trainer

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Arguments:
    """Prints a table of predictions and writes it as CSV."""

    inputs: tyro.conf.Positional[tuple[Path, ...]]  # what to predict for: see read_inputs in data.py
    checkpoint: Path  # best.pth or epoch<N>.pth of a run, its folder, or that of a cross-validation: the mean of folds
    output: Path = Path("predictions.csv")  # where the table is written; other files of to_rows go beside it
    explain: bool = False  # draw what each prediction rests on, as PNG files in a folder beside the table
    batch_size: int = 32  # inputs per batch
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps


class Predictor:
    """A trained network with what it needs to read inputs and to name predictions; `load` makes it.

    Args:
        task: a task with weights, which needs no data.
        meta: what `load_data` returned when it was trained.
    """

    def __init__(self, task: "Trainer", meta: dict[str, Any]) -> None:
        self.task = task
        self.meta = meta

    def __call__(self, x: Any) -> Any:
        """The network's output for a batch of inputs, as tensors of the shapes that task.py names."""
        return self.task.inference(x)

    def predict(
        self, inputs: Any, output: str | Path = "predictions.csv", batch_size: int = 32, explain: bool = False
    ) -> Any:
        """A row for each input, with its prediction; of one pandas DataFrame, a DataFrame with its index.

        Args:
            inputs: what `read_inputs` in data.py reads, such as a file or a DataFrame, or a list of these.
            output: other files, such as masks, go beside this path; no table is written.
            batch_size: inputs per batch.
            explain: whether what each prediction rests on is drawn, too; the rows name the pictures.

        Raises:
            UserError: an input that cannot be read, or a task that explains nothing.
        """
        listed = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        found = [row for rows in self.batches(listed, Path(output), batch_size, explain) for row in rows]
        is_frame = hasattr(inputs, "iloc") or hasattr(inputs, "to_pandas")  # of pandas; of Polars or Arrow
        return as_frame(found, inputs) if is_frame else found

    def batches(self, inputs: Sequence[Any], output: Path, batch_size: int, explain: bool = False) -> Iterator[Rows]:
        """The same, batch by batch."""
        from task import to_rows

        pictures = Pictures(inputs, output) if explain else None
        for names, batch, pred in self.outputs(inputs, batch_size):
            rows = to_rows(names, pred, self.meta, output)
            if pictures:
                paths = pictures.draw(self.task, names, batch, pred)
                rows = [row | {"explained": path} for row, path in zip(rows, paths, strict=True)]
            yield rows

    def outputs(self, inputs: Sequence[Any], batch_size: int) -> Iterator[tuple[list[str], Any, Any]]:
        """Names, inputs and the network's output, batch by batch."""
        from data import read_inputs

        for names, batch in read_inputs(inputs, self.meta, batch_size):
            yield names, batch, self(batch)


class Ensemble(Predictor):
    """The networks of a cross-validation: each reads the inputs by its own meta, and their outputs are averaged.

    The mean is an output for the meta of the first fold, whose network also explains.

    Args:
        folds: a predictor of each fold.

    Raises:
        UserError: task.py has no `average`.
    """

    def __init__(self, folds: Sequence[Predictor]) -> None:
        super().__init__(folds[0].task, folds[0].meta)
        self.folds = folds
        self.metas = [fold.meta for fold in folds]
        self.average: Any = getattr(import_module("task"), "average", None)
        if self.average is None:
            raise UserError(
                "task.py has no average(preds, metas), which makes one output of several; give one best.pth"
            )

    def __call__(self, x: Any) -> Any:
        """The mean of the networks' outputs for a batch, if all folds read inputs in the same way; else a UserError."""
        if any(meta != self.meta for meta in self.metas):
            raise UserError("the folds encode inputs differently, each by its own meta; call predict(inputs) instead")
        return self.average([fold(x) for fold in self.folds], self.metas)

    def outputs(self, inputs: Sequence[Any], batch_size: int) -> Iterator[tuple[list[str], Any, Any]]:
        """Names, inputs as the first fold reads them, and the mean of the outputs, batch by batch.

        Raises:
            UserError: an input that cannot be read, or which the folds read in different batches.
        """
        from data import read_inputs

        different = [meta for number, meta in enumerate(self.metas) if meta not in self.metas[:number]]
        reader_of = [different.index(meta) for meta in self.metas]  # inputs are read once for all folds alike
        for read in zip(*(read_inputs(inputs, meta, batch_size) for meta in different), strict=True):
            names, batch = read[0]
            if any(others != names for others, _ in read):
                raise UserError("the folds read the inputs in different batches; give --batch_size 1")
            preds = [fold(read[reader][1]) for fold, reader in zip(self.folds, reader_of, strict=True)]
            yield names, batch, self.average(preds, self.metas)


def as_frame(rows: Rows, like: Any) -> Any:
    """Predictions as a pandas DataFrame, with the index of the one that they are for in place of the inputs' names."""
    from pandas import DataFrame

    index = like.index if hasattr(like, "iloc") else None
    return DataFrame([{name: value for name, value in row.items() if name != "input"} for row in rows], index)


class Pictures:
    """A PNG file for each input, of what its prediction rests on, in a folder beside the table; task.py draws them.

    Args:
        inputs: what is predicted for.
        output: the table of predictions.

    Raises:
        UserError: task.py has no `explain`, or the pictures would be among the inputs.
    """

    def __init__(self, inputs: Sequence[Any], output: Path) -> None:
        self.explain: Any = getattr(import_module("task"), "explain", None)
        if self.explain is None:
            raise UserError(
                f"--explain is not for {Config.task_type}: task.py has no explain(task, x, pred); leave the flag out"
            )
        self.folder = folder_of_pictures(output)
        self.taken: set[str] = set()  # names of files, in lower case: on some systems A.png is a.png
        here = self.folder.resolve()
        for path in (Path(source).resolve() for source in inputs if isinstance(source, (str, Path))):
            if path.is_relative_to(here) or (here.exists() and here.is_relative_to(path)):
                raise UserError(
                    f"{self.folder}, where pictures go, is among the inputs; remove it or give another --output"
                )

    def draw(self, task: "Trainer", names: Sequence[str], x: Any, pred: Any) -> list[str]:
        """Draws a picture for each input of a batch; returns where they are."""
        from matplotlib.image import imsave

        from engine.monitor.figures import render

        self.folder.mkdir(exist_ok=True)
        paths = [str(self.folder / self.file_name(name)) for name in names]
        for path, figure in zip(paths, self.explain(task, x, pred), strict=True):
            imsave(path, render(figure))
        return paths

    def file_name(self, name: str) -> str:
        """That of a picture, after the input's name without folder and suffix; with a number if that is taken."""
        stem = re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", Path(name).stem if Path(name).is_file() else name)
        names = chain([f"{stem}.png"], (f"{stem}_{number}.png" for number in count(2)))
        free = next(name for name in names if name.lower() not in self.taken)
        self.taken.add(free.lower())
        return free


def folder_of_pictures(output: Path) -> Path:
    """Where the pictures beside a table of predictions are."""
    return output.with_name(f"{output.stem}_explained")


def load(path: str | Path, device: str = "auto") -> Predictor:
    """Loads trained weights, without data and without the folder of their run.

    Args:
        path: best.pth or epoch<N>.pth of a run; its folder, for its best.pth; or the folder of a cross-validation, for
            those of all folds.
        device: auto, cpu, cuda, cuda:1, mps.

    Raises:
        UserError: a file that is damaged, of another task, or of another version of model.py; a folder without any.
    """
    from engine.checkpoint.run_folder import runs_in

    if not Path(path).is_dir():
        return load_file(path, device)
    best = [run / "best.pth" for run in runs_in(path)]
    found = [file for file in best if file.is_file()]
    if not found:
        raise UserError(f"{path} has no best.pth; give the folder of a run or of a cross-validation, or a file")
    if found == [Path(path) / "best.pth"]:
        return load_file(found[0], device)
    names = ", ".join(file.parent.name for file in found)
    print(f"the mean of {len(found)} networks predicts: {names}")
    if missing := [file.parent.name for file in best if file not in found]:
        print(f"note: no best.pth yet is in {', '.join(missing)}")
    return Ensemble([load_file(file, device) for file in found])


def load_file(path: str | Path, device: str) -> Predictor:
    """Loads the weights in a file.

    Args:
        path: best.pth or epoch<N>.pth of a run.
        device: auto, cpu, cuda, cuda:1, mps.

    Raises:
        UserError: a file that is damaged, of another task, or of another version of model.py.
    """
    from engine import checkpoint, settings
    from engine.checkpoint.state import check_task, num_parts
    from engine.runtime.devices import pick_device
    from engine.runtime.seeding import preserve_rng_state
    from model import build_model_list
    from task import Task

    state = checkpoint.load(path)
    check_task(state, Config.task_type, path)
    with preserve_rng_state(pick_device(device)):  # the random weights that are replaced cost the caller no numbers
        config = settings.of_checkpoint(Config(), state.get("config", {}))
        task = Task.without_data(replace(config, device=device, precision="fp32"))
        task.meta = state["meta"]
        try:
            task.model_list = build_model_list(task.meta, num_parts(state))
        except KeyError as missing:
            raise UserError(f"{path} lacks {missing}: another version of model.py wrote it") from missing
    task.load_state(path, optim=False)
    return Predictor(task, task.meta)


def obstacle(task: "Trainer") -> str:
    """Why this file cannot use the checkpoints of a task, in a line; empty if it can.

    train.py prints it before the first epoch: once the network is trained it would be too late.
    """
    from engine.checkpoint.state import first_difference
    from engine.distributed.batches import cut, num_samples
    from engine.runtime.seeding import preserve_rng_state

    parts = len(task.model_list)
    try:
        from data import read_inputs  # noqa: F401
        from model import build_model_list
        from task import Task, to_rows  # noqa: F401

        with preserve_rng_state(task.device):
            built = build_model_list(task.meta, parts)
    except ImportError as error:
        return f"{error}; the first lines of predict.py say what it needs"
    except Exception as error:  # whatever your code raises on a meta that is not meant for it
        return f"build_model_list(meta, {parts}) in model.py fails on the task's meta: {error!r}"
    if len(built) != parts:
        return f"build_model_list(meta, {parts}) in model.py returns {len(built)} parts, and the task has {parts}"
    difference = first_difference(
        {f"model{number}": model.state_dict() for number, model in enumerate(built)}, task.model_list
    )
    if difference:
        return f"build_model_list in model.py builds another network than the task has: {difference}"
    with preserve_rng_state(task.device):
        config: Any = task.config
        twin = Task.without_data(replace(config, device="cpu", precision="fp32"))
        twin.meta, twin.model_list = task.meta, built
        try:
            x = task.example_input()
            twin.inference(cut(x, slice(2), num_samples(x)))
        except AttributeError as error:
            if error.obj is twin:
                return f"forward uses self.{error.name}, and a Task without data has model_list, meta and config alone"
        except Exception:  # the inputs of `forward` are others than those of an evaluation, as those of a generator
            pass
    return ""


def predict(arguments: Arguments) -> None:
    """Loads the weights, reads inputs batch by batch, and writes a row for each.

    The table is written beside `output` and renamed at the end: until then an earlier table there stays as it is.

    Raises:
        UserError: a flag or a checkpoint that cannot be used, an input that cannot be read, or a full disk.
    """
    inputs, output = arguments.inputs, arguments.output
    if not inputs:
        raise UserError("give something to predict for, as in: python predict.py --checkpoint FILE INPUT...")
    if missing := [str(path) for path in inputs if not path.exists()]:
        raise UserError(f"{', '.join(missing)}: there is no such file or folder to predict for; nothing was written")
    if arguments.batch_size < 1:
        raise UserError(f"--batch_size {arguments.batch_size} must be 1 or more")
    if not output.parent.is_dir() or output.is_dir():
        raise UserError(f"--output {output} must be a file in a folder that exists")
    if any(path.resolve() == output.resolve() for path in inputs):
        raise UserError(f"--output {output} is one of the inputs; give it another name")
    predictor = load(arguments.checkpoint, arguments.device)
    from engine.monitor.console import columns_to_print, print_table

    unfinished, written = output.with_name(f"{output.name}.part"), 0
    columns: list[str] = []
    shown: list[str] = []
    try:
        for rows in predictor.batches(inputs, output, arguments.batch_size, arguments.explain):
            write_table(rows, unfinished, new=not written)
            columns, shown = list(rows[0]), shown or columns_to_print(rows)
            print_table([{name: row[name] for name in shown} for row in rows], header=not written)
            written += len(rows)
        if not written:
            raise UserError(f"nothing to predict for in {', '.join(map(str, inputs))}")
        unfinished.replace(output)
    except OSError as error:
        place = error.filename or unfinished
        raise UserError(f"{place} cannot be written ({error.strerror or error}); give another --output") from error
    except UserError as error:
        before = f"; the {written} predictions before it are in {unfinished}" if written else ""
        raise UserError(f"{error}{before}") from error
    more = len(columns) - len(shown)
    print(f"{written} predictions are in {output}" + (f", with {more} more columns" if more else ""))
    if arguments.explain:
        whose = " for the first fold's network" if isinstance(predictor, Ensemble) else ""
        print(f"pictures of what each rests on{whose} are in {folder_of_pictures(output)}")


def write_table(rows: Rows, path: Path, new: bool) -> None:
    """Writes rows to a new CSV file, below a header, or appends them."""
    from engine.monitor.console import as_text

    with path.open("w" if new else "a", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        if new:
            writer.writeheader()
        writer.writerows({name: as_text(value) for name, value in row.items()} for row in rows)


def main(argv: list[str]) -> None:
    """Parses the flags and predicts."""
    predict(tyro.cli(Arguments, args=argv, use_underscores=True))


if __name__ == "__main__":
    command_line(main)
