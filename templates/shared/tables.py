"""Tables in CSV and TSV files, DataFrames and arrays: reading them, and naming the line of what is wrong."""

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from engine.runtime.errors import UserError

SEPARATORS = ",;\t|"
LONGEST_CELL = 2**30  # characters


@dataclass
class Table:
    """The cells of a file, as text."""

    path: Path
    names: list[str]  # of the columns
    rows: list[list[str]]
    lines: list[Any]  # line of the file where each row ends, or its index in a DataFrame or array

    def number(self, name: str, flag: str) -> int:
        """The number of the column of that name; a UserError that names the nearest if there is none, or several."""
        if self.names.count(name) == 1:
            return self.names.index(name)
        if name in self.names:
            raise UserError(f"{self.path} has {self.names.count(name)} columns {name!r}; rename all but one")
        near = get_close_matches(name, self.names, 1)
        guess = f"; did you mean {near[0]!r}?" if near else ";"
        columns = ", ".join(self.names[:20]) + (", ..." if len(self.names) > 20 else "")
        way = f"give one of them with {flag}" if flag.startswith("--") else "name the columns as in training"
        raise UserError(f"{self.path} has no column {name!r}{guess} it has {columns}; {way}")

    def column(self, number: int) -> list[str]:
        """All cells of a column."""
        return [row[number] for row in self.rows]

    def place(self, row: int) -> str:
        """Where a row is: for messages, and as its name among predictions."""
        return f"{self.path}:{self.lines[row]}"


def as_table(source: Any, names: Sequence[str]) -> Table:
    """The table in a file, a pandas DataFrame, or an array (N, columns).

    Args:
        source: a path, a DataFrame or an array.
        names: of the columns of an array.

    Raises:
        UserError: a file that is no table, an array with more or fewer columns, or something else.
    """
    if isinstance(source, (str, Path)):
        return read_table(Path(source))
    if hasattr(source, "columns"):
        kind, rows, lines = "DataFrame", source.itertuples(index=False), list(source.index)
        names = list(map(str, source.columns))
    elif hasattr(source, "tolist"):
        kind, rows, lines = "array", source.tolist(), list(range(len(source)))
        if source.ndim != 2 or source.shape[1] != len(names):
            shape = tuple(source.shape)
            raise UserError(f"the array has the shape {shape}, not (N, {len(names)}); its columns: {', '.join(names)}")
    else:
        kind = type(source).__name__
        raise UserError(f"a {kind} cannot be read as a table; give a file, a pandas DataFrame or an array (N, columns)")
    return Table(Path(kind), list(names), [[as_cell(value) for value in row] for row in rows], lines)


def as_cell(value: Any) -> str:
    """A value as text; empty for None, NaN and what pandas has for missing ones."""
    missing = value is None or type(value).__name__ in ("NAType", "NaTType") or value != value
    return "" if missing else str(value)


def read_text(path: Path) -> str:
    """A file's text; a UserError if it cannot be read or is not UTF-8."""
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte, line = content[error.start], content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} is not UTF-8 (byte 0x{byte:02x} in line {line}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error


def read_table(path: Path) -> Table:
    """All rows of a file, the first of them as column names; empty lines are left out.

    Comma, semicolon, tab or bar separates cells, whichever cuts the first lines into equally many. Quotes around a
    cell are taken off; in tables with tabs, in which they may be meant literally, not if that gives cells of
    several lines and all rows are as long without.

    Raises:
        UserError: no such file, not UTF-8, empty, a row with more or fewer cells than the first.
    """
    csv.field_size_limit(LONGEST_CELL)
    text = read_text(path)
    first = text.split("\n", 1)[0]
    likeliest = max(SEPARATORS, key=lambda separator: (cells_per_line(text, separator), first.count(separator)))
    separator = "\t" if path.suffix.lower() == ".tsv" else likeliest
    try:
        table = parse(path, text, separator, csv.QUOTE_MINIMAL)
        if separator == "\t" and any("\n" in cell for row in table.rows for cell in row):
            with suppress(UserError):
                return parse(path, text, separator, csv.QUOTE_NONE)
        return table
    except csv.Error as error:
        if separator == "\t":
            return parse(path, text, separator, csv.QUOTE_NONE)
        raise UserError(f"{path} is not a table: {error}") from error


def cells_per_line(text: str, separator: str) -> int:
    """How many cells each of the first ten lines has with that separator; 0 for one, or if they differ."""
    reader = csv.reader(io.StringIO(text[: 2**16], newline=""), delimiter=separator)
    counts = {len(row) for row in islice(reader, 10) if any(map(str.strip, row))}
    return counts.pop() if len(counts) == 1 and counts != {1} else 0


def parse(path: Path, text: str, separator: str, quoting: Any) -> Table:
    """The rows of a text as a table.

    Raises:
        UserError: no row, or one with more or fewer cells than the first.
        csv.Error: quotes that do not match, with the line.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if rows and len(cells) != len(rows[0]):
                raise UserError(f"{path}:{reader.line_num}: {len(cells)} cells where the first line has {len(rows[0])}")
            rows.append(cells)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise csv.Error(f"line {reader.line_num}, {error}") from error
    if not rows:
        raise UserError(f"{path} is empty; it needs column names and rows")
    return Table(path, rows[0], rows[1:], lines[1:])


def find_tables(data: str, train: Sequence[str] = ("train",)) -> dict[str, Path]:
    """The file of each split: the one that is given, or in a folder train, val and test, as .csv or .tsv.

    Args:
        data: path of a file or folder.
        train: what the file of the train split may be called.

    Raises:
        UserError: there is no such file or folder, or the folder has no file of the train split.
    """
    path = Path(data)
    if path.is_file():
        return {"train": path}
    if not path.is_dir():
        raise UserError(f"--data {data} does not exist; give a CSV file, a folder with {train[0]}.csv, or synthetic")
    found: dict[str, Path] = {}
    for split, names in {"train": train, "val": ("val",), "test": ("test",)}.items():
        for file in (path / (name + ending) for name in names for ending in (".csv", ".tsv")):
            if file.is_file() and found.setdefault(split, file) != file:
                raise UserError(f"{found[split]} and {file} are both there for {split}; remove one")
    if "train" not in found:
        raise UserError(f"--data {data}: there is no {' or '.join(name + '.csv' for name in train)} in this folder")
    return found
