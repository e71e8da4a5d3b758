"""Rows of a table of one class each: from tables to data set splits, for training and prediction.

Which rows and columns are used is in table_rows.py, what a column becomes in columns.py, how files are read in
table_files.py.
"""

import math
from pathlib import Path
from typing import Any

import torch

from cells import as_number, missing_cells
from classification import check_balance, describe_classes
from columns import describe_columns, encode
from config import Config
from engine.data.splits import Split, sizes_of
from engine.monitor.console import wrapped
from engine.runtime.errors import UserError
from engine.runtime.seeding import epoch_generator
from table_classes import find_classes, note_single_rows
from table_networks import remembered_rows
from table_rows import choose_rows, feature_tables, read_tables
from table_rows import read_inputs as read_inputs  # predict.py takes it from here
from tables import Table, shortened, with_targets

MOST_CLASSES = 1000


def load_data(config: Config) -> tuple[dict[str, Split], dict[str, Any]]:
    """The splits train, val and, if there is one, test, and what prediction needs to know.

    Without a val split parts of train are held out, of every class, as val and as test; test never chooses the model.

    Raises:
        UserError: a row without class, one class only or too many, a class that train does not have, or a table that
            cannot be read.
    """
    check_balance(config)
    if config.data == "synthetic":
        found, target = {"train": make_synthetic(config)}, "kind"
    else:
        found, target = read_tables(config), config.target
    tables, test_fraction = with_targets(found, [target], config.test_fraction)
    names = {split: class_names(table, target) for split, table in tables.items()}
    classes = sorted(find_classes(names, tables, f"is --target {target}"), key=in_order)
    if len(classes) > MOST_CLASSES:
        raise UserError(
            f"{tables['train'].path}: {target!r} has {len(classes):,} classes, and {MOST_CLASSES:,} are the most; "
            "numbers to predict are a project of their own, with the task type regression"
        )
    index = {name: number for number, name in enumerate(classes)}
    labels = {split: torch.tensor([index[name] for name in found]) for split, found in names.items()}
    chosen = choose_rows(tables, labels, config, test_fraction)
    used = feature_tables(tables, config)
    rows = chosen["train"][1]
    columns = describe_columns(used["train"], target, rows.tolist())
    features = {split: encode(table, columns) for split, table in used.items()}
    splits = {split: Split(features[source], labels[source], rows) for split, (source, rows) in chosen.items()}
    print(describe_classes(list(map(shortened, classes)), splits))
    note_single_rows(names["train"])
    meta: dict[str, Any] = {"columns": columns, "target": target, "classes": classes}
    meta |= {"backbone": config.backbone, "width": config.width, "dropout": config.dropout}
    meta |= {"remembered": len(remembered_rows(len(rows)))}
    meta |= {} if tables["train"].named else {"names": tables["train"].names}
    number = features["train"].shape[1]
    classified = f"{sizes_of(splits)} rows in {len(classes)} classes"
    print(wrapped(f"data: {classified}, {number} features from {len(columns)} columns"))
    return splits, meta


def class_names(table: Table, target: str) -> list[str]:
    """The class of each row, empty where it is missing: texts, booleans, dates, or numbers without a needless .0."""
    number = table.number(target, "--target")
    missing = missing_cells(table.columns[number])
    names = ["" if gap else name for name, gap in zip(table.column(number), missing, strict=True)]
    values = {name: as_number(name) for name in set(names) - {""}}
    if all(math.isfinite(value) and value == round(value) for value in values.values()):
        plain = {name: name.removesuffix(".0") for name in values}
        return [plain.get(name, "") for name in names]
    return names


def in_order(name: str) -> tuple[float, str]:
    """Sorts classes: numbers by size, then texts."""
    number = as_number(name)
    return (number if math.isfinite(number) else math.inf, name)


def make_synthetic(config: Config) -> Table:
    """A table with two numbers, one of them often missing, and a text, that nearly determine one of three kinds."""
    generator = epoch_generator(config.seed, 0)
    count = 1024 if config.smoke else 2048
    a, b, noise, missing = torch.randn(4, count, generator=generator)
    place = torch.randint(3, (count,), generator=generator)
    score = a + place - 1 + 0.3 * (2 * b).sin() * place + 0.1 * noise
    columns = {
        "a": [f"{number:.4f}" for number in a.tolist()],
        "b": [f"{number:.4f}" if gap < 1.5 else "" for number, gap in zip(b.tolist(), missing.tolist(), strict=True)],
        "place": [("coast", "hill", "valley")[number] for number in place.tolist()],
        "kind": [("small", "middle", "large")[(number > -0.7) + (number > 0.7)] for number in score.tolist()],
    }
    return Table(Path("synthetic"), list(columns), list(columns.values()), range(2, count + 2))
