"""What a run prints: how it starts, a progress bar, a row per epoch, how it ended. log.txt: engine/logger.py."""

import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ..distributed.process_group import is_rank_0


def start_lines(model_list: Sequence[nn.Module], device: torch.device, precision: str) -> str:
    """Where and how a run computes and, in a second line, the number of parameters of each part."""
    weights = [list(model.parameters()) for model in model_list]
    filters = [p for part in weights for p in part if p.dim() == 4]
    last = any(p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in filters)
    threads = f", threads {torch.get_num_threads()}" if device.type == "cpu" else ""
    parts = " + ".join(f"{sum(p.numel() for p in part):,}" for part in weights)
    layout = ", channels last" if last else ""
    return f"device {device}{threads}, precision {precision}{layout}\nparameters {parts}"


def progress(what: str, total: int, done: int = 0) -> Any:
    """A bar of `total` steps, `done` of them made, on the terminal's stderr; none in a pipe, a notebook or log.txt."""
    terminal = sys.__stderr__
    # In a notebook the real stderr may be the terminal of its server, but what replaces it is none.
    quiet = terminal is None or not (terminal.isatty() and sys.stderr.isatty()) or not is_rank_0()
    layout = "{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}"
    return tqdm(
        total=total, initial=done, desc=what, file=terminal, disable=quiet, leave=False, dynamic_ncols=True,
        bar_format=layout,
    )  # fmt: skip


def bar_status(loss: float, lrs: Mapping[str, float], samples_per_second: float) -> str:
    """What is written behind a bar."""
    return f"loss {loss:.4f}, lr {first_lr(lrs)}, {samples_per_second:,.0f} samples/s"


def first_lr(lrs: Mapping[str, float]) -> str:
    """The learning rate of the first part; with two dots if others have another."""
    first, *others = dict.fromkeys(f"{lr:.3g}" for lr in lrs.values())
    return f"{first}.." if others else first


def cell(value: float) -> str:
    """A number in seven characters, eight if it is large and negative."""
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.5g}" if abs(value) < 1e5 else f"{value:.1e}"


class EpochTable:
    """A row for each epoch, with a star if it is the best so far, below a header if the columns are new.

    What is wider than 80 characters has names cut to eight, and then the last scores are left out, not the key metric.
    """

    WIDTH = 78  # a star follows

    def __init__(self) -> None:
        self.columns: list[str] = []

    def print_row(
        self, epoch: int, epochs: int, train_loss: float, scores: Mapping[str, float], key_metric: str,
        lrs: Mapping[str, float], seconds: float, best: bool,
    ) -> None:  # fmt: skip
        """The row of an epoch; `lrs` are the learning rates of the update that follows it."""
        values = {"train loss": train_loss, "eval loss": scores["loss"]}
        values |= {name: value for name, value in scores.items() if name != "loss"}
        cells = {name: cell(v) for name, v in values.items()}
        cells = {"epoch": f"{epoch}/{epochs}"} | cells | {"next lr": first_lr(lrs), "seconds": f"{seconds:.1f}"}
        least = {"epoch": 2 * len(str(epochs)) + 1, "next lr": 8}
        widths = {name: max(len(name), least.get(name, 7)) for name in cells}
        optional = [name for name in scores if name not in ("loss", key_metric)]
        if self._excess(widths):
            widths |= {name: min(widths[name], 8) for name in scores if name != "loss"}
        while optional and self._excess(widths):
            del widths[optional.pop()]
        if self.columns != list(widths):
            self.columns = list(widths)
            print("  ".join(name[:width].rjust(width) for name, width in widths.items()))
        row = "  ".join(cells[name].rjust(width) for name, width in widths.items())
        print(row + (" *" if best else ""))

    def _excess(self, widths: Mapping[str, int]) -> bool:
        """Whether columns of these widths, two spaces apart, are too wide."""
        return sum(widths.values()) + 2 * (len(widths) - 1) > self.WIDTH


class Speed:
    """Samples per second since it was last read."""

    def __init__(self) -> None:
        self.samples = 0
        self.began = time.perf_counter()

    def read(self) -> float:
        """The speed; counting starts again."""
        now = time.perf_counter()
        speed = self.samples / max(now - self.began, 1e-9)
        self.samples, self.began = 0, now
        return speed


def duration(seconds: float) -> str:
    """Seconds as a person would say them: "3.2 s", "4 min 10 s"."""
    minutes, rest = divmod(round(seconds), 60)
    long = f"{minutes // 60} h {minutes % 60} min {rest} s".removeprefix("0 h ")
    return f"{seconds:.1f} s" if seconds < 60 else long


def end_lines(run_dir: Path, seconds: float) -> str:
    """How long a run took since it was started or resumed, where its files are, and how to look at its curves."""
    return f"time {duration(seconds)}, files {run_dir}\ncurves: python -m tensorboard.main --logdir {run_dir.parent}"


def score_line(what: str, scores: Mapping[str, float]) -> str:
    """What the scores are of, and these; in more lines than one if they need it, each name beside its value."""
    pairs = "  ".join(f"{name}\u00a0{value:.4f}" for name, value in scores.items())  # no line ends at such a space
    return wrapped(f"{what}  {pairs}").replace("\u00a0", " ")


def smoke_line(losses: Sequence[float], seconds: float) -> str:
    """What a smoke epoch prints at its end: first and last loss, and seconds."""
    return f"smoke epoch: loss {losses[0]:.4f} -> {losses[-1]:.4f} in {seconds:.1f} s"


def wrapped(line: str) -> str:
    """A long line as lines of up to 79 characters, the further ones indented; words and names stay whole."""
    return textwrap.fill(line, 79, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def as_text(value: Any) -> str:
    """A value of a table as text; a float has six digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def columns_to_print(rows: Sequence[Mapping[str, Any]], width: int = 79, least: int = 3) -> list[str]:
    """All columns of a table if they fit into a line of that many characters, else the first three."""
    widths = [max(len(name), *(len(as_text(row[name])) for row in rows)) for name in rows[0]]
    return list(rows[0])[: None if sum(widths) + 2 * (len(widths) - 1) <= width else least]


def leading_columns(rows: Sequence[Mapping[str, str]], width: int = 79) -> list[str]:
    """As many of the first columns of a table as fit into a line of that many characters."""
    widths = [max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]]
    ends = accumulate(widths, lambda end, more: end + 2 + more)
    return [name for name, end in zip(rows[0], ends, strict=True) if end <= width]


def print_table(rows: Sequence[Mapping[str, Any]], header: bool = True) -> None:
    """Prints rows of values by column, each as wide as its widest value."""
    lines = [list(rows[0])] * header + [[as_text(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
