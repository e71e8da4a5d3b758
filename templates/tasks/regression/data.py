"""Rows of a table with a number to predict: from tables to data set splits, for training and prediction.

Which rows and columns are used is in table_rows.py, what a column becomes in columns.py, how files are read in
table_files.py.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cells import as_texts, likely_decimal, read_numbers
from columns import describe_columns, encode
from config import Config
from engine.data.splits import Split, sizes_of
from engine.runtime.errors import UserError
from engine.runtime.seeding import epoch_generator
from metrics import TargetScale
from table_networks import remembered_rows
from table_rows import choose_rows, feature_tables, read_tables
from table_rows import read_inputs as read_inputs  # predict.py takes it from here
from tables import Table, with_targets

MOST_SKEWED = 1.5  # a target, before its logarithm is tried
# Of the logarithm's variance. What is predicted by it is near the median: the mean of a log-normal target is
# exp(variance / 2) as large, 16 % above it with this.
MOST_UNEXPLAINED = 0.3
ROWS_TRIED, RIDGE = 2000, 0.1  # by a ridge regression, and its penalty, as a part of the features' mean square


def load_data(config: Config) -> tuple[dict[str, Split], dict[str, Any]]:
    """The splits train, val and, if there is one, test, and what prediction needs to know.

    Without a val split parts of train are held out, as val and as test; test never chooses the model.

    Raises:
        UserError: a constant target, or a table that cannot be read.
    """
    if config.data == "synthetic":
        found, target = {"train": make_synthetic(config)}, "y"
    else:
        found, target = read_tables(config), config.target
    tables, test_fraction = with_targets(found, [target], config.test_fraction)
    targets = read_targets(tables, target)
    strata = {name: torch.zeros(len(values)) for name, values in targets.items()}
    chosen = choose_rows(tables, strata, config, test_fraction)
    used = feature_tables(tables, config)
    for name, (source, indices) in chosen.items():
        values = targets[source][indices]
        if values.min() == values.max() or not values.std(correction=0) < math.inf:
            way = f", a larger --{name}_fraction or a {name}.csv" if name != source else ""
            raise UserError(
                f"{tables[source].path}: {target!r} does not vary, or too much, in the {len(indices)} rows of {name}; "
                f"give more rows{way}"
            )
    rows = chosen["train"][1]
    columns = describe_columns(used["train"], target, rows.tolist())
    meta: dict[str, Any] = {"columns": columns, "target": target}
    features = {name: encode(table, columns) for name, table in used.items()}
    meta |= describe_target(features["train"][rows], targets["train"][rows], targets, config.target_transform, target)
    scale = TargetScale(meta)
    standardised = {name: scale.standardised(values) for name, values in targets.items()}
    splits = {name: Split(features[source], standardised[source], rows) for name, (source, rows) in chosen.items()}
    meta |= {"backbone": config.backbone, "width": config.width, "dropout": config.dropout}
    meta |= {"remembered": len(remembered_rows(len(rows)))}
    meta |= {} if tables["train"].named else {"names": tables["train"].names}
    number = features["train"].shape[1]
    print(f"data: {sizes_of(splits)} rows, {number} features from {len(columns)} columns")
    return splits, meta


def describe_target(x: Tensor, known: Tensor, targets: dict[str, Tensor], transform: str, name: str) -> dict[str, Any]:
    """What `TargetScale` needs to know of the target; it is printed.

    Args:
        x: features of the training rows (N, F).
        known: their targets (N,).
        targets: of all rows.
        transform: "log" for its logarithm, "none", or "auto": the logarithm if that is much less skewed and can be
            predicted well.
        name: of the target.

    Raises:
        UserError: a logarithm is asked for, and a target is 0 or less.
    """
    mean, std = known.mean().item(), known.std(correction=0).item()
    print(f"target {name!r}: {known.min():g} to {known.max():g}, mean {mean:g}, standard deviation {std:g}")
    found: dict[str, Any] = {"target_mean": mean, "target_std": std}
    least = min(values.min().item() for values in targets.values())
    if transform == "log" and least <= 0:
        raise UserError(f"--target_transform log: {name!r} is {least:g} in a row; it must be above 0, or give none")
    if transform == "none" or least <= 0:
        return found
    logs = known.log()
    is_skewed = skewness(known) > max(MOST_SKEWED, 2 * abs(skewness(logs)))
    if transform == "log" or is_skewed and unexplained(x, logs) < MOST_UNEXPLAINED:
        found["target_log"] = [logs.mean().item(), logs.std(correction=0).item()]
        if transform == "auto":
            print("it is skewed: its logarithm is predicted (--target_transform)")
    return found


def unexplained(x: Tensor, values: Tensor) -> float:
    """The mean squared error of a ridge regression on up to ROWS_TRIED rows, of which every second one is held out.

    Args:
        x: features (N, F).
        values: (N,).
    """
    rows = torch.linspace(0, len(x) - 1, min(len(x), ROWS_TRIED)).long()
    x, values = x[rows].double(), values[rows]
    fitted, held_out = (x[start::2] - x[::2].mean(0) for start in (0, 1))
    gram = fitted @ fitted.T
    penalty = RIDGE * gram.diag().mean() * torch.eye(len(fitted), dtype=gram.dtype)
    mean = values[::2].mean()
    weights = torch.linalg.solve(gram + penalty, values[::2] - mean)
    pred = held_out @ (fitted.T @ weights) + mean
    return float((pred - values[1::2]).square().mean())


def skewness(values: Tensor) -> float:
    """The third standardised moment."""
    return float(((values - values.mean()) / values.std(correction=0)).pow(3).mean())


def read_targets(tables: dict[str, Table], name: str) -> dict[str, Tensor]:
    """The target of every row of each table, shape (N,), float64.

    Raises:
        UserError: there is no such column, a cell that is no finite number, or a table with fewer than three rows.
    """
    likely = likely_decimal(tables["train"].columns)
    targets: dict[str, Tensor] = {}
    for split, table in tables.items():
        cells = table.columns[table.number(name, "--target")]
        numbers, style = read_numbers(cells, likely)
        for row in np.flatnonzero(~np.isfinite(numbers))[:1]:
            cell = as_texts(cells[row : row + 1])[0]
            raise UserError(f"{table.place(row)}: {name!r} is {cell!r}; the target must be a number in every row")
        if len(numbers) < 3:
            raise UserError(f"{table.path} has {len(numbers)} rows below its column names; 3 are the least")
        likely = style.decimal if split == "train" else likely
        targets[split] = torch.from_numpy(numbers)
    return targets


def make_synthetic(config: Config) -> Table:
    """A table with two numbers, one of them often missing, and a text, that determine y but for some noise."""
    generator = epoch_generator(config.seed, 0)
    count = 1024 if config.smoke else 2048
    a, b, noise, missing = torch.randn(4, count, generator=generator)
    kind = torch.randint(3, (count,), generator=generator)
    y = 40 + 10 * (a + (2 * b).sin() * (kind - 1) + kind + 0.1 * noise)
    columns = {
        "a": [f"{number:.4f}" for number in a.tolist()],
        "b": [f"{number:.4f}" if gap < 1.5 else "" for number, gap in zip(b.tolist(), missing.tolist(), strict=True)],
        "kind": [("low", "middle", "high")[number] for number in kind.tolist()],
        "y": [f"{number:.3f}" for number in y.tolist()],
    }
    return Table(Path("synthetic"), list(columns), list(columns.values()), range(2, count + 2))
