"""How much each column of a table matters to the predictions, and how they follow the most important columns.

Permutation importance (Breiman 2001; Fisher et al. 2019) and partial dependence (Friedman 2001), on validation rows.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from columns import Column, kind_of, num_features
from engine.data.loaders import grouped
from engine.distributed.process_group import is_rank_0, on_rank_0
from engine.monitor.console import cell, print_table, wrapped
from engine.monitor.figures import caption, new_figure
from engine.runtime.errors import UserError
from engine.runtime.files import write_csv
from engine.runtime.seeding import epoch_generator
from engine.trainer import Trainer
from tables import clipped

REPETITIONS = 5  # shufflings of each column
MOST_ROWS = 2000  # of the validation set
MOST_FEATURES = 20_000_000  # that are predicted from, rows times features of each; more columns are chosen among first
FEWER_ROWS = (20, 200)  # to choose among them: the least and the most
ROWS_PER_BATCH = 4096
MOST_SHOWN = 20  # columns in the printed table and in its picture
DEPENDENCES, DEPENDENCE_ROWS = 4, 500  # columns whose partial dependence is drawn, and of how many rows at most
POINTS = 21  # quantiles of a number or date
MOST_NAMED = 12  # values of a category

Predict = Callable[[Tensor], Tensor]  # from features (B, F) to predictions (B, ...), on the CPU
Loss = Callable[[Tensor, Tensor], float]  # the mean over rows, from predictions and targets
Curves = Callable[[Tensor], dict[str, Tensor]]  # from predictions (B, ...) to values (B,) by name, to be averaged


# ---- at the end of a run ----


def report_importance(trainer: Trainer, curves: Curves, unit: str) -> dict[str, Any]:
    """Prints how much each column matters and writes it to importance.csv; returns figures by name, for `analyse`.

    Every rank predicts the same: with FSDP they must take part in each prediction.

    Args:
        trainer: the task, with the best weights; `meta["columns"]` has the columns.
        curves: from predictions to what is drawn, such as targets in their own unit.
        unit: what that is, as title of an axis.
    """
    columns, seed = trainer.meta["columns"], trainer.config.seed
    x, y = draw_rows(trainer.eval_loader.dataset, seed)
    everything = len(trainer.eval_loader.dataset)

    def predict(rows: Tensor) -> Tensor:
        return trainer.inference(rows).float().cpu()  # type: ignore[no-any-return]

    def loss(pred: Tensor, y: Tensor) -> float:
        return float(trainer.loss(pred.to(trainer.device), y.to(trainer.device))["loss"])

    measured = select_columns(predict, loss, x, y, columns, seed)
    measurement = permutation_importance(predict, loss, x, y, columns, measured, seed)
    before, found = on_rank_0(lambda: measurement)  # by rounding, ranks may order columns that are alike differently
    part = f"of {everything:,} drawn by --seed {seed}, " if len(x) < everything else ""
    print(
        wrapped(
            f"importance: by how much the loss, {cell(before)} on {len(x):,} validation rows, {part}grows when the "
            f"values of a column are shuffled among them: mean and standard deviation of {REPETITIONS} times"
        )
    )
    if is_rank_0():
        show_table(found, Path(trainer.ckpt_dir) / "importance.csv")
    if trainer.config.pictures == "none":
        return {}
    figures = {"importance": draw_importance(found)}
    numbers = [columns.index(importance.column) for importance in found[:DEPENDENCES]]
    dependences = [partial_dependence(predict, curves, x[:DEPENDENCE_ROWS], columns, number) for number in numbers]
    if drawn := [dependence for dependence in dependences if dependence.places]:
        figures["partial_dependence"] = draw_dependences(drawn, unit)
    return figures


def draw_rows(dataset: Any, seed: int) -> tuple[Tensor, Tensor]:
    """Features (N, F) and targets (N,) of up to MOST_ROWS rows, drawn by the seed, in random order."""
    numbers = torch.randperm(len(dataset), generator=epoch_generator(seed, 0))[:MOST_ROWS]
    x, y = default_collate([dataset[number] for number in numbers.tolist()])
    return x, y


def predict_replaced(predict: Predict, x: Tensor, replaced: Iterable[tuple[slice, Tensor]]) -> Iterator[Tensor]:
    """Predictions (N, ...) for rows some of whose features are replaced, in one way after another.

    Args:
        predict: the network.
        x: features of the rows, (N, F).
        replaced: P features, and what they are instead, (N, P), or (P,), the same in all rows.
    """
    for ways in grouped(replaced, max(1, ROWS_PER_BATCH // len(x))):
        rows = x.repeat(len(ways), 1, 1)
        for copy, (features, values) in zip(rows, ways, strict=True):
            copy[:, features] = values
        yield from predict(rows.flatten(0, 1)).split(len(x))


def features_of(columns: Sequence[Column]) -> list[slice]:
    """Which features each column becomes."""
    ends = list(accumulate(map(num_features, columns), initial=0))
    return [slice(*pair) for pair in pairwise(ends)]


# ---- permutation importance ----


class Importance(NamedTuple):
    """By how much the loss grows when the values of a column are shuffled."""

    column: Column
    mean: float
    std: float  # over repetitions; 0 of one


def permutation_importance(
    predict: Predict, loss: Loss, x: Tensor, y: Tensor, columns: Sequence[Column], measured: Sequence[int], seed: int,
    repetitions: int = REPETITIONS,
) -> tuple[float, list[Importance]]:  # fmt: skip
    """The loss and, the most important column first, by how much it grows when the values of each are shuffled.

    The features of one column are shuffled together, and all columns in the same ways.

    Args:
        predict: the network.
        loss: of predictions and targets.
        x: features of rows, (N, F).
        y: targets, (N,).
        columns: their descriptions.
        measured: numbers of those to shuffle.
        seed: of the shuffling.
        repetitions: how often each is shuffled.
    """
    before = loss(predict(x), y)
    orders = [torch.randperm(len(x), generator=epoch_generator(seed, number)) for number in range(1, repetitions + 1)]
    features = features_of(columns)
    shuffled = ((features[number], x[order, features[number]]) for number in measured for order in orders)
    growths = (loss(pred, y) - before for pred in predict_replaced(predict, x, shuffled))
    found = []
    for number, growth in zip(measured, grouped(growths, repetitions), strict=True):
        std = float(np.std(growth, ddof=1)) if repetitions > 1 else 0.0
        found.append(Importance(columns[number], float(np.mean(growth)), std))
    return before, sorted(found, key=lambda importance: -importance.mean)


def select_columns(
    predict: Predict, loss: Loss, x: Tensor, y: Tensor, columns: Sequence[Column], seed: int
) -> list[int]:
    """Which columns are measured: all or, if that takes too long, those that matter most on few rows, shuffled once.

    What is chosen among is printed.
    """
    everything = list(range(len(columns)))
    count = max(MOST_SHOWN, MOST_FEATURES // (REPETITIONS * x.numel()))
    if len(columns) <= count:
        return everything
    least, most = FEWER_ROWS
    few = x[: min(most, max(least, MOST_FEATURES // (len(columns) * x.shape[1])))]
    _, found = permutation_importance(predict, loss, few, y[: len(few)], columns, everything, seed, repetitions=1)
    names = {importance.column["name"] for importance in found[:count]}
    print(
        wrapped(
            f"importance is measured of {count:,} of {len(columns):,} columns; the others are left out, since they "
            f"mattered less when each was shuffled once among {len(few):,} rows"
        )
    )
    return [number for number in everything if columns[number]["name"] in names]


def show_table(found: Sequence[Importance], path: Path) -> None:
    """Prints the most important columns and writes all; if they cannot be written it says so, and the run goes on."""
    print_table(
        [
            {"column": clipped(column["name"]), "importance": cell(mean).rjust(10), "+-": cell(std)}
            for column, mean, std in found[:MOST_SHOWN]
        ]
    )
    try:
        write_csv([{"column": i.column["name"], "importance": i.mean, "deviation": i.std} for i in found], path)
        more = len(found) - MOST_SHOWN
        print(f"{more} more columns are in {path.name}" if more > 0 else f"the same is in {path.name}")
    except UserError as error:
        print(f"no table of importance: {error}")


def draw_importance(found: Sequence[Importance]) -> Any:
    """The most important columns as bars, with the standard deviation of each, as a figure."""
    shown = found[:MOST_SHOWN]
    figure, axes = new_figure(width=8, height=1.2 + 0.32 * len(shown))
    axis = axes[0, 0]
    places = range(len(shown))
    bars = {"xerr": [importance.std for importance in shown], "ecolor": "black", "capsize": 2}
    axis.barh(places, [importance.mean for importance in shown], height=0.7, **bars)
    axis.set_yticks(places, [caption(importance.column["name"], 30) for importance in shown])
    axis.set(ylim=(len(shown) - 0.4, -0.6), xlabel="growth of the loss when the column is shuffled")
    axis.axvline(0, color="black", linewidth=0.8)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if len(found) > len(shown):
        axis.set_title(f"the {len(shown)} most important of {len(found)} columns", fontsize=10)
    return figure


# ---- partial dependence ----


class Grid(NamedTuple):
    """Values of a column, in its own unit, and the features that it has with each."""

    places: list[Any]  # G numbers, dates or names, in the order of an axis
    features: Tensor  # (G, P)
    missing: Tensor  # those of a missing number or date, (1, P); none, (0, P), if it has a name or never occurs


class Dependence(NamedTuple):
    """The mean prediction over all rows when a column has one value in all of them."""

    column: Column
    places: list[Any]  # as of a Grid
    curves: dict[str, list[float]]  # G means by name
    missing: dict[str, float]  # if the value is missing


def partial_dependence(
    predict: Predict, curves: Curves, x: Tensor, columns: Sequence[Column], number: int
) -> Dependence:
    """How the mean prediction depends on the value of one column; it has no places if all its values are missing.

    Args:
        predict: the network.
        curves: from predictions to what is averaged.
        x: features of rows, (N, F).
        columns: their descriptions.
        number: of the column.
    """
    features = features_of(columns)[number]
    grid = GRIDS[kind_of(columns[number])](columns[number], x[:, features])
    if not grid.places:
        return Dependence(columns[number], [], {}, {})
    values = torch.cat([grid.features, grid.missing])
    means: dict[str, list[float]] = {}
    for pred in predict_replaced(predict, x, ((features, row) for row in values)):
        for name, drawn in curves(pred).items():
            means.setdefault(name, []).append(float(drawn.double().mean()))
    count = len(grid.places)
    missing = {name: curve[count] for name, curve in means.items()} if len(grid.missing) else {}
    return Dependence(columns[number], grid.places, {name: curve[:count] for name, curve in means.items()}, missing)


def grid_of_numbers(column: Column, block: Tensor) -> Grid:
    """Quantiles of the known numbers, from the 1st to the 99th percentile, each as one of the rows has it.

    Args:
        column: its description.
        block: its features in all rows, (N, P).
    """
    rows, missing = quantiles_and_missing(column, block)
    return Grid((rows[:, 0].double() * column["std"] + column["mean"]).tolist(), rows, missing)


def grid_of_dates(column: Column, block: Tensor) -> Grid:
    """The same of dates; parts such as the weekday are those of the date."""
    rows, missing = quantiles_and_missing(column, block)
    mean, std = column["parts"]["days"]  # which come first, and vary if any part does
    seconds = ((rows[:, 0].double() * std + mean) * 86_400).round().long()
    return Grid(list(np.datetime64(column["first"], "s") + seconds.numpy().astype("timedelta64[s]")), rows, missing)


def quantiles_and_missing(column: Column, block: Tensor) -> tuple[Tensor, Tensor]:
    """Features of rows at the quantiles of the first one, in its order and all different, and those of a missing value.

    Args:
        column: its description.
        block: its features in all rows, (N, P).
    """
    unknown = block[:, -1] == 1 if column["missing"] else torch.zeros(len(block), dtype=torch.bool)
    known = block[~unknown]
    known = known[known[:, 0].argsort(stable=True)]
    rows = known[torch.linspace(0.01, 0.99, POINTS).mul(len(known) - 1).round().long()] if len(known) else known
    differs = torch.ones(len(rows), dtype=torch.bool)
    differs[1:] = rows[1:, 0] != rows[:-1, 0]
    return rows[differs], block[unknown][:1]


def grid_of_booleans(column: Column, block: Tensor) -> Grid:
    """False, true and, if a row has it, missing."""
    values = (torch.tensor([0.0, 1.0]) - column["mean"]) / column["std"]
    rows = torch.stack([values, torch.zeros(2)], 1)[:, : block.shape[1]]
    missing = block[block[:, -1] == 1][:1] if column["missing"] else block[:0]
    return Grid(["false", "true", *["missing"] * len(missing)], torch.cat([rows, missing]), block[:0])


def grid_of_names(column: Column, block: Tensor) -> Grid:
    """The most frequent values and, if a row has one, all others together."""
    names = [*column["values"], "other or missing"]
    last = [len(names) - 1] if block[:, -1].any() else []
    shown = [*range(min(MOST_NAMED, len(column["values"]))), *last]
    return Grid([names[number] for number in shown], torch.eye(len(names))[shown], block[:0])


def no_grid(column: Column, block: Tensor) -> Grid:
    """No values: texts have no few ones to draw."""
    return Grid([], block[:0], block[:0])


GRIDS: dict[str, Callable[[Column, Tensor], Grid]] = {
    "number": grid_of_numbers,
    "boolean": grid_of_booleans,
    "date": grid_of_dates,
    "category": grid_of_names,
    "text": no_grid,
}


def draw_dependences(dependences: Sequence[Dependence], unit: str) -> Any:
    """A chart for each column, all with the same vertical axis, as a figure.

    Args:
        dependences: of columns, up to four.
        unit: title of the vertical axis.
    """
    wide, high = {1: (1, 1), 2: (2, 1), 3: (3, 1)}.get(len(dependences), (2, 2))
    figure, axes = new_figure(wide, high, width=1 + 4.2 * wide, height=0.5 + 3.4 * high)
    ends = [value for d in dependences for curve in [*d.curves.values(), d.missing.values()] for value in curve]
    margin = 0.06 * (max(ends) - min(ends)) or 1.0
    lines: list[Any] = []
    for place, axis in enumerate(axes.flat):
        if place >= len(dependences):
            axis.set_axis_off()
            continue
        lines = draw_dependence(axis, dependences[place])
        axis.set_ylim(min(ends) - margin, max(ends) + margin)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        if place % wide == 0:
            axis.set_ylabel(caption(unit, 40))
    if len(dependences[0].curves) > 1:
        names = [caption(name, 24) for name in dependences[0].curves]
        figure.legend(lines, names, loc="outside upper center", ncols=min(5, len(names)), frameon=False)
    return figure


def draw_dependence(axis: Any, dependence: Dependence) -> list[Any]:
    """Draws the curves of one column: lines over numbers and dates, points over names; dashed if it is missing.

    Returns:
        What was drawn for each curve.
    """
    column, places = dependence.column, dependence.places
    named = kind_of(column) in ("boolean", "category")
    lines = []
    for number, (name, curve) in enumerate(dependence.curves.items()):
        lines += axis.plot(range(len(places)) if named else places, curve, "o" if named else ".-", color=f"C{number}")
        if name in dependence.missing:
            axis.axhline(dependence.missing[name], color=f"C{number}", linestyle="--", linewidth=1)
    title = caption(f"{column['name']} ({column['unit']})" if column.get("unit") else column["name"], 40)
    if named:
        names = [caption(name if len(name) <= 18 else f"{name[:9]}\u2026{name[-8:]}") for name in places]
        room = 40 / len(names) - 2  # characters for each, side by side
        slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > room else {}
        axis.set_xticks(range(len(names)), names, **slanted)
        axis.set_xlim(-0.5, len(places) - 0.5)
        if "values" in column and len(column["values"]) > MOST_NAMED:
            title += f", {MOST_NAMED} of {len(column['values'])} values"
    elif kind_of(column) == "date":
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(maxticks=6)
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    if dependence.missing:
        title += "; dashed: missing"
    axis.set_xlabel(title)
    return lines
