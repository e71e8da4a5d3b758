"""Texts of one class each: from tables to data set splits, for training and prediction."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from classification import check_balance, describe_classes, sampled
from config import Config
from engine.data.splits import Split, make_splits, sizes_of
from engine.runtime.errors import UserError
from engine.runtime.seeding import epoch_generator
from table_classes import find_classes, note_single_rows
from table_files import ENDINGS, ending_of, read_text
from tables import Table, as_table, find_tables, read_table, shortened, with_targets

# By split, texts, their classes and the table that they are from; then the number of the column of texts if columns
# have no names, else -1; and the part of train to hold out as test.
Found = tuple[dict[str, tuple[list[str], list[str], Table]], int, float]


def load_data(config: Config) -> tuple[dict[str, Split], dict[str, Any]]:
    """The splits train, val and, if there is one, test, and what prediction needs to know.

    Without a val split parts of train are held out, of every class, as val and as test; test never chooses the model.

    Raises:
        UserError: a text without class, one class only or nearly as many as texts, a class that train does not have.
    """
    check_balance(config)
    found, nameless, test_fraction = (make_synthetic if config.data == "synthetic" else read_tables)(config)
    names = {split: names for split, (_, names, _) in found.items()}
    tables = {split: table for split, (_, _, table) in found.items()}
    classes = sorted(find_classes(names, tables, "are --text_column and --label_column"))
    index = {name: number for number, name in enumerate(classes)}
    labels = {split: torch.tensor([index[name] for name in found]) for split, found in names.items()}
    encoded = {split: Texts(texts, config.max_length) for split, (texts, _, _) in found.items()}
    data = {split: (encoded[split], labels[split]) for split in found}
    splits = make_splits(config, data, labels, test_fraction)
    print(describe_classes(list(map(shortened, classes)), splits))
    note_single_rows(names["train"])
    empty = sum(not text for text in found["train"][0])
    cut = f"{encoded['train'].cut:.1%} are cut at {config.max_length} bytes"
    line = f"data: {sizes_of(splits)} texts in {len(classes)} classes; {cut}"
    print(line + (f", {empty:,} are empty" if empty else ""))
    meta = {"classes": classes, "text_column": config.text_column, "nameless": nameless}
    meta |= {name: getattr(config, name) for name in ("max_length", "width", "layers", "dropout")}
    return splits | {"train": sampled(splits["train"], config)}, meta


class Texts:
    """Texts that a tensor of their numbers, shape (B,), indexes to bytes plus one of shape (B, L), padded with 0.

    L is the length of the longest among them, `max_length` bytes at most. An empty text counts as a space.
    """

    in_memory = True

    def __init__(self, texts: Sequence[str], max_length: int) -> None:
        encoded = [(text or " ").encode(errors="replace") for text in texts]
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


def read_tables(config: Config) -> Found:
    """The texts and classes of one's own tables.

    Raises:
        UserError: a table that cannot be read, has no row or lacks a column.
    """
    tables = {name: read_table(path) for name, path in find_tables(config.data).items()}
    train, text_column, label_column = tables["train"], config.text_column, config.label_column
    wanted = {text_column, label_column}
    by_flag = wanted != {Config.text_column, Config.label_column}
    if wanted & set(train.names):
        nameless = False
    elif by_flag:
        nameless = wanted <= set(train.without_names().names)
    else:
        nameless = has_no_names(train)
    if nameless:
        tables = {name: table.without_names() for name, table in tables.items()}
        if not by_flag:
            variety = [len(set(tables["train"].column(number))) for number in (0, 1)]
            text_column, label_column = (
                ("column_2", "column_1") if variety[1] > variety[0] else ("column_1", "column_2")
            )
        print(f"{train.path} has no column names: texts are in {text_column}, classes in {label_column}")
    tables, test_fraction = with_targets(tables, [label_column], config.test_fraction)
    found = {}
    for name, table in tables.items():
        text = table.number(text_column, "--text_column")
        label = table.number(label_column, "--label_column")
        if not len(table):
            raise UserError(f"{table.path} has no row below its column names")
        found[name] = table.column(text), table.column(label), table
    return found, tables["train"].names.index(text_column) if nameless else -1, test_fraction


def has_no_names(table: Table) -> bool:
    """Whether a table's first line is a sample: of its two cells, that in the column of fewer values comes again."""
    if len(table.names) != 2 or not table.first[0]:
        return False
    columns = [table.column(number) for number in (0, 1)]
    classes = int(len(set(columns[1])) <= len(set(columns[0])))
    return table.first[1][classes] in columns[classes]


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
    return found, -1, 0.0


def read_inputs(inputs: Sequence[Any], meta: dict[str, Any], batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """For predict.py: batches of places (file:line) and bytes (B, L).

    Args:
        inputs: tables as files or pandas DataFrames, files with a text in each line, or arrays of texts (N,).
        meta: what `load_data` returned.
        batch_size: texts per batch.
    """
    for source in inputs:
        path = Path(source) if isinstance(source, (str, Path)) else None
        if path is None or is_table(path, meta):
            is_column = path is None and not hasattr(source, "columns")
            table = as_table(np.asarray(source, object)[:, None] if is_column else source, [meta["text_column"]])
            if meta["nameless"] >= 0 and meta["text_column"] not in table.names:
                table, number = table.without_names(), min(meta["nameless"], len(table.names) - 1)
            else:
                number = table.number(meta["text_column"], "its first line")
            texts = table.column(number)
        else:
            lines = [line.strip() for line in read_text(path).split("\n")]
            texts = [line for line in lines if line]
            table = Table(path, ["text"], [texts], [number for number, line in enumerate(lines, 1) if line])
        encoded = Texts(texts, meta["max_length"])
        for numbers in torch.arange(len(texts)).split(batch_size) if texts else []:
            yield [table.place(number) for number in numbers.tolist()], encoded[numbers]


def is_table(path: Path, meta: dict[str, Any]) -> bool:
    """Whether a file is a table, and not a text on each line; a .txt file is, if its first line names the column."""
    if ending_of(path) != ".txt":
        return ending_of(path) in ENDINGS
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    names = [name.strip('" ') for name in re.split(r"[\t;|,]", lines[0])] if lines else []
    by_tabs = meta["nameless"] >= 0 and all("\t" in line for line in lines)
    return len(names) > 1 and (by_tabs or meta["text_column"] in names)
