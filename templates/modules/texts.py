"""Texts as batches of bytes, and tables of texts whose columns have no names."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tables import Table


class Texts:
    """Texts that a tensor of their numbers, shape (B,), indexes to bytes plus one of shape (B, L), padded with 0.

    L is the length of the longest among them, `max_length` bytes at most. An empty text counts as a space.
    """

    def __init__(self, texts: Sequence[str], max_length: int) -> None:
        encoded = [(text or " ").encode() for text in texts]
        self.cut = sum(len(text) > max_length for text in encoded) / len(encoded)  # part of the texts
        encoded = [text[:max_length] for text in encoded]
        self.lengths = torch.tensor([len(text) for text in encoded])
        self.ends = self.lengths.cumsum(0)
        self.bytes = torch.frombuffer(bytearray(b"".join(encoded)), dtype=torch.uint8)

    def __getitem__(self, rows: Tensor) -> Tensor:
        lengths = self.lengths[rows].unsqueeze(1)
        columns = torch.arange(int(lengths.max()))
        places = ((self.ends[rows].unsqueeze(1) - lengths) + columns).clamp(max=len(self.bytes) - 1)
        return (self.bytes[places].long() + 1).where(columns < lengths, 0)


def has_no_names(table: Table) -> bool:
    """Whether a table's first line is a sample: it has two cells, and the one of fewer kinds comes again below."""
    if len(table.names) != 2:
        return False
    columns = [table.column(number) for number in (0, 1)]
    classes = int(len(set(columns[1])) <= len(set(columns[0])))
    return table.names[classes] in columns[classes]


def without_names(table: Table) -> Table:
    """The table with its first line as a row."""
    return Table(table.path, ["text", "text"], [table.names, *table.rows], [1, *table.lines])
