"""Features from the columns of a table: numbers standardised, texts one-hot, missing cells imputed and marked."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine import UserError
from tables import Table

MISSING = {"", "?", "-", "na", "n/a", "nan", "none", "null"}  # cells without a value, in lower case
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
    for name in table.names:
        cells = table.column(table.number(name, "its first line"))
        present = [row for row in rows if cells[row].lower() not in MISSING]
        if name == target or not present:
            continue
        if is_number(table, name, present):
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
    for kind, has in (("numbers", "mean"), ("texts", "values")):
        print(f"columns of {kind}: " + (", ".join(column["name"] for column in columns if has in column) or "none"))
    return columns


def is_number(table: Table, name: str, rows: Sequence[int]) -> bool:
    """Whether a column holds numbers; a UserError names a cell that is none where many different others are."""
    cells = table.column(table.number(name, "its first line"))
    odd = [row for row in rows if not math.isfinite(as_number(cells[row]))]
    numbers = {cells[row] for row in rows} - {cells[row] for row in odd}
    if odd and all(math.isfinite(as_number(cells[row].replace(",", "."))) for row in odd):
        raise UserError(f"{table.place(odd[0])}: {name!r} is {cells[odd[0]]!r}; decimals have a point, not a comma")
    if odd and len(odd) <= len(rows) / 2 and len(numbers) > 20:
        raise UserError(
            f"{table.place(odd[0])}: {name!r} is {cells[odd[0]]!r} where other rows have numbers; "
            "correct it, leave it empty where it is missing, or take the column out"
        )
    return not odd


def num_features(column: dict[str, Any]) -> int:
    """How many features a column becomes."""
    return len(column["values"]) + 1 if "values" in column else 1 + column["missing"]


def encode_numbers(table: Table, column: dict[str, Any]) -> Tensor:
    """Standardised numbers, shape (N, 1), missing ones as the mean; with a second feature, 1 where it was missing.

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


def encode_texts(table: Table, column: dict[str, Any]) -> Tensor:
    """A one in the place of each row's text, shape (N, V + 1); the last place is of missing and unknown ones."""
    place = {text: number for number, text in enumerate(column["values"])}
    cells = table.column(table.number(column["name"], "its first line"))
    places = torch.tensor([place.get(cell, len(place)) for cell in cells], dtype=torch.long)
    return nn.functional.one_hot(places, len(place) + 1)


def encode(table: Table, columns: list[dict[str, Any]]) -> Tensor:
    """The features of every row, shape (N, F)."""
    return torch.cat([(encode_texts if "values" in c else encode_numbers)(table, c).float() for c in columns], 1)
