"""Counts the images per second of random resized crops: torchvision's ImageFolder beside decoded images on the disk.

    python benchmarks/photographs.py FOLDER

FOLDER has photographs in folders. Both give crops of 224 x 224 pixels, flipped at random, in batches of 32, in turn;
with worker processes, their start counts in every epoch.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from os import devnull
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import conftest  # noqa: E402, F401 (finds what follows)
from engine.data.workers import Loader  # noqa: E402
from image_cache import CachedImages, ScaledReader, cached_images  # noqa: E402
from random_crops import boxes_in, draw_numbers, random_resized_crops  # noqa: E402

SIDE, SIZE, BATCH = 256, 224, 32
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
WORKERS = (0, 2)
THEIRS, OURS, OURS_IN_FLOATS = "torchvision ImageFolder", "**decoded once**", "decoded once, floats as of ToTensor"

T = TypeVar("T")


class Crops(Dataset[Tensor]):
    """Random crops of decoded images, other ones in every epoch.

    Args:
        images: as a cache has them.
        repeat: how often an epoch has each of them.
        floats: whether crops are floats from 0 to 1, as ToTensor makes them, or uint8, as a network takes them here.
    """

    def __init__(self, images: CachedImages, repeat: int, floats: bool) -> None:
        self.images = images
        self.sizes = images.sizes.repeat(repeat, 1)
        self.floats = floats
        self.epoch = 0

    def draw(self) -> None:
        """Draws the boxes and flips of another epoch."""
        self.epoch += 1
        generator = torch.Generator().manual_seed(self.epoch)
        self.boxes = boxes_in(self.sizes, draw_numbers(len(self.sizes), generator), SCALE)
        self.flipped = torch.rand(len(self), generator=generator) < 0.5

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitems__(self, positions: list[int]) -> Tensor:
        images = [self.images[position % len(self.images)] for position in positions]
        crops = random_resized_crops(images, self.boxes[positions], SIZE, self.flipped[positions])
        return crops.float().div_(255) if self.floats else crops


def already_a_batch(batch: Tensor) -> Tensor:
    """Nothing is left to be collated."""
    return batch


def decoded(paths: list[Path], folder: Path, workers: int) -> CachedImages:
    """The images of these files by way of a cache in the folder, without its lines."""
    read = ScaledReader(SIDE)
    with open(devnull, "w") as nowhere, redirect_stdout(nowhere):
        images = cached_images(paths, read, asdict(read), folder, 1000, workers)
    if images is None:
        sys.exit(f"{folder} has no room for the decoded images; set TMPDIR")
    return images


def epoch_of(crops: Crops, workers: int) -> None:
    """Loads every batch of an epoch."""
    crops.draw()
    for _ in Loader(crops, BATCH, shuffle=True, num_workers=workers, collate_fn=already_a_batch):
        pass


def torchvision_epoch_of(folder: ImageFolder, workers: int) -> None:
    """The same."""
    for _ in DataLoader(folder, BATCH, shuffle=True, num_workers=workers):
        pass


def measure(folder: ImageFolder, paths: list[Path], repeat: int, root: Path, workers: int) -> dict[str, float]:
    """Seconds of what is compared, one after the other; nothing is decoded in `root` yet."""
    found: dict[str, float] = {}

    def time(name: str, function: Callable[[], T]) -> T:
        began = perf_counter()
        result = function()
        found[name] = perf_counter() - began
        return result

    time(THEIRS, lambda: torchvision_epoch_of(folder, workers))
    images = time("decode", lambda: decoded(paths, root, workers))
    time("first", lambda: epoch_of(Crops(images, repeat, False), workers))
    time("open", lambda: decoded(paths, root, workers))
    time(OURS, lambda: epoch_of(Crops(images, repeat, False), workers))
    time(OURS_IN_FLOATS, lambda: epoch_of(Crops(images, repeat, True), workers))
    return found


def main() -> None:
    """Prints images per second, medians of rounds in turn, and what the first epoch takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=1, help="how often an epoch has each photograph")
    options = parser.parse_args()
    change = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    folder = ImageFolder(str(options.folder), transforms.Compose(change))
    paths = [Path(name) for name, _ in folder.samples]
    folder.samples = folder.samples * options.repeat
    found: dict[int, list[dict[str, float]]] = {workers: [] for workers in WORKERS}
    for _ in range(options.rounds):
        for workers, rounds in found.items():
            with tempfile.TemporaryDirectory() as root:
                rounds.append(measure(folder, paths, options.repeat, Path(root), workers))
    print(f"{len(folder):,} photographs, {torch.get_num_threads()} threads\n")
    print(f"| crop, resize to {SIZE} and flip | workers | images/s | in times ImageFolder's |\n|---|---|---|---|")
    for workers, rounds in found.items():
        for name in (THEIRS, OURS, OURS_IN_FLOATS):
            times = median(seconds[THEIRS] / seconds[name] for seconds in rounds)
            rate = len(folder) / median(seconds[name] for seconds in rounds)
            print(f"| {name} | {workers} | {rate:,.0f} | {times:.1f} |")
    for workers, rounds in found.items():
        decode, first, theirs, opened = (
            median(seconds[name] for seconds in rounds) for name in ("decode", "first", THEIRS, "open")
        )
        print(
            f"\nWith {workers} workers the photographs are decoded in {decode:.2f} s, and the first epoch takes "
            f"{first:.2f} s: together {(decode + first) / theirs:.2f} times an epoch of ImageFolder. Another run has "
            f"them after {1000 * opened:.0f} ms."
        )


if __name__ == "__main__":
    main()
