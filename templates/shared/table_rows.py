"""Rows of tables: the columns that are features, the rows that are held out, and what predict.py reads.

How files are read is in tables.py, what a column becomes in columns.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cells import as_texts, date_formats, likely_decimal, missing_cells, read_dates, read_numbers
from columns import Column, encode, has_names, note_unknown_texts, num_features
from engine.data.splits import SplitConfig, choose_splits
from engine.monitor.console import wrapped
from engine.runtime.errors import UserError
from tables import Table, as_table, find_tables, read_table, some


class RowsConfig(SplitConfig, Protocol):
    """The settings that say which rows and columns are used; config.py explains them."""

    @property
    def data(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def drop(self) -> tuple[str, ...]: ...
    @property
    def group(self) -> str: ...
    @property
    def time(self) -> str: ...


# ---- tables ----


def read_tables(config: RowsConfig) -> dict[str, Table]:
    """The table of each split that is on the disk.

    Raises:
        UserError: a table that cannot be read, or one without column names if the target is not column_1, column_2 ...
    """
    tables = {name: read_table(path) for name, path in find_tables(config.data).items()}
    train = tables["train"]
    if config.target in train.names or has_names(train):
        return tables
    names = train.without_names().names
    if config.target not in names:
        raise UserError(
            f"{train.path} has no column names: they are {names[0]} to {names[-1]}; give the one to predict with "
            f"--target, often the last: --target {names[-1]}"
        )
    print(f"{train.path} has no column names: they are {names[0]} to {names[-1]}")
    return {name: with_names(table, names, config.target) for name, table in tables.items()}


def with_names(table: Table, names: Sequence[str], target: str) -> Table:
    """A table without column names with these, that of the target only if there is one more column than features.

    Raises:
        UserError: it has more or fewer columns.
    """
    features = [name for name in names if name != target]
    return table.without_names(features if len(table.names) == len(features) else names)


def feature_tables(tables: Mapping[str, Table], config: RowsConfig) -> dict[str, Table]:
    """The tables without the columns that --drop names, and without that of --group; which these are is printed.

    Raises:
        UserError: train has no such column, or it is the target.
    """
    train = tables["train"]
    unused = {name: "--drop" for name in config.drop} | ({config.group: "--group"} if config.group else {})
    for name, flag in unused.items():
        train.number(name, flag)
        if name == config.target:
            raise UserError(f"{flag} {name}: that is the target, --target {name}; give another column")
    if unused:
        print(wrapped(f"no features ({len(unused):,}): {some([f'{name} ({flag})' for name, flag in unused.items()])}"))
    return {name: table.without(unused) for name, table in tables.items()}


# ---- splits ----


def choose_rows(
    tables: Mapping[str, Table], strata: Mapping[str, Tensor], config: RowsConfig, test_fraction: float
) -> dict[str, tuple[str, Tensor]]:
    """(split on the disk, row numbers) for each of train, val and, if there is one, test, as --group and --time say.

    Args:
        tables: by split on the disk.
        strata: of each, the number of each row's class, shape (N,); 0 for all to hold out any.
        config: the settings.
        test_fraction: part of train to hold out as test.

    Raises:
        UserError: --group and --time together, a column that there is not, a row without a group or time, too few rows.
    """
    if config.group and config.time:
        raise UserError(f"--group {config.group} and --time {config.time} each say what is held out; give one of them")
    groups = read_groups(tables, config.group) if config.group else None
    times = read_times(tables, config.time) if config.time else None
    return choose_splits(config, strata, test_fraction, groups, times)


def read_groups(tables: Mapping[str, Table], name: str) -> dict[str, Tensor]:
    """The number of each row's group, by split on the disk, shape (N,), the same number in all of them.

    Raises:
        UserError: there is no such column, or a row without a group.
    """
    numbers: dict[str, int] = {}
    found: dict[str, Tensor] = {}
    for split, table in tables.items():
        cells = table.columns[table.number(name, "--group")]
        for row in np.flatnonzero(missing_cells(cells))[:1]:
            raise UserError(f"{table.place(row)}: {name!r} is empty; every row needs its group (--group)")
        found[split] = torch.tensor([numbers.setdefault(cell, len(numbers)) for cell in as_texts(cells)])
    return found


def read_times(tables: Mapping[str, Table], name: str) -> dict[str, Tensor]:
    """The time of each row, by split on the disk, numbers or seconds, float64 (N,).

    Raises:
        UserError: there is no such column, or it has not a number in every row, or a date in every row.
    """
    found: dict[str, Tensor] = {}
    likely = likely_decimal(tables["train"].columns)
    for split, table in tables.items():
        cells = table.columns[table.number(name, "--time")]
        times, _ = read_numbers(cells, likely)
        if not np.isfinite(times).all() and len(formats := date_formats(cells)) == 1:
            dates = read_dates(cells, formats[0])
            times = np.where(np.isnat(dates), np.nan, dates.astype(np.float64))
        for row in np.flatnonzero(~np.isfinite(times))[:1]:
            cell = as_texts(cells[row : row + 1])[0]
            raise UserError(f"{table.place(row)}: {name!r} is {cell!r}; --time needs a number or a date in every row")
        found[split] = torch.from_numpy(times)
    return found


# ---- features ----


def check_features(x: Any, columns: Sequence[Column]) -> None:
    """Raises a UserError for features, or features and which rows they are, that are not those of the columns."""
    features: Tensor = x[0] if isinstance(x, (tuple, list)) else x
    wanted = sum(map(num_features, columns))
    if features.dim() != 2 or features.shape[1] != wanted:
        raise UserError(
            f"features have the shape {tuple(features.shape)}, not (B, {wanted}); encode in columns.py makes them"
        )


def read_inputs(inputs: Sequence[Any], meta: dict[str, Any], batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """For predict.py: batches of places (file:line) and features (B, F), from tables with the columns of train.

    Args:
        inputs: files, pandas DataFrames, or arrays with the columns in the order of train.
        meta: what `load_data` returned.
        batch_size: rows per batch.
    """
    for source in inputs:
        features = [column["name"] for column in meta["columns"]]
        table = as_table(source, features)
        if "names" in meta and not set(features) <= set(table.names):
            table = with_names(table, meta["names"], meta["target"])
        x = encode(table, meta["columns"])
        note_unknown_texts(table, meta["columns"])
        for start in range(0, len(x), batch_size):
            batch = x[start : start + batch_size]
            yield [table.place(row) for row in range(start, start + len(batch))], batch
