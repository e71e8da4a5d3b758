"""Images of one class each: from files to data set splits, for training and prediction."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from augmentation import AugmentedSplit, augmentation_of
from backbones import image_statistics
from classification import check_balance, describe_classes, sampled
from config import Config
from crops import crop_batches, read_splits
from engine.data.splits import Split, make_splits, sizes_of
from engine.distributed.process_group import rank_0_first
from engine.runtime.errors import UserError
from engine.runtime.seeding import epoch_generator
from image_files import find_images, note_shared_files, split_folders, visible_folders

# By split, image files, or images in memory (N, 3, S, S); by split, class indices (N,); and the names of the classes.
Found = tuple[dict[str, Any], dict[str, Tensor], list[str]]


def load_data(config: Config) -> tuple[dict[str, Split], dict[str, Any]]:
    """The splits train, val and, if there is one, test, and what prediction needs to know.

    Without a val split a part of train is held out, `val_fraction` of every class; test never chooses the model.
    """
    check_balance(config)
    found, labels, classes = SOURCES.get(config.data, read_folder)(config)
    images, meta = read_splits(found, config)
    meta |= {"classes": classes}
    pairs = {name: (images[name], labels[name]) for name in images}
    splits = make_splits(config, pairs, labels)
    meta |= image_statistics(splits["train"]) if meta["backbone"] == "small" else {}
    print(f"data: {sizes_of(splits)} images of {meta['image_size']} pixels in {len(meta['classes'])} classes")
    print(describe_classes(meta["classes"], splits))
    train = sampled(splits["train"], config)
    return splits | {"train": AugmentedSplit(train, augmentation_of(config, meta), config.seed)}, meta


def read_folder(config: Config) -> Found:
    """A folder of one's own: train/CLASS/*, and val/CLASS/* or test/CLASS/* or both; or CLASS/* alone.

    Splits may have the names in SPLIT_NAMES of engine/data/splits.py, in any case.

    Raises:
        UserError: no such folder, fewer than two classes, a split without images, a class that train does not have.
    """
    root = Path(config.data)
    if not root.is_dir():
        raise UserError(
            f"--data {root} is no folder; give one with images in CLASS/* or train/CLASS/*, or {' or '.join(SOURCES)}"
        )
    folders = split_folders(root)
    files = {name: find_images(folder) for name, folder in folders.items()}
    for name, paths in files.items():
        if loose := next((path for path in paths if path.parent == folders[name]), None):
            raise UserError(f"{loose} is in no CLASS folder; move it into one")
    names = {name: [path.relative_to(folders[name]).parts[0] for path in paths] for name, paths in files.items()}
    classes = sorted(set(names["train"]))
    if len(classes) < 2:
        inner = folders["train"] / "".join(classes)
        hint = f"; is --data {inner} meant?" if classes and len(visible_folders(inner)) > 1 else ""
        raise UserError(f"{folders['train']} has images in {len(classes)} CLASS folders; two are the least{hint}")
    for name, used in names.items():
        if not used or set(used) - set(classes):
            unknown = f"the unknown class {min(set(used) - set(classes))!r}" if used else "no images"
            raise UserError(f"{folders[name]} has {unknown}; it needs images in the folders that train has")
    if empty := [path.name for path in visible_folders(folders["train"]) if path.name not in classes]:
        print(f"note: no images are in {', '.join(empty)}, which are no classes therefore")
    note_shared_files(files)
    index = {name: number for number, name in enumerate(classes)}
    return files, {name: torch.tensor([index[n] for n in used]) for name, used in names.items()}, classes


def read_cifar10(config: Config) -> Found:
    """CIFAR-10 (Krizhevsky 2009), downloaded into data_dir once; a UserError if that fails."""
    from torchvision.datasets import CIFAR10  # here, since its import takes as long as torch's and only this needs it

    try:
        with rank_0_first():
            parts = {name: CIFAR10(config.data_dir, name == "train", download=True) for name in ("train", "test")}
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"CIFAR-10 is not in {config.data_dir!r} and cannot be downloaded ({error}); connect to the internet, "
            "or give --data FOLDER with images of your own, or --data synthetic"
        ) from error
    images = {name: torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for name, part in parts.items()}
    return images, {name: torch.tensor(part.targets) for name, part in parts.items()}, parts["train"].classes


def make_synthetic(config: Config) -> Found:
    """Ten kinds of stripes with noise, two directions of five widths each: seeded, and learnt in seconds."""
    generator = epoch_generator(config.seed, 0)
    ramp = torch.linspace(0, 2 * torch.pi, config.image_size or 32)
    images, labels = {}, {}
    for name, count in {"train": 256 if config.smoke else 2048, "test": 64 if config.smoke else 256}.items():
        labels[name] = torch.arange(count) % 10
        phase = 2 * torch.pi * torch.rand(count, 1, 1, 1, generator=generator)
        stripes = (ramp * (1 + labels[name] // 2).view(-1, 1, 1, 1) + phase).sin().expand(-1, 3, len(ramp), -1)
        stripes = torch.where((labels[name] % 2 == 0).view(-1, 1, 1, 1), stripes, stripes.mT)
        noise = torch.randn(stripes.shape, generator=generator)
        images[name] = (128 + 60 * stripes + 40 * noise).clamp(0, 255).byte()
    return images, labels, [f"{1 + number // 2} {('vertical', 'horizontal')[number % 2]}" for number in range(10)]


SOURCES = {"cifar10": read_cifar10, "synthetic": make_synthetic}


def read_inputs(inputs: Sequence[Any], meta: dict[str, Any], batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """For predict.py: batches of names and images (B, 3, S, S), from files, folders and arrays."""
    return crop_batches(inputs, meta, batch_size)
