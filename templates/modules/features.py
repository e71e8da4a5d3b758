"""Features from the columns of a table: numbers standardised, texts one-hot, missing cells imputed and marked."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine import UserError
from tables import Table

MISSING = {"", "?", "na", "n/a", "nan", "none", "null"}  # cells without a value, in lower case
MOST_VALUES = 50  # of a text column that become features; the rest share one


def as_number(cell: str) -> float:
    """What a cell says; NaN where it is no number."""
    try:
        return float(cell)
    except ValueError:
        return math.nan


def describe_columns(table: Table, target: str, rows: Sequence[int]) -> list[dict[str, Any]]:
    """What `encode` needs to know of every column but the target, from the training rows, in plain types.

    Raises:
        UserError: a text among numbers, or no column that can be used.
    """
    columns: list[dict[str, Any]] = []
    if len(set(table.names)) < len(table.names):
        raise UserError(f"{table.path} has two columns of the same name among {table.names}; rename one")
    for name in table.names:
        cells = [] if name == target else table.column(table.names.index(name))
        values = [cells[row] for row in rows if cells and cells[row].lower() not in MISSING]
        numbers = torch.tensor([as_number(value) for value in values], dtype=torch.float64)
        texts = Counter(values)
        if numbers.isfinite().sum() > 0.9 * len(values):
            column = {"name": name, "mean": numbers.nanmean().item(), "std": 1.0, "missing": len(values) < len(rows)}
            columns.append(column)
            spread = (encode_numbers(table, column)[rows, 0]).std(correction=0).item()
            column["std"] = spread or 1.0
        elif len(texts) > MOST_VALUES and len(texts) > len(values) / 2:
            print(f"column {name!r} is left out: {len(texts):,} different texts in {len(values):,} rows")
        elif values:
            columns.append({"name": name, "values": [value for value, _ in texts.most_common(MOST_VALUES)]})
    if not columns:
        raise UserError(f"{table.path} has no column to predict {target!r} from")
    return columns


def num_features(column: dict[str, Any]) -> int:
    """How many features a column becomes."""
    return len(column["values"]) + 1 if "values" in column else 1 + column["missing"]


def encode_numbers(table: Table, column: dict[str, Any]) -> Tensor:
    """Standardised numbers, shape (N, 1), missing ones as the mean; with a second feature, 1 where it was missing."""
    cells = table.column(table.number(column["name"], "the file's first line"))
    numbers = torch.tensor([as_number(cell) for cell in cells], dtype=torch.float64)
    missing = torch.tensor([cell.lower() in MISSING for cell in cells])
    for row in ((~missing & ~numbers.isfinite()).nonzero().flatten().tolist())[:1]:
        raise UserError(
            f"{table.place(row)}: {column['name']!r} is {cells[row]!r} where other rows have numbers; "
            "correct it or leave it empty"
        )
    numbers = ((numbers - column["mean"]) / column["std"]).where(~missing, 0.0)
    return torch.stack([numbers, missing.double()], 1)[:, : num_features(column)]


def encode_texts(table: Table, column: dict[str, Any]) -> Tensor:
    """A one in the place of each row's text, shape (N, V + 1); the last place is of missing and unknown ones."""
    place = {text: number for number, text in enumerate(column["values"])}
    cells = table.column(table.number(column["name"], "the file's first line"))
    return nn.functional.one_hot(torch.tensor([place.get(cell, len(place)) for cell in cells]), len(place) + 1)


def encode(table: Table, columns: list[dict[str, Any]]) -> Tensor:
    """The features of every row, shape (N, F)."""
    return torch.cat([(encode_texts if "values" in c else encode_numbers)(table, c).float() for c in columns], 1)
