"""The task, regression: its data, network, loss and scores. How it is trained is in engine/trainer.py."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from config import Config
from engine import UserError
from engine.data import Rows, choose_rows, loaders
from engine.figures import caption, new_figure
from engine.network import Fp32Linear, merge_stages
from engine.optimizers import build_optimizers
from engine.seeding import epoch_generator, seed_everything
from engine.trainer import Trainer
from features import as_number, describe_columns, encode, num_features
from tables import Table, find_tables, read_table

LOSSES = {"mse": nn.MSELoss, "huber": nn.HuberLoss}


class Task(Trainer):
    """Batches are features of shape (B, F) and targets of shape (B,), standardised with the training part."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.configure(config)
        data, self.meta = load_data(config)
        self.train_loader, self.eval_loader, self.test_loader = loaders(
            data, config.batch_size, config.seed, 0, self.device
        )
        seed_everything(config.seed)
        self.model_list = build_model_list(self.meta, config.num_parts)
        self.optimizer_list = build_optimizers(self.model_list, config)
        self.criterion = LOSSES[config.loss]()
        self.key_metric, self.key_mode = "r2", "max"
        self.score_modes = {"mae": "min", "rmse": "min"}
        self.set_metrics = {"r2": R2(), "rmse": RootMeanSquare(self.meta["target_std"])}

    def metric(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The mean absolute error, in the target's own unit."""
        return {"mae": (pred.cpu().double() - y.cpu()).abs().mean() * self.meta["target_std"]}

    def draw(self, batch: Any) -> dict[str, Any]:
        """Predicted against true values of some rows, in the target's own unit; those on the line are right."""
        standardised = (v.cpu().double() for v in (batch[1], self.inference(batch[0])))
        truth, predicted = (v * self.meta["target_std"] + self.meta["target_mean"] for v in standardised)
        figure, axes = new_figure()
        axes[0, 0].plot(truth, predicted, ".")
        axes[0, 0].axline((float(truth[0]), float(truth[0])), slope=1, color="grey")
        target = caption(self.meta["target"])
        axes[0, 0].set(xlabel=f"true {target}", ylabel=f"predicted {target}")
        return {"predictions": figure}


class SquaredErrors:
    """Sums over the whole set: of squared errors, and what the variance of the truth needs."""

    sums = ("count", "errors", "sum", "squares")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all that was taken in."""
        self.count, self.errors, self.sum, self.squares = 0, 0.0, 0.0, 0.0

    def update(self, pred: Tensor, y: Tensor) -> None:
        """Takes in predictions and truths of shape (B,)."""
        pred, y = pred.cpu().double(), y.cpu().double()
        self.count += len(y)
        self.errors += float((pred - y).square().sum())
        self.sum, self.squares = self.sum + float(y.sum()), self.squares + float(y.square().sum())


class R2(SquaredErrors):
    """The coefficient of determination: 1 - squared errors / squared deviations of the truth from its mean.

    NaN where the truth does not vary.
    """

    def compute(self) -> Tensor:
        """The score, a scalar: 1 at best, 0 for the mean of the truth, no lower limit."""
        deviations = self.squares - self.sum**2 / max(1, self.count)
        return torch.tensor(1 - self.errors / deviations if deviations > 0 else math.nan, dtype=torch.float64)


class RootMeanSquare(SquaredErrors):
    """The root of the mean squared error, times `unit`: what 1 stands for in the target's own unit."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.unit = unit

    def compute(self) -> Tensor:
        """The error, a scalar, in the target's own unit."""
        return torch.tensor(self.unit * math.sqrt(self.errors / max(1, self.count)), dtype=torch.float64)


# ---- network ----


def build_model_list(meta: dict[str, Any], num_parts: int) -> list[nn.Module]:
    """A multilayer perceptron in `num_parts` parts, from features (B, F) to standardised targets (B,)."""
    w = meta["width"]
    features = sum(map(num_features, meta["columns"]))
    stem = nn.Sequential(nn.Linear(features, w), nn.SiLU())
    body = [layer for _ in range(2) for layer in (nn.Linear(w, w), nn.SiLU(), nn.Dropout(meta["dropout"]))]
    return merge_stages([stem, nn.Sequential(*body), nn.Sequential(Fp32Linear(w, 1), nn.Flatten(0))], num_parts)


# ---- data ----


def load_data(config: Config) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Train and val, test where there is one, and what prediction needs to know.

    Without a val split a part of train is held out. What is standardised, imputed and known of text columns comes
    from the training part alone.

    Raises:
        UserError: a target that does not vary, or a table that cannot be read.
    """
    if config.data == "synthetic":
        tables, target = {"train": make_synthetic(config)}, "y"
    else:
        tables, target = {name: read_table(path) for name, path in find_tables(config.data).items()}, config.target
    truths = {name: read_target(table, target) for name, table in tables.items()}
    groups = {name: torch.zeros(len(truth)) for name, truth in truths.items()}
    rows = choose_rows(groups, config.val_fraction, config.seed)
    for name, (source, chosen) in rows.items():
        if not 0 < truths[source][chosen].std(correction=0) < math.inf:
            raise UserError(
                f"{tables[source].path}: {target!r} does not vary, or too much, in the {len(chosen)} rows of {name}; "
                "give more rows, a larger --val_fraction or a val.csv"
            )
    chosen = rows["train"][1]
    columns = describe_columns(tables["train"], target, chosen.tolist())
    known = truths["train"][chosen]
    mean, std = known.mean().item(), known.std(correction=0).item()
    encoded = {name: encode(table, columns) for name, table in tables.items()}
    meta = {"columns": columns, "target": target, "target_mean": mean, "target_std": std}
    meta |= {"width": config.width, "dropout": config.dropout}
    sizes = ", ".join(f"{len(chosen):,} {name}" for name, (_, chosen) in rows.items())
    print(f"data: {sizes} rows, {encoded['train'].shape[1]} features from {len(columns)} columns, target {target!r}")
    return {
        name: Rows(encoded[source], ((truths[source] - mean) / std).float(), chosen)
        for name, (source, chosen) in rows.items()
    }, meta


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
    """A table with two numbers, one of them often missing, and a text, that decide y but for some noise."""
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


# ---- prediction ----


def read_inputs(paths: Sequence[Path], meta: dict[str, Any], batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """Batches of places (file:line) and features (B, F) from tables with the columns that train had."""
    for path in paths:
        table = read_table(path)
        x = encode(table, meta["columns"])
        for start in range(0, len(x), batch_size):
            batch = x[start : start + batch_size]
            yield [table.place(row) for row in range(start, start + len(batch))], batch


def to_rows(names: list[str], pred: Tensor, meta: dict[str, Any], output: Path) -> list[dict[str, str]]:
    """The target in its own unit, from predictions of shape (B,)."""
    values = (pred.cpu().double() * meta["target_std"] + meta["target_mean"]).tolist()
    column = f"predicted {meta['target']}"
    return [{"input": name, column: f"{value:.6g}"} for name, value in zip(names, values, strict=True)]


# ==== config.py ====
class Settings:
    # The table and the network
    data: str = "synthetic"  # synthetic, a CSV file, or a folder with train.csv, and val.csv or test.csv or both
    target: str = "target"  # the column to predict; all others are features
    val_fraction: float = 0.1  # part of the training rows that chooses the best epoch, where there is no val.csv
    batch_size: int = 64  # rows per batch
    width: int = 128  # units of each hidden layer
    dropout: float = 0.0  # part of the hidden units that is left out in each update
    loss: Literal["mse", "huber"] = "mse"  # huber is less drawn by outliers; both on the standardised target
    optimizer: Literal["sgd", "adamw"] = "adamw"  # sgd uses Nesterov momentum
    lr: tuple[float, ...] = (0.003,)  # base learning rate: one for all parts, or one per part
    weight_decay: float = 0.01  # on weights of two and more dimensions; biases have none


# ==== tests/test_task.py ====
"""What this project promises of tables: every kind of column is used, new rows are predicted, bad cells are named."""

from pathlib import Path

import pytest

import predict
from config import Config
from engine import UserError
from task import load_data
from test_project import run

HEADER = "size,city,price\n"


def table(folder: Path, *rows: str) -> Path:
    """A file with these rows and 30 good ones before them."""
    path = folder / "houses.csv"
    good = [f"{n},{'Rome' if n % 2 else 'Oslo'},{100 + 3 * n}" for n in range(30)]
    path.write_text(HEADER + "\n".join([*good, *rows]) + "\n", encoding="utf-8")
    return path


def test_rows_that_training_never_saw_are_predicted_in_the_target_s_unit(tmp_path: Path) -> None:
    data = table(tmp_path, ",Oslo,130")
    run_dir = run(tmp_path / "runs", "--data", str(data), "--target", "price", "--epochs", "20", "--lr", "0.01")
    new = tmp_path / "new.csv"
    new.write_text("city,size\nRome,15\nParis,\n", encoding="utf-8")
    output = tmp_path / "predictions.csv"
    predict.predict(predict.Arguments((new,), run_dir / "best.pth", output))
    header, *rows = (line.split(",") for line in output.read_text("utf-8").splitlines())
    assert header == ["input", "predicted price"]
    assert [place for place, _ in rows] == [f"{new}:2", f"{new}:3"]
    assert all(60 < float(price) < 230 for _, price in rows)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("1,Oslo,", "houses.csv:32: 'price' is ''; the target must be a number"),
        ("1,Oslo,nan", "houses.csv:32: 'price' is 'nan'; the target must be a number"),
        ("12a,Oslo,100", "houses.csv:32: 'size' is '12a' where other rows have numbers"),
        ("1;Oslo;100", "houses.csv:32: 1 cells where the first line has 3"),
        ("1,Oslo", "houses.csv:32: 2 cells where the first line has 3"),
    ],
)
def test_a_bad_row_is_named_with_its_line(row: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        load_data(Config(data=str(table(tmp_path, row)), target="price"))


def test_a_missing_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no column 'prize'; did you mean 'price'\?"):
        load_data(Config(data=str(table(tmp_path)), target="prize"))


# ==== README.md ====
README = """\
## Train

    python train.py                                  # synthetic rows, made up on the spot
    python train.py --data FILE.csv --target COLUMN  # your own table
    python train.py --data FOLDER --target COLUMN    # with train.csv, and val.csv or test.csv or both

The first line of a table names its columns; comma, semicolon, tab and bar separate cells. All columns but the target
are features: numbers are standardised, texts become one feature per value, and what is missing (empty, NA, NaN, -, ?)
is imputed and marked. All of that is learnt from the training rows alone. Without val.csv a tenth of train, drawn by
`--seed`, chooses the best epoch; test.csv is what that epoch is tested on at the end. MAE and RMSE are in the
target's own unit.

## Predict

    python predict.py --checkpoint check_point/<date>_<time>/best.pth TABLE.csv...

prints the target for each row, named by file and line, and writes it to `predictions.csv`. Columns are found by name,
in any order; others, the target too, may be there and are not looked at.
"""
