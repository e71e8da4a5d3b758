"""Texts of one class each: from tables to data set splits, for training and prediction."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config import Config
from engine.data.splits import Split, make_splits, sizes_of
from engine.runtime.errors import UserError
from engine.runtime.seeding import epoch_generator
from tables import Table, as_table, find_tables, read_table, read_text

Found = dict[str, tuple[list[str], list[str], Table]]  # by split, texts, their classes and the table that they are from


def load_data(config: Config) -> tuple[dict[str, Split], dict[str, Any]]:
    """The splits train, val and, if there is one, test, and what prediction needs to know.

    Without a val split a part of train is held out, `val_fraction` of every class; test never chooses the model.

    Raises:
        UserError: a text without class, one class only or nearly as many as texts, a class that train does not have.
    """
    found, nameless = (make_synthetic(config), -1) if config.data == "synthetic" else read_tables(config)
    texts, names, table = found["train"]
    classes = sorted(set(names) - {""})
    if len(classes) < 2 or len(classes) > max(20, len(texts) / 2):
        raise UserError(
            f"{table.path} has {len(classes)} classes in {len(texts)} rows ({listed(classes)}); are --text_column and "
            "--label_column right? Two classes with several rows each are the least"
        )
    index = {name: number for number, name in enumerate(classes)}
    for _, names, table in found.values():
        for row, name in enumerate(names):
            if name not in index:
                wanted = f"train has {listed(classes)}" if name else "every text needs one"
                raise UserError(f"{table.place(row)}: the class is {name!r}; {wanted}")
    labels = {split: torch.tensor([index[name] for name in names]) for split, (_, names, _) in found.items()}
    encoded = {split: Texts(texts, config.max_length) for split, (texts, _, _) in found.items()}
    data = {split: (encoded[split], labels[split]) for split in found}
    splits = make_splits(data, labels, config.val_fraction, config.seed)
    cut = encoded["train"].cut
    print(f"data: {sizes_of(splits)} texts in {len(classes)} classes; {cut:.1%} are cut at {config.max_length} bytes")
    meta = {"classes": classes, "text_column": config.text_column, "nameless": nameless}
    meta |= {name: getattr(config, name) for name in ("max_length", "width", "layers", "dropout")}
    return splits, meta


class Texts:
    """Texts that a tensor of their numbers, shape (B,), indexes to bytes plus one of shape (B, L), padded with 0.

    L is the length of the longest among them, `max_length` bytes at most. An empty text counts as a space.
    """

    in_memory = True

    def __init__(self, texts: Sequence[str], max_length: int) -> None:
        encoded = [(text or " ").encode() for text in texts]
        self.cut = sum(len(text) > max_length for text in encoded) / len(encoded)  # part of the texts
        encoded = [text[:max_length] for text in encoded]
        self.lengths = torch.tensor([len(text) for text in encoded])
        self.ends = self.lengths.cumsum(0)
        self.bytes = torch.frombuffer(bytearray(b"".join(encoded)), dtype=torch.uint8)

    def __getitem__(self, numbers: Tensor) -> Tensor:
        lengths = self.lengths[numbers].unsqueeze(1)
        columns = torch.arange(int(lengths.max()))
        places = ((self.ends[numbers].unsqueeze(1) - lengths) + columns).clamp(max=len(self.bytes) - 1)
        return (self.bytes[places].long() + 1).where(columns < lengths, 0)


def listed(names: Sequence[str]) -> str:
    """Up to five names, for a message."""
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


def read_tables(config: Config) -> tuple[Found, int]:
    """The texts and classes of one's own tables; and, if columns have no names, which has the texts, else -1.

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
    found: Found = {}
    for name, table in tables.items():
        if not nameless:
            text = table.number(config.text_column, "--text_column")
            label = table.number(config.label_column, "--label_column")
        if not table.rows:
            raise UserError(f"{table.path} has no row below its column names")
        found[name] = table.column(text), table.column(label), table
    return found, text if nameless else -1


def has_no_names(table: Table) -> bool:
    """Whether a table's first line is a sample: of its two cells, that in the column of fewer values comes again."""
    if len(table.names) != 2:
        return False
    columns = [table.column(number) for number in (0, 1)]
    classes = int(len(set(columns[1])) <= len(set(columns[0])))
    return table.names[classes] in columns[classes]


def without_names(table: Table) -> Table:
    """The table with its first line as a row."""
    return Table(table.path, ["text", "text"], [table.names, *table.rows], [1, *table.lines])


def make_synthetic(config: Config) -> Found:
    """Sentences of eight words, a few of which belong to one of four subjects: seeded, and learnt in seconds."""
    generator = epoch_generator(config.seed, 0)
    subjects = {
        "food": "bread cheese soup apple dinner", "music": "song piano choir violin concert",
        "sport": "goal team runner match medal", "weather": "rain storm sunny cloud frost",
    }  # fmt: skip
    common = ["the", "a", "and", "we", "saw", "was", "then", "very", "good", "today", "some", "of"]
    found = {}
    for split, count in {"train": 512 if config.smoke else 1024, "test": 64 if config.smoke else 256}.items():
        texts, names = [], []
        for draws in torch.rand(count, 18, generator=generator).tolist():
            name = sorted(subjects)[int(4 * draws[0])]
            words = [subjects[name].split() if about < 0.4 else common for about in draws[1:9]]
            chosen = [choice[int(len(choice) * draw)] for choice, draw in zip(words, draws[9:17], strict=True)]
            texts.append(" ".join(chosen))
            names.append(name)
        found[split] = texts, names, Table(Path("synthetic"), [], [], [])
    return found


def read_inputs(inputs: Sequence[Any], meta: dict[str, Any], batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """For predict.py: batches of places (file:line) and bytes (B, L).

    Args:
        inputs: tables as files or pandas DataFrames, files with a text in each line, or arrays of texts (N,).
        meta: what `load_data` returned.
        batch_size: texts per batch.
    """
    for source in inputs:
        path = Path(source) if isinstance(source, (str, Path)) else None
        if path is None or path.suffix.lower() in (".csv", ".tsv"):
            table = as_table(source if path or hasattr(source, "columns") else source[:, None], [meta["text_column"]])
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
        for numbers in torch.arange(len(texts)).split(batch_size) if texts else []:
            yield [table.place(number) for number in numbers.tolist()], encoded[numbers]
