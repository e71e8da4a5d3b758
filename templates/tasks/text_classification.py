"""The task, text classification: its data, network, loss and scores. How it is trained is in engine/trainer.py."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from config import Config
from confusion import MacroF1, draw_confusion
from engine import UserError
from engine.data import Rows, choose_rows, loaders
from engine.network import merge_stages
from engine.optimizers import build_optimizers
from engine.seeding import epoch_generator, seed_everything
from engine.trainer import Trainer
from tables import Table, find_tables, read_table, read_text
from texts import Texts, has_no_names, without_names
from transformer import Classify, Embed, Encoder

Splits = dict[str, tuple[list[str], list[str], Table]]  # texts, their classes and where they come from, by split


class Task(Trainer):
    """Batches are bytes plus one of shape (B, L), 0 after the end of a text, and class numbers of shape (B,)."""

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
        self.criterion = nn.CrossEntropyLoss()
        self.key_metric, self.key_mode = "acc", "max"
        self.set_metrics = {"f1": MacroF1(len(self.meta["classes"]))}

    def metric(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Part of the texts whose class has the largest of the logits (B, classes)."""
        return {"acc": (pred.argmax(1) == y).float().mean()}

    def draw(self, batch: Any) -> dict[str, Any]:
        """How often each class is taken for which, in the whole evaluation."""
        confusion = self.set_metrics["f1"].confusion  # type: ignore[attr-defined]
        return {"confusion": draw_confusion(confusion, self.meta["classes"])}


# ---- network ----


def build_model_list(meta: dict[str, Any], num_parts: int) -> list[nn.Module]:
    """The network, from bytes (B, L) to logits (B, classes), in `num_parts` parts."""
    w, dropout = meta["width"], meta["dropout"]
    head = Classify(w, len(meta["classes"]), dropout)
    return merge_stages([Embed(w, meta["max_length"], dropout), Encoder(w, meta["layers"], dropout), head], num_parts)


# ---- data ----


def load_data(config: Config) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Train and val, test where there is one, and what prediction needs to know.

    Without a val split a part of train is held out, `val_fraction` of every class.

    Raises:
        UserError: a text without class, one class only or nearly as many as texts, a class that train has not.
    """
    if config.max_length < 1 or config.layers < 1:
        raise UserError(f"--max_length {config.max_length} and --layers {config.layers} must be 1 or more")
    splits, nameless = (make_synthetic(config), -1) if config.data == "synthetic" else read_own(config)
    texts, names, table = splits["train"]
    classes = sorted(set(names) - {""})
    if len(classes) < 2 or len(classes) > max(20, len(texts) / 2):
        raise UserError(
            f"{table.path} has {len(classes)} classes in {len(texts)} rows ({listed(classes)}); are --text_column and "
            "--label_column right? Two classes with several rows each are the least"
        )
    number = {name: index for index, name in enumerate(classes)}
    for _, names, table in splits.values():
        for row, name in enumerate(names):
            if name not in number:
                wanted = f"train has {listed(classes)}" if name else "every text needs one"
                raise UserError(f"{table.place(row)}: the class is {name!r}; {wanted}")
    labels = {split: torch.tensor([number[name] for name in names]) for split, (_, names, _) in splits.items()}
    rows = choose_rows(labels, config.val_fraction, config.seed)
    encoded = {split: Texts(texts, config.max_length) for split, (texts, _, _) in splits.items()}
    sizes = ", ".join(f"{len(chosen):,} {split}" for split, (_, chosen) in rows.items())
    cut = encoded["train"].cut
    print(f"data: {sizes} texts in {len(classes)} classes; {cut:.1%} are cut at {config.max_length} bytes")
    meta = {"classes": classes, "text_column": config.text_column, "nameless": nameless}
    meta |= {name: getattr(config, name) for name in ("max_length", "width", "layers", "dropout")}
    return {split: Rows(encoded[source], labels[source], chosen) for split, (source, chosen) in rows.items()}, meta


def listed(names: Sequence[str]) -> str:
    """Up to five names, for a message."""
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


def read_own(config: Config) -> tuple[Splits, int]:
    """The texts and classes of one's own tables, and the number of the texts' column where none has a name, or -1.

    Raises:
        UserError: a table that cannot be read, has no row or lacks a column.
    """
    tables = {name: read_table(path) for name, path in find_tables(config.data).items()}
    train, wanted = tables["train"], {config.text_column, config.label_column}
    by_flag = wanted != {Config.text_column, Config.label_column}
    nameless = not by_flag and not wanted & set(train.names) and has_no_names(train)
    if nameless:
        tables = {name: without_names(table) for name, table in tables.items()}
        variety = [len(set(tables["train"].column(number))) for number in (0, 1)]
        text = int(variety[1] > variety[0])
        label = 1 - text
        print(f"{train.path} has no column names: texts are in column {text + 1}, classes in column {label + 1}")
    splits: Splits = {}
    for name, table in tables.items():
        if not nameless:
            text = table.number(config.text_column, "--text_column")
            label = table.number(config.label_column, "--label_column")
        if not table.rows:
            raise UserError(f"{table.path} has no row below its column names")
        splits[name] = table.column(text), table.column(label), table
    return splits, text if nameless else -1


def make_synthetic(config: Config) -> Splits:
    """Sentences of eight words, a few of which belong to one of four subjects: seeded, and learnt in seconds."""
    generator = epoch_generator(config.seed, 0)
    subjects = {
        "food": "bread cheese soup apple dinner", "music": "song piano choir violin concert",
        "sport": "goal team runner match medal", "weather": "rain storm sunny cloud frost",
    }  # fmt: skip
    common = ["the", "a", "and", "we", "saw", "was", "then", "very", "good", "today", "some", "of"]
    splits = {}
    for split, count in {"train": 512 if config.smoke else 1024, "test": 64 if config.smoke else 256}.items():
        texts, names = [], []
        for draws in torch.rand(count, 18, generator=generator).tolist():
            name = sorted(subjects)[int(4 * draws[0])]
            words = [subjects[name].split() if about < 0.4 else common for about in draws[1:9]]
            chosen = [choice[int(len(choice) * draw)] for choice, draw in zip(words, draws[9:17], strict=True)]
            texts.append(" ".join(chosen))
            names.append(name)
        splits[split] = texts, names, Table(Path("synthetic"), [], [], [])
    return splits


# ---- prediction ----


def read_inputs(paths: Sequence[Path], meta: dict[str, Any], batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """Batches of places (file:line) and bytes (B, L), from tables, and from other files with a text on each line."""
    for path in paths:
        if path.suffix.lower() in (".csv", ".tsv"):
            table = read_table(path)
            if meta["nameless"] >= 0 and meta["text_column"] not in table.names:
                table, number = without_names(table), min(meta["nameless"], len(table.names) - 1)
            else:
                number = table.number(meta["text_column"], "its first line")
            texts = table.column(number)
        else:
            lines = [line.strip() for line in read_text(path).split("\n")]
            texts = [line for line in lines if line]
            table = Table(path, ["text"], [], [number for number, line in enumerate(lines, 1) if line])
        encoded = Texts(texts, meta["max_length"])
        for rows in torch.arange(len(texts)).split(batch_size) if texts else []:
            yield [table.place(row) for row in rows.tolist()], encoded[rows]


def to_rows(names: list[str], pred: Tensor, meta: dict[str, Any], output: Path) -> list[dict[str, str]]:
    """The likeliest class of each row of logits (B, classes), and its probability."""
    best = pred.softmax(1).max(1)
    return [
        {"input": name, "class": meta["classes"][number], "probability": f"{probability:.4f}"}
        for name, number, probability in zip(names, best.indices.tolist(), best.values.tolist(), strict=True)
    ]


# ==== config.py ====
class Settings:
    # The texts and the network
    data: str = "synthetic"  # synthetic, a CSV or TSV file, or a folder with train.csv, and val.csv or test.csv or both
    text_column: str = "text"  # name of the column with the texts; two columns need no names
    label_column: str = "label"  # name of the column with their classes
    val_fraction: float = 0.1  # part of the training texts that chooses the best epoch, where there is no val file
    max_length: int = 512  # bytes after which a text is cut
    batch_size: int = 32  # texts per batch
    width: int = 128  # size of the vector at each position
    layers: int = 2  # of the Transformer
    dropout: float = 0.3  # part of the units that is left out in each update
    optimizer: Literal["sgd", "adamw"] = "adamw"  # sgd uses Nesterov momentum
    lr: tuple[float, ...] = (0.002,)  # base learning rate: one for all parts, or one per part
    weight_decay: float = 0.05  # on weights of two and more dimensions; biases and normalisation have none


# ==== tests/test_task.py ====
"""What this project promises of texts: tables with and without names, padding without effect, bad rows named."""

from pathlib import Path

import pytest
import torch

import predict
from config import Config
from engine import UserError
from engine.network import eval_mode
from task import Task, load_data, read_inputs
from test_project import SMALL, run
from texts import Texts

GOOD = [f"{('a dull', 'a fine')[number % 2]} day {number},{('bad', 'good')[number % 2]}" for number in range(12)]


def table(path: Path, *lines: str) -> Path:
    """A file with these lines."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_texts_that_training_never_saw_are_predicted(tmp_path: Path) -> None:
    data = table(tmp_path / "data.csv", "text,label", *GOOD)
    run_dir = run(tmp_path / "runs", "--data", str(data), "--epochs", "1", "--warm_up_mode", "none")
    new = [table(tmp_path / "a.txt", "fine", "", "Größe \N{SNOWMAN}"), table(tmp_path / "b.csv", "id,text", "1,dull")]
    output = tmp_path / "predictions.csv"
    predict.predict(predict.Arguments(tuple(new), run_dir / "best.pth", output))
    header, *rows = (line.split(",") for line in output.read_text("utf-8").splitlines())
    assert header == ["input", "class", "probability"]
    assert [place for place, *_ in rows] == [f"{new[0]}:1", f"{new[0]}:3", f"{new[1]}:2"]
    assert {name for _, name, _ in rows} <= {"bad", "good"}


def test_column_names_are_not_needed(tmp_path: Path) -> None:
    data, meta = load_data(Config(data=str(table(tmp_path / "data.csv", *GOOD))))
    assert meta["classes"] == ["bad", "good"] and len(data["train"]) + len(data["val"]) == len(GOOD)
    names, _ = next(iter(read_inputs([tmp_path / "data.csv"], meta, 100)))
    assert len(names) == len(GOOD)


def test_other_column_names_are_not_taken_for_a_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column 'text'; it has Review, Sentiment"):
        load_data(Config(data=str(table(tmp_path / "data.csv", "Review,Sentiment", *GOOD))))


def test_padding_changes_nothing() -> None:
    from config import parse_config

    trainer = Task(parse_config([*SMALL, "--width", "32"]))
    texts = Texts(["short", "a text that is a good deal longer than the other"], 512)
    with eval_mode(trainer.model_list), torch.no_grad():
        alone, padded = (trainer.forward(texts[torch.tensor(rows)])[0] for rows in ([0], [0, 1]))
    torch.testing.assert_close(alone, padded)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["text,label", *GOOD, "x,"], "data.csv:14: the class is ''"),
        (["text,label", *GOOD, "x"], "data.csv:14: 1 cells where the first line has 2"),
        (["text,label", *GOOD[::2]], "has 1 classes in 6 rows"),
        (["texts,label", *GOOD], "no column 'text'; did you mean 'texts'"),
    ],
)
def test_a_bad_table_is_named_with_its_line(lines: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        load_data(Config(data=str(table(tmp_path / "data.csv", *lines))))


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes("text,label\nGrüße,a\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"data\.csv is not UTF-8 \(byte 0xfc in line 2\)"):
        load_data(Config(data=str(tmp_path / "data.csv")))


# ==== README.md ====
README = """\
## Train

    python train.py                                  # synthetic sentences, made up on the spot
    python train.py --data FILE.csv                  # your own texts, in columns called text and label
    python train.py --data FILE.tsv --text_column review --label_column stars
    python train.py --data FOLDER                    # with train.csv, and val.csv or test.csv or both

The first line of a table names its columns; a table of two columns needs no names, and the column with more different
cells is then the text. Comma, semicolon, tab and bar separate cells; `.tsv` works wherever `.csv` does. Without
val.csv a tenth of train, drawn by `--seed` from every class, chooses the best epoch; test.csv is what that epoch is
tested on at the end. Texts are read as bytes in UTF-8: any language, no tokenizer, cut at `--max_length` bytes.

## Predict

    python predict.py --checkpoint check_point/<date>_<time>/best.pth FILE...

takes tables with the column of texts, and other files with a text on each line (empty ones are left out); prints the class and its probability
for each text, named by file and line, and writes them to `predictions.csv`.
"""
