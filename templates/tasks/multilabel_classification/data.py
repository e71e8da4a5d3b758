"""Images with any number of labels each: from files to data set splits, for training and prediction."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augmentation import AugmentedSplit, augmentation_of
from backbones import image_statistics
from cells import read_booleans
from config import Config
from crops import crop_batches, read_splits
from engine.data.splits import Split, make_splits, sizes_of
from engine.monitor.console import wrapped
from engine.runtime.errors import UserError
from engine.runtime.seeding import epoch_generator
from image_files import note_shared_files
from tables import Table, find_tables, read_table, with_targets

# By split, image files, or images in memory (N, 3, S, S); by split, labels (N, L), 0.0 or 1.0; the names of the labels;
# and the part to hold out as test.
Found = tuple[dict[str, Any], dict[str, Tensor], list[str], float]


def load_data(config: Config) -> tuple[dict[str, Split], dict[str, Any]]:
    """The splits train, val and, if there is one, test, and what prediction needs to know.

    Without a val split parts of train are held out, of the images of every label, as val and as test; test never
    chooses the model.
    """
    found, y, labels, test_fraction = make_synthetic(config) if config.data == "synthetic" else read_folder(config)
    images, meta = read_splits(found, config)
    meta |= {"labels": labels}
    pairs = {name: (images[name], y[name]) for name in images}
    strata = {name: rarest_label(of_split) for name, of_split in y.items()}
    splits = make_splits(config, pairs, strata, test_fraction)
    for name, split in splits.items():
        for label, count in zip(meta["labels"], split.y[split.indices].sum(0).tolist(), strict=True):
            if not count:
                print(f"note: no image of {name} has the label {label!r}")
    meta |= image_statistics(splits["train"]) if meta["backbone"] == "small" else {}
    counts = {name: int(count) for name, count in zip(labels, y["train"].sum(0), strict=True)}
    print(f"data: {sizes_of(splits)} images of {meta['image_size']} pixels with {len(counts)} labels")
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    print(wrapped(f"labels of all training images: {listed}"))
    return splits | {"train": AugmentedSplit(splits["train"], augmentation_of(config, meta), config.seed)}, meta


def rarest_label(y: Tensor) -> Tensor:
    """For each row of labels (N, L) the number of its rarest label, L if it has none: the stratum to hold out from."""
    frequency = y.sum(0).where(y > 0, float("inf"))
    return frequency.argmin(1).where(y.any(1), y.shape[1])


def read_folder(config: Config) -> Found:
    """A folder of one's own with images/ and labels.csv, or instead of it train.csv, and val.csv or test.csv or both.

    Raises:
        UserError: no table, an image that does not exist, a label that is neither 0 nor 1, other labels than train's.
    """
    tables = {name: read_table(path) for name, path in find_tables(config.data, "labels").items()}
    labels = tables["train"].names[1:]
    tables, test_fraction = with_targets(tables, labels, config.test_fraction)
    files: dict[str, list[Path]] = {}
    places: dict[Path, str] = {}
    for name, table in tables.items():
        if not labels or set(labels) != set(table.names[1:]) or not len(table):
            wanted = labels or "each label"
            raise UserError(f"{table.path} needs a row for each image: its file, then 0 or 1 for {wanted}")
        files[name] = [table.path.parent / "images" / cell for cell in table.column(0)]
        for row, file in enumerate(files[name]):
            if not file.is_file():
                raise UserError(f"{table.place(row)}: {file} does not exist")
            if places.setdefault(file, table.place(row)) != table.place(row):
                raise UserError(f"{table.place(row)}: {file.name} is in {places[file]} already; an image has one row")
    targets = {name: read_labels(table, labels) for name, table in tables.items()}
    note_shared_files(files)
    return files, targets, labels, test_fraction


def read_labels(table: Table, labels: list[str]) -> Tensor:
    """The labels of every row, 0.0 or 1.0, shape (N, L); a UserError names the first cell that is something else."""
    columns = [table.columns[table.number(label, "its first line")] for label in labels]
    targets = np.stack([read_booleans(cells) for cells in columns], 1)
    for row, number in np.argwhere(np.isnan(targets))[:1].tolist():
        cell = table.column(table.names.index(labels[number]))[row]
        raise UserError(f"{table.place(row)}: {labels[number]!r} is {cell!r}; a label is 0 or 1, or True or False")
    return torch.from_numpy(targets).float()


def make_synthetic(config: Config) -> Found:
    """Five labels, each a grating of its own direction and width with noise: seeded, and learnt in seconds."""
    generator = epoch_generator(config.seed, 0)
    size = config.image_size or 32
    down, right = torch.meshgrid(*[torch.linspace(0, 2 * torch.pi, size)] * 2, indexing="ij")
    waves = torch.stack([2 * down, 3 * right, 3 * (down + right), 6 * down, 6 * right])
    images: dict[str, Any] = {}
    targets: dict[str, Tensor] = {}
    for name, count in {"train": 256 if config.smoke else 2048, "test": 64 if config.smoke else 256}.items():
        targets[name] = (torch.rand(count, len(waves), generator=generator) < 0.3).float()
        phase = 2 * torch.pi * torch.rand(count, len(waves), 1, 1, generator=generator)
        pattern = (targets[name].view(count, -1, 1, 1) * (waves + phase).sin()).sum(1, keepdim=True)
        noise = torch.randn(count, 3, size, size, generator=generator)
        images[name] = (128 + 40 * pattern + 30 * noise).clamp(0, 255).byte()
    names = ["coarse horizontal", "coarse vertical", "diagonal", "fine horizontal", "fine vertical"]
    return images, targets, names, 0.0


def read_inputs(inputs: Sequence[Any], meta: dict[str, Any], batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """For predict.py: batches of names and images (B, 3, S, S), from files, folders and arrays."""
    return crop_batches(inputs, meta, batch_size)
