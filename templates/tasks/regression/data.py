"""Rows of a table with a number to predict: from CSV files to data set splits, for training and prediction.

Numbers are standardised, texts one-hot encoded, missing cells imputed and marked; all by the training rows alone.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from config import Config
from engine.data.splits import Split, choose_splits, sizes_of
from engine.runtime.errors import UserError
from engine.runtime.seeding import epoch_generator
from tables import Table, as_table, find_tables, read_table

MISSING = {"", "?", "-", "na", "n/a", "nan", "none", "null"}  # cells without a value, in lower case
MOST_VALUES = 50  # of a text column that become features of their own; the rest share one

Column = dict[str, Any]  # what `encode` needs to know of a column, in plain types


def load_data(config: Config) -> tuple[dict[str, Split], dict[str, Any]]:
    """The splits train, val and, if there is one, test, and what prediction needs to know.

    Without a val split a part of train is held out; test never chooses the model.

    Raises:
        UserError: a constant target, or a table that cannot be read.
    """
    if config.data == "synthetic":
        tables, target = {"train": make_synthetic(config)}, "y"
    else:
        tables, target = read_tables(config), config.target
    targets = {name: read_target(table, target) for name, table in tables.items()}
    groups = {name: torch.zeros(len(values)) for name, values in targets.items()}
    chosen = choose_splits(groups, config.val_fraction, config.seed)
    for name, (source, indices) in chosen.items():
        if not 0 < targets[source][indices].std(correction=0) < math.inf:
            raise UserError(
                f"{tables[source].path}: {target!r} does not vary, or too much, in the {len(indices)} rows of {name}; "
                "give more rows, a larger --val_fraction or a val.csv"
            )
    indices = chosen["train"][1]
    columns = describe_columns(tables["train"], target, indices.tolist())
    known = targets["train"][indices]
    mean, std = known.mean().item(), known.std(correction=0).item()
    features = {name: encode(table, columns) for name, table in tables.items()}
    standardised = {name: ((values - mean) / std).float() for name, values in targets.items()}
    splits = {name: Split(features[source], standardised[source], rows) for name, (source, rows) in chosen.items()}
    meta = {"columns": columns, "target": target, "target_mean": mean, "target_std": std}
    meta |= {"width": config.width, "dropout": config.dropout}
    number = features["train"].shape[1]
    print(f"data: {sizes_of(splits)} rows, {number} features from {len(columns)} columns, target {target!r}")
    return splits, meta


def read_tables(config: Config) -> dict[str, Table]:
    """The table of each split that is on the disk."""
    return {name: read_table(path) for name, path in find_tables(config.data).items()}


def read_target(table: Table, name: str) -> Tensor:
    """The target of every row, shape (N,), float64; a UserError names the first that is no finite number."""
    cells = table.column(table.number(name, "--target"))
    numbers = [as_number(cell) for cell in cells]
    for row, number in enumerate(numbers):
        if not math.isfinite(number):
            raise UserError(f"{table.place(row)}: {name!r} is {cells[row]!r}; the target must be a number in every row")
    if len(numbers) < 3:
        raise UserError(f"{table.path} has {len(numbers)} rows below its column names; 3 are the least")
    return torch.tensor(numbers, dtype=torch.float64)


def make_synthetic(config: Config) -> Table:
    """A table with two numbers, one of them often missing, and a text, that determine y but for some noise."""
    generator = epoch_generator(config.seed, 0)
    count = 1024 if config.smoke else 2048
    a, b, noise, missing = torch.randn(4, count, generator=generator)
    kind = torch.randint(3, (count,), generator=generator)
    y = 40 + 10 * (a + (2 * b).sin() * (kind - 1) + kind + 0.1 * noise)
    rows = [
        [f"{a:.4f}", f"{b:.4f}" if gap < 1.5 else "", ("low", "middle", "high")[kind], f"{y:.3f}"]
        for a, b, gap, kind, y in zip(*(v.tolist() for v in (a, b, missing, kind, y)), strict=True)
    ]
    return Table(Path("synthetic"), ["a", "b", "kind", "y"], rows, list(range(2, count + 2)))


def read_inputs(inputs: Sequence[Any], meta: dict[str, Any], batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """For predict.py: batches of places (file:line) and features (B, F), from tables with the columns of train.

    Args:
        inputs: files, pandas DataFrames, or arrays with the columns in the order of train.
        meta: what `load_data` returned.
        batch_size: rows per batch.
    """
    for source in inputs:
        table = as_table(source, [column["name"] for column in meta["columns"]])
        x = encode(table, meta["columns"])
        for start in range(0, len(x), batch_size):
            batch = x[start : start + batch_size]
            yield [table.place(row) for row in range(start, start + len(batch))], batch


# ---- columns and features ----


def as_number(cell: str) -> float:
    """The number in a cell; NaN if it is none."""
    try:
        return float(cell)
    except ValueError:
        return math.nan


def describe_columns(table: Table, target: str, rows: Sequence[int]) -> list[Column]:
    """What `encode` needs to know of every column but the target, by the training rows.

    Raises:
        UserError: a text among numbers, or no column that can be used.
    """
    columns: list[Column] = []
    for name in table.names:
        cells = table.column(table.number(name, "its first line"))
        present = [row for row in rows if cells[row].lower() not in MISSING]
        if name == target or not present:
            continue
        if is_numeric(table, name, present):
            numbers = torch.tensor([float(cells[row]) for row in present], dtype=torch.float64)
            std = numbers.std(correction=0).item() or 1.0
            gaps = len(present) < len(rows)
            columns.append({"name": name, "mean": numbers.mean().item(), "std": std, "missing": gaps})
            continue
        texts = Counter(cells[row] for row in present)
        if len(texts) > MOST_VALUES and len(texts) > len(present) / 2:
            print(f"column {name!r} is left out: {len(texts):,} different texts in {len(present):,} rows")
        else:
            columns.append({"name": name, "values": [value for value, _ in texts.most_common(MOST_VALUES)]})
    if not columns:
        raise UserError(f"{table.path} has no column to predict {target!r} from")
    for kind, key in (("numbers", "mean"), ("texts", "values")):
        print(f"columns of {kind}: " + (", ".join(column["name"] for column in columns if key in column) or "none"))
    return columns


def is_numeric(table: Table, name: str, rows: Sequence[int]) -> bool:
    """Whether a column holds numbers; a UserError names a cell that is none where most others are."""
    cells = table.column(table.number(name, "its first line"))
    odd = [row for row in rows if not math.isfinite(as_number(cells[row]))]
    numbers = {cells[row] for row in rows} - {cells[row] for row in odd}
    if odd and all(math.isfinite(as_number(cells[row].replace(",", "."))) for row in odd):
        raise UserError(f"{table.place(odd[0])}: {name!r} is {cells[odd[0]]!r}; decimals have a point, not a comma")
    if odd and len(odd) <= len(rows) / 2 and len(numbers) > 20:
        raise UserError(
            f"{table.place(odd[0])}: {name!r} is {cells[odd[0]]!r} where other rows have numbers; "
            "correct it, leave it empty if it is missing, or take the column out"
        )
    return not odd


def num_features(column: Column) -> int:
    """How many features a column becomes."""
    return len(column["values"]) + 1 if "values" in column else 1 + column["missing"]


def encode(table: Table, columns: Sequence[Column]) -> Tensor:
    """The features of every row, shape (N, F)."""
    return torch.cat([(encode_texts if "values" in c else encode_numbers)(table, c).float() for c in columns], 1)


def encode_numbers(table: Table, column: Column) -> Tensor:
    """Standardised numbers, shape (N, 1), missing ones as the mean; with a second feature, 1 if it was missing.

    Raises:
        UserError: a cell that is neither missing nor a finite number.
    """
    cells = table.column(table.number(column["name"], "its first line"))
    numbers = torch.tensor([as_number(cell) for cell in cells], dtype=torch.float64)
    missing = torch.tensor([cell.lower() in MISSING for cell in cells], dtype=torch.bool)
    numbers = ((numbers - column["mean"]) / column["std"]).where(~missing, 0.0)
    for row in (~numbers.float().isfinite()).nonzero().flatten().tolist()[:1]:
        raise UserError(f"{table.place(row)}: {column['name']!r} is {cells[row]!r}; it must be a number or empty")
    return torch.stack([numbers, missing.double()], 1)[:, : num_features(column)]


def encode_texts(table: Table, column: Column) -> Tensor:
    """One-hot encoding of each row's text, shape (N, V + 1); the last feature is for missing and unknown ones."""
    index = {text: number for number, text in enumerate(column["values"])}
    cells = table.column(table.number(column["name"], "its first line"))
    indices = torch.tensor([index.get(cell, len(index)) for cell in cells], dtype=torch.long)
    return nn.functional.one_hot(indices, len(index) + 1)
