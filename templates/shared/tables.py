"""Tables in files, DataFrames and arrays, their columns by name, and the line of what is wrong.

How files are read is in table_files.py, what cells say in cells.py.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from cells import Cells, as_cell, as_texts, missing_cells
from engine.data.splits import by_split
from engine.runtime.errors import UserError
from table_files import (
    ENDINGS,
    csv_rows,
    ending_of,
    excel_rows,
    json_rows,
    parquet_frame,
    read_bytes,
)

READERS = {".xlsx": excel_rows, ".json": json_rows, ".jsonl": json_rows, ".ndjson": json_rows}


@dataclass
class Table:
    """The cells of a file, DataFrame or array, by column."""

    path: Path
    names: list[str]  # of the columns
    columns: list[Cells]  # texts, empty ones for missing values, or an array; each of length N
    lines: Sequence[Any]  # line of the file where each row begins, or its index in a DataFrame or array
    first: tuple[int, list[str]] = (0, [])  # number and cells of the file's line that has the names, if one has
    named: bool = True  # or the names are column_1, column_2 ...

    def __len__(self) -> int:
        return len(self.lines)

    def number(self, name: str, flag: str) -> int:
        """The number of the column of that name; a UserError that names the nearest if there is none, or several."""
        if self.names.count(name) == 1:
            return self.names.index(name)
        if name in self.names:
            raise UserError(f"{self.path} has {self.names.count(name)} columns {name!r}; rename all but one")
        alike = {plain(other): other for other in reversed(self.names)}
        near = [alike[found] for found in get_close_matches(plain(name), alike, 1)]
        guess = f"; did you mean {near[0]!r}?" if near else ";"
        way = f"give one of them with {flag}" if flag.startswith("--") else "name the columns as in training"
        raise UserError(f"{self.path} has no column {name!r}{guess} it has {some(self.names)}; {way}")

    def column(self, number: int) -> list[str]:
        """All cells of a column, as text."""
        return as_texts(self.columns[number])

    def place(self, row: int) -> str:
        """Where a row is: for messages, and as its name among predictions."""
        return f"{self.path}:{self.lines[row]}"

    def without(self, names: Collection[str]) -> "Table":
        """The table without the columns of these names."""
        kept = [number for number, name in enumerate(self.names) if name not in names]
        first = self.first[0], [self.first[1][number] for number in kept] if self.first[1] else []
        columns = [self.columns[number] for number in kept]
        return Table(self.path, [self.names[number] for number in kept], columns, self.lines, first, self.named)

    def without_names(self, names: Sequence[str] = ()) -> "Table":
        """The table with its line of names as its first row, and these names, or column_1, column_2 ...

        Raises:
            UserError: it has more or fewer columns than there are names.
        """
        given = list(names) or [f"column_{number}" for number in range(1, len(self.names) + 1)]
        if len(given) != len(self.names):
            raise UserError(
                f"{self.path} has {len(self.names)} columns; training had {len(given)}, without names: {some(given)}"
            )
        columns, lines, (line, cells) = self.columns, self.lines, self.first
        if line:
            columns = [[cell, *column] for cell, column in zip(cells, columns, strict=True)]
            lines = [line, *lines]
        return Table(self.path, given, columns, lines, named=False)


def plain(name: str) -> str:
    """A name as it is compared with another to guess what was meant."""
    return " ".join(name.lower().split())


def clipped(text: str, longest: int = 40) -> str:
    """A text, cut if it is too long for a message."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def some(names: Sequence[str], most: int = 20, longest: int = 40) -> str:
    """Some names in a line, for a message."""
    shown = [clipped(name, longest) for name in names[:most]]
    return ", ".join(shown) + (f", ... ({len(names):,} in all)" if len(names) > most else "")


def shortened(text: str) -> str:
    """A text in quotes, cut if it is too long for a message."""
    return repr(clipped(text))


# ---- from files, DataFrames and arrays ----


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
    if hasattr(source, "to_pandas"):  # of Polars or Arrow
        source = source.to_pandas()
    if hasattr(source, "columns"):
        return from_frame(Path("DataFrame"), source, list(source.index))
    if not hasattr(source, "tolist") or not hasattr(source, "ndim"):
        kind = type(source).__name__
        raise UserError(f"a {kind} cannot be read as a table; give a file, a pandas DataFrame or an array (N, columns)")
    if source.ndim != 2 or source.shape[1] != len(names):
        shape = tuple(source.shape)
        raise UserError(f"the array has the shape {shape}, not (N, {len(names)}); its columns: {', '.join(names)}")
    array = np.asarray(source.detach().cpu() if hasattr(source, "detach") else source)
    is_plain = array.dtype.kind in "biufM"
    columns = [column if is_plain else [as_cell(value) for value in column] for column in array.T]
    return Table(Path("array"), list(names), columns, range(len(array)))


def read_table(path: Path) -> Table:
    """The table in a file, without empty rows; what the first line says is taken for the names of the columns.

    Raises:
        UserError: no such file, another encoding, damaged, empty, a row with more or fewer cells than the first.
    """
    content, ending = read_bytes(path)
    if content.startswith(b"PAR1"):
        return from_frame(path, frame := parquet_frame(path, content), range(len(frame)))
    if ending == ".parquet" or ending == ".xlsx" and not content.startswith(b"PK"):
        raise UserError(f"{path} is no {ending} file, or damaged; get it anew")
    (first, *rows), (line, *lines) = READERS.get(ending, csv_rows)(path, content)
    names = [name or f"column_{number}" for number, name in enumerate(first, 1)]
    columns = [list(cells) for cells in zip(*rows, strict=True)] if rows else [[] for _ in names]
    return Table(path, names, columns, lines, (line, first))


def from_frame(path: Path, frame: Any, lines: Sequence[Any]) -> Table:
    """The table in a DataFrame: numbers, booleans and dates as arrays, all else as text."""
    columns = [from_series(frame.iloc[:, number]) for number in range(frame.shape[1])]
    return Table(path, [str(name).strip() for name in frame.columns], columns, lines)


def from_series(series: Any) -> Cells:
    """The cells of a column of a DataFrame; categories are what they are names of."""
    import pandas
    from pandas.api import types

    if isinstance(series.dtype, pandas.CategoricalDtype):
        series = series.astype(object).infer_objects()
    dtype, whole = series.dtype, not series.isna().any()
    if types.is_bool_dtype(dtype) and whole:
        return series.to_numpy(bool)
    if types.is_signed_integer_dtype(dtype) and whole:
        return series.to_numpy(np.int64)
    if types.is_integer_dtype(dtype) or types.is_float_dtype(dtype):
        return series.to_numpy(np.float64, na_value=np.nan)
    if types.is_datetime64_any_dtype(dtype):
        return (series.dt.tz_convert(None) if getattr(dtype, "tz", None) else series).to_numpy("datetime64[s]")
    return [as_cell(value) for value in series.tolist()]


# ---- the files of splits ----


def find_tables(data: str, train: str = "train") -> dict[str, Path]:
    """The file of each split: the one that is given, or in a folder train, val and test, with an ending of a table.

    What else the folder has is named in a line.

    Args:
        data: path of a file or folder.
        train: what else the file of the train split may be called.

    Raises:
        UserError: there is no such file or folder, the folder has no file of the train split, or two of one split.
    """
    path = Path(data)
    if path.is_file():
        return {"train": path}
    if not path.is_dir():
        raise UserError(f"--data {data} does not exist; give a CSV file, a folder with {train}.csv, or synthetic")
    files = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]
    tables = [file for file in files if ending_of(file) in ENDINGS]
    found = by_split(tables)
    for file in tables:
        if file.name.split(".")[0].lower() == train and found.setdefault("train", file) != file:
            raise UserError(f"{found['train']} and {file} are both there for train; remove or rename one")
    others = [file.name for file in tables if file not in found.values()]
    if "train" not in found:
        wanted = " or ".join(f"{name}.csv" for name in dict.fromkeys([train, "train"]))
        has = f"; it has {some(others, 5)}: rename one, or give it as --data" if others else ""
        raise UserError(f"--data {data}: there is no {wanted} in this folder{has}")
    if others:
        print(f"not used in {path}: {some(others, 5)}")
    return found


def with_targets(
    tables: Mapping[str, Table], names: Sequence[str], test_fraction: float
) -> tuple[dict[str, Table], float]:
    """The tables to train and test with, and the part of train to hold out as test.

    A test table that has none of these columns, or no cell in them, is there to be predicted for: it is left out, which
    is printed, and nothing is held out in its place.
    """
    if "test" not in tables:
        return dict(tables), test_fraction
    train, test = tables["train"], tables["test"]
    targets = [cells for name, cells in zip(test.names, test.columns, strict=True) if name in names]
    is_shorter = not test.named and len(test.names) < len(train.names)
    if not is_shorter and not all(missing_cells(cells).all() for cells in targets):
        return dict(tables), 0.0
    print(
        f"{test.path} has no {some(names, 5)}: nothing is tested with it; predict for it with "
        f"python predict.py --checkpoint check_point/<date>_<time>/best.pth {test.path}"
    )
    return {name: table for name, table in tables.items() if name != "test"}, 0.0
