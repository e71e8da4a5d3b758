"""What the columns of a table are, described once by the training rows, and the features that they become.

    number    standardised
    boolean   the same, of 0 and 1
    date      its days since the first, year, month, day, weekday and hour, each a number, if they vary
    category  a feature for each of the most frequent texts, and one for all others and missing cells
    text      words and n-grams of characters, hashed into NGRAM_FEATURES

A missing number, boolean or date is the mean, and a feature says so; of a missing text all features but that are 0.
Ids, codes and constants are left out. A description is a dict of plain values, which is saved with the weights; its
keys say the kind.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cells import (
    Cells,
    Style,
    are_booleans,
    are_codes,
    as_texts,
    date_formats,
    date_parts,
    likely_decimal,
    missing_cells,
    number_in,
    read_booleans,
    read_dates,
    read_numbers,
)
from engine.monitor.console import wrapped
from engine.runtime.errors import UserError
from ngrams import hashed_texts, why_codes
from tables import Table, clipped, shortened, some

MOST_VALUES = 50  # of a category that become features of their own; the rest share one
NGRAM_FEATURES = 64  # of a text
ID_NAME = re.compile(r"(.*[_\s.-])?(id|uuid|guid)|index|idx|row|unnamed: \d+|#|n[or]\.", re.IGNORECASE)

Column = dict[str, Any]  # the description of a column, in plain types


def kind_of(column: Column) -> str:
    """number, boolean, date, category or text."""
    return next((kind for kind, key in KINDS.items() if key in column), "number")


KINDS = {
    "category": "values",
    "text": "ngrams",
    "date": "parts",
    "boolean": "boolean",
}  # and the keys of a description that say so


# ---- describing ----


def has_names(table: Table) -> bool:
    """Whether the first line of a file has the names of its columns, and is not a row like the others.

    It is a row if all columns of numbers have a number there, and these are not names that count, such as 0, 1, 2.
    """
    firsts: list[float] = []
    for first, cells in zip(table.first[1], table.columns, strict=False):
        numbers, style = read_numbers(cells)
        if np.isfinite(numbers).any() and (np.isfinite(numbers) | missing_cells(cells)).all():
            if missing_cells([first])[0]:
                continue
            firsts.append(number_in(first, style))
            if not np.isfinite(firsts[-1]):
                return True
    steps = set(np.diff(firsts).tolist())
    return not firsts or len(steps) == 1 and min(steps) > 0 and all(first == int(first) for first in firsts)


def describe_columns(table: Table, target: str, rows: Sequence[int]) -> list[Column]:
    """What `encode` needs to know of every column but the target; what it found is printed, and what it left out.

    How a column is written is told from all rows of the table, what its values are from the training rows alone.

    Args:
        table: the table of the train split.
        target: the name of the column that is no feature.
        rows: numbers of the training rows.

    Raises:
        UserError: a text among numbers or dates, two columns of one name, or no column that can be used.
    """
    likely = likely_decimal(table.columns)
    columns: list[Column] = []
    found: dict[str, list[str]] = {}  # by kind, the columns and what is to be known of each
    for name in table.names:
        table.number(name, "its first line")  # there is one of that name alone
        if name == target:
            continue
        column, note = describe(table, name, rows, likely)
        columns += [column] if column else []
        kind = {"category": "categories"}.get(kind := kind_of(column), f"{kind}s") if column else "left out"
        found.setdefault(kind, []).append(f"{clipped(name)} ({note})" if note else clipped(name))
    left_out = found.pop("left out", [])
    for kind, names in [*sorted(found.items(), key=lambda pair: -len(pair[1])), ("left out", left_out)]:
        if names:
            print(wrapped(f"{kind} ({len(names):,}): {some(names, 30, 200)}"))
    if not columns:
        raise UserError(
            f"{table.path} has no column to predict {target!r} from; left out: {some(left_out, 20, 200) or 'nothing'}"
        )
    return columns


def describe(table: Table, name: str, rows: Sequence[int], likely: str) -> tuple[Column, str]:
    """The description of a column and a note on it for people; of one to leave out, nothing and why.

    Args:
        table: of the column.
        name: of the column.
        rows: numbers of the training rows.
        likely: the decimal point or comma, where a column may have either.
    """
    cells = table.columns[table.names.index(name)]
    is_missing = missing_cells(cells)
    count = int(is_missing[rows].sum())
    if count == len(rows):
        return {}, "empty"
    column, note = describe_known(table, name, cells, is_missing, rows, likely)
    return column, ", ".join(filter(None, [note, f"{count:,} missing" if column and count else ""]))


def describe_known(
    table: Table, name: str, cells: Cells, is_missing: np.ndarray, rows: Sequence[int], likely: str
) -> tuple[Column, str]:
    """The same of a column that is not empty; a UserError for a text where most cells are numbers or dates."""
    gaps = bool(is_missing[rows].any())
    if are_booleans(cells):
        return describe_numbers({"name": name, "boolean": True}, read_booleans(cells)[rows], gaps)
    is_code = are_codes(cells)
    if not is_code:
        numbers, style = read_numbers(cells, likely)
        if are_all(table, name, is_missing | ~np.isnan(numbers), "numbers", at_least=20):
            for row in np.flatnonzero(np.isinf(numbers))[:1]:
                raise UserError(
                    f"{table.place(row)}: {name!r} is infinite; correct it, or leave it empty if it is missing"
                )
            if reason := why_an_id(table, name, numbers, rows):
                return {}, reason
            ways = {way: value for way, value in style._asdict().items() if value not in ("", ".")}
            column, note = describe_numbers({"name": name, **ways}, numbers[rows], gaps)
            return column, note or how_written(cells, style)
        formats = date_formats(cells)
        if len(formats) == 1:
            dates = read_dates(cells, formats[0])
            if are_all(table, name, is_missing | ~np.isnat(dates), "dates"):
                return describe_dates({"name": name, "date": formats[0]}, dates[rows], gaps)
        elif formats:
            print(f"column {name!r} may have day/month or month/day: it is read as text; write dates as 2020-12-31")
    texts = as_texts(cells)
    column, note = describe_texts(name, [texts[row] for row in rows if not is_missing[row]], gaps)
    return column, note + ", codes with leading zeros" * is_code


def are_all(table: Table, name: str, good: np.ndarray, kind: str, at_least: int = 0) -> bool:
    """Whether all cells of a column are good, such as missing or a number.

    Raises:
        UserError: most that are not missing are, of more than `at_least` different texts: the others are mistakes.
    """
    odd = np.flatnonzero(~good)
    if not len(odd):
        return True
    cells = table.columns[table.names.index(name)]
    present = ~missing_cells(cells)
    if len(odd) <= present.sum() / 2:
        texts = as_texts(cells)
        others = list(dict.fromkeys(texts[row] for row in np.flatnonzero(present & good)))
        if len(others) > at_least:
            raise UserError(
                f"{table.place(odd[0])}: {name!r} is {texts[odd[0]]!r} where other rows have {kind}, as {others[0]!r}; "
                "correct it, leave it empty if it is missing, or take the column out"
            )
    return False


def why_an_id(table: Table, name: str, numbers: np.ndarray, rows: Sequence[int]) -> str:
    """Why a column of numbers surely names the rows; empty if it may say something about them.

    It has another whole number in every row, and the name of an id; or it counts the rows of a table without names.
    A column that counts the rows and has another name may be a time: it is used, and a line says so.
    """
    known = numbers[rows]
    if len(np.unique(known)) < max(3, len(known)) or not (known == np.floor(known)).all():
        return ""
    if ID_NAME.fullmatch(name) or name.endswith(("Id", "ID")):
        return "an id: another whole number in every row"
    if (np.diff(numbers) == 1).all():
        if not table.named:
            return "it counts the rows"
        print(f"note: {name!r} counts the rows, and is used; take it out of the table if it is an id")
    return ""


def how_written(cells: Cells, style: Style) -> str:
    """What was assumed of the numbers in a column, for people; empty for numbers as programs write them."""
    used = set("".join(cells)) if isinstance(cells, list) else set()
    words = ["decimal commas"] if style.decimal == "," and "," in used else []
    group, many = (",", "commas") if style.decimal == "." else (".", "points")
    words += [f"{many} between thousands"] if group in used else []
    return ", ".join([*words, *([f"in {style.unit}"] if style.unit else [])])


def describe_numbers(column: Column, numbers: np.ndarray, gaps: bool) -> tuple[Column, str]:
    """The description with mean and standard deviation; nothing, and why, if all are equal.

    Args:
        column: what is known of it.
        numbers: those of the training rows, NaN where missing.
        gaps: whether some are missing.
    """
    known = torch.from_numpy(numbers[~np.isnan(numbers)])
    mean, std = known.mean().item(), known.std(correction=0).item()
    if known.min() == known.max():  # rounding can give equal numbers a deviation
        mean, std = known[0].item(), 1.0
        if not gaps:
            return {}, f"{mean:g} in every row"
    return {**column, "mean": mean, "std": std, "missing": gaps}, ""


def describe_dates(column: Column, dates: np.ndarray, gaps: bool) -> tuple[Column, str]:
    """The description with mean and standard deviation of each part that varies; nothing, and why, if none does.

    Args:
        column: what is known of it.
        dates: those of the training rows, datetime64 in seconds, NaT where missing.
        gaps: whether some are missing.
    """
    known = dates[~np.isnat(dates)]
    first, last = str(known.min()), str(known.max())
    parts = {part: torch.from_numpy(values) for part, values in date_parts(known, first).items()}
    parts = {part: values for part, values in parts.items() if values.min() < values.max()}
    if not parts:
        return {}, f"{first} in every row"
    scales = {part: [values.mean().item(), values.std(correction=0).item()] for part, values in parts.items()}
    way = "" if column["date"] == "ISO8601" else f", read as {column['date']}"
    return {**column, "first": first, "parts": scales, "missing": gaps}, f"{first[:10]} to {last[:10]}{way}"


def describe_texts(name: str, texts: list[str], gaps: bool) -> tuple[Column, str]:
    """The description of a category, if it has few values or most come again, or of a text; nothing, and why, of codes.

    Args:
        name: of the column.
        texts: those of the training rows, without missing ones.
        gaps: whether some are missing.
    """
    counts = Counter(texts)
    if len(counts) == 1 and not gaps:
        return {}, f"{shortened(texts[0])} in every row"
    if len(counts) == len(texts) > 10 or len(counts) > max(MOST_VALUES, len(texts) / 2):
        if codes := why_codes(list(counts)):
            return {}, f"{len(counts):,} different texts, {codes}"
        column = {"name": name, "ngrams": NGRAM_FEATURES, "missing": gaps}
        return column, f"{len(counts):,} values, {NGRAM_FEATURES} features"
    few = f", {MOST_VALUES} as features" if len(counts) > MOST_VALUES else ""
    column = {"name": name, "values": [value for value, _ in counts.most_common(MOST_VALUES)]}
    return column, f"{len(counts):,} values{few}"


# ---- features ----


def num_features(column: Column) -> int:
    """How many features a column becomes."""
    if "values" in column:
        return len(column["values"]) + 1
    if "ngrams" in column:
        return int(column["ngrams"]) + int(column["missing"])
    return len(column.get("parts", [None])) + int(column["missing"])


def numbers_among(columns: Sequence[Column]) -> list[int]:
    """Which features are numbers or parts of dates, and not 0 or 1."""
    found: list[int] = []
    first = 0
    for column in columns:
        if kind_of(column) in ("number", "date"):
            found += range(first, first + len(column.get("parts", [None])))
        first += num_features(column)
    return found


def encode(table: Table, columns: Sequence[Column]) -> Tensor:
    """The features of every row, float32 (N, F).

    Raises:
        UserError: a column is missing or there twice, or a cell is neither missing nor what the column has.
    """
    found = {"number": encode_numbers, "boolean": encode_numbers, "date": encode_dates}
    found |= {"category": encode_categories, "text": encode_texts}
    return torch.cat([found[kind_of(column)](table, column).float() for column in columns], 1)


def cells_of(table: Table, column: Column) -> Cells:
    """The cells of a column; a UserError if there is none of its name."""
    return table.columns[table.number(column["name"], "its first line")]


def encode_numbers(table: Table, column: Column) -> Tensor:
    """Standardised numbers, shape (N, 1), missing ones as the mean; with a second feature, 1 if it was missing.

    Raises:
        UserError: a cell that is neither missing nor a finite number.
    """
    cells = cells_of(table, column)
    if kind_of(column) == "boolean":
        return standardised(table, column, [read_booleans(cells)], [column], "true or false")
    numbers, style = read_numbers(cells, column.get("decimal", "."))
    if (style.unit == "%") != (column.get("unit") == "%") and not np.isnan(numbers).all():
        has, had = ("a", "no") if style.unit else ("no", "a")
        raise UserError(
            f"{table.path}: {column['name']!r} has {has} percent sign, and had {had} one in training; write it as there"
        )
    return standardised(table, column, [numbers], [column], "a number")


def encode_dates(table: Table, column: Column) -> Tensor:
    """The standardised parts of dates, shape (N, P), missing ones as the mean; with one more, 1 if it was missing.

    Raises:
        UserError: a cell that is neither missing nor a date as in training or in ISO 8601.
    """
    dates = read_dates(cells_of(table, column), column["date"])
    no_date = np.isnat(dates)
    parts = date_parts(np.where(no_date, np.datetime64(column["first"]), dates), column["first"])
    scales = [{"mean": mean, "std": std} for mean, std in column["parts"].values()]
    values = [np.where(no_date, np.nan, parts[part]) for part in column["parts"]]
    return standardised(table, column, values, scales, f"a date such as {column['first'][:10]}")


def standardised(table: Table, column: Column, values: list[np.ndarray], scales: list[Any], wanted: str) -> Tensor:
    """Features (N, P) of mean 0 and standard deviation 1; where the cell is missing 0, and 1 in one more feature.

    Args:
        table: of the column.
        column: its description.
        values: P arrays (N,), NaN where the cell is missing or not what it must be.
        scales: "mean" and "std" of each.
        wanted: what a cell must be, in words.

    Raises:
        UserError: a cell that is neither missing nor what it must be.
    """
    cells = cells_of(table, column)
    missing = torch.from_numpy(missing_cells(cells))
    columns = []
    for numbers, scale in zip(values, scales, strict=True):
        feature = ((torch.from_numpy(numbers) - scale["mean"]) / scale["std"]).where(~missing, 0.0)
        for row in (~feature.float().isfinite()).nonzero().flatten().tolist()[:1]:
            cell = as_texts(cells[row : row + 1])[0]
            raise UserError(f"{table.place(row)}: {column['name']!r} is {cell!r}; it must be {wanted}, or empty")
        columns.append(feature)
    return torch.stack([*columns, missing.double()], 1)[:, : num_features(column)]


def encode_categories(table: Table, column: Column) -> Tensor:
    """One-hot encoding of each row's text, shape (N, V + 1); the last feature is for missing and unknown ones."""
    index = {text: number for number, text in enumerate(column["values"])}
    indices = [index.get(cell, len(index)) for cell in as_texts(cells_of(table, column))]
    return nn.functional.one_hot(torch.tensor(indices, dtype=torch.long), len(index) + 1)


def encode_texts(table: Table, column: Column) -> Tensor:
    """The hashed n-grams of each row's text, shape (N, ngrams), 0 if it is missing; with one more, 1 if it was."""
    cells = cells_of(table, column)
    missing = missing_cells(cells)
    texts = ["" if gap else text for text, gap in zip(as_texts(cells), missing, strict=True)]
    gaps = torch.from_numpy(missing).float().unsqueeze(1)
    return torch.cat([hashed_texts(texts, column["ngrams"]), gaps], 1)[:, : num_features(column)]


def note_unknown_texts(table: Table, columns: Iterable[Column]) -> None:
    """Prints, for each category of a table to predict for, how many rows have a text that training did not have."""
    for column in columns:
        if "values" in column:
            cells = cells_of(table, column)
            counts = Counter(text for text in as_texts(cells) if text not in column["values"])
            unknown = {text: count for text, count in counts.items() if not missing_cells([text])[0]}
            if unknown:
                seldom = " or seldom" if len(column["values"]) == MOST_VALUES else ""
                names = [f"{shortened(text)} ({count:,})" for text, count in unknown.items()]
                print(
                    f"note: {table.path}: {column['name']!r} is unknown in {sum(unknown.values()):,} rows, a text that "
                    f"training never{seldom} had: {some(names, 5)}"
                )
