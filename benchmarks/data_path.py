"""Counts the images per second that reach the training loop: ours beside torchvision's usual pipelines, in turn."""

import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

ROOT = Path(__file__).parent.parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "{{cookiecutter.project_slug}}"), str(ROOT / "templates" / "modules")]

from backbones import Normalize  # noqa: E402
from engine.data import Rows, train_loader  # noqa: E402
from squares import AugmentedRows, SquareFiles  # noqa: E402

COUNT, SIZE, BATCH, ROUNDS = 20_000, 32, 128, 5
PHOTOGRAPHS = 600
MEAN, STD = [125.3, 123.0, 113.9], [63.0, 62.1, 66.7]


class Samples(Dataset[tuple[Any, int]]):
    """Images in memory that a transform takes one by one."""

    def __init__(self, images: Any, transform: Callable[[Any], Any]) -> None:
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.images[index]), 0


def transforms(*first: Any) -> Callable[[Any], Any]:
    """Crop, flip and normalise: what everyone has for CIFAR-10."""
    scale = v2.ToDtype(torch.float32, scale=True)
    mean, std = [m / 255 for m in MEAN], [s / 255 for s in STD]
    return v2.Compose([v2.RandomCrop(SIZE, 2), v2.RandomHorizontalFlip(), *first, scale, v2.Normalize(mean, std)])


def pipelines(pixels: torch.Tensor, folder: Path) -> dict[str, Iterable[Any]]:
    """Loaders of the same images, by name; each gives normalised batches."""
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    (folder / "class").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(folder / "class" / f"{number}.jpg")
    by_pil, by_tensor = transforms(v2.ToImage()), transforms()
    settings = SimpleNamespace(seed=0, shift_fraction=2 / SIZE, no_mirror=False)
    rows = Rows(pixels, torch.zeros(COUNT, dtype=torch.long), torch.arange(COUNT))
    normalize = Normalize(MEAN, STD)
    ours = train_loader(AugmentedRows(rows, settings), BATCH, seed=0, workers=0, pin=False)

    class Ours:
        def __iter__(self) -> Any:
            return ((normalize(x), y) for x, y in ours)

    def usual(dataset: Any, workers: int) -> DataLoader[Any]:
        return DataLoader(dataset, BATCH, shuffle=True, num_workers=workers)

    return {
        "**the rendered project, in memory, no worker**": Ours(),
        "torchvision ImageFolder of JPEG files": usual(ImageFolder(folder, by_pil), 0),
        "torchvision ImageFolder of JPEG files, 2 workers": usual(ImageFolder(folder, by_pil), 2),
        "torchvision on PIL images in memory": usual(Samples(pictures, by_pil), 0),
        "torchvision on PIL images in memory, 2 workers": usual(Samples(pictures, by_pil), 2),
        "torchvision v2 on tensors in memory, one by one": usual(Samples(pixels, by_tensor), 0),
    }


def photographs(folder: Path) -> dict[str, Iterable[Any]]:
    """Loaders of files that do not fit into memory: photographs of 640 x 427 pixels, brought to 224."""
    (folder / "class").mkdir()
    pictures = [Image.fromarray(image) for image in load_sample_images().images]
    paths = [folder / "class" / f"{number}.jpg" for number in range(PHOTOGRAPHS)]
    for number, path in enumerate(paths):
        pictures[number % len(pictures)].save(path, quality=90)
    settings = SimpleNamespace(seed=0, shift_fraction=0.0625, no_mirror=False)
    y, numbers = torch.zeros(PHOTOGRAPHS, dtype=torch.long), torch.arange(PHOTOGRAPHS)
    ours = AugmentedRows(Rows(SquareFiles(paths, 224), y, numbers), settings)
    change = v2.Compose([v2.Resize(224), v2.RandomCrop(224, 14), v2.RandomHorizontalFlip(), v2.ToImage()])
    theirs = ImageFolder(folder, change)
    return {
        "**the rendered project, files**": train_loader(ours, 32, seed=0, workers=0, pin=False),
        "**the rendered project, files, 2 workers**": train_loader(ours, 32, seed=0, workers=2, pin=False),
        "torchvision ImageFolder": DataLoader(theirs, 32, shuffle=True),
        "torchvision ImageFolder, 2 workers": DataLoader(theirs, 32, shuffle=True, num_workers=2),
    }


def compare(loaders: dict[str, Iterable[Any]], rounds: int) -> None:
    """Prints images per second, medians of rounds in turn, and how many times more the first's are."""
    rates: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, loader in loaders.items():
            began = perf_counter()
            seen = sum(len(x) for x, _ in loader)
            rates.setdefault(name, []).append(seen / (perf_counter() - began))
    ours, *_ = rates.values()
    print("| pipeline | images/s | the first's in times this |\n|---|---|---|")
    for name, found in rates.items():
        times = median(our / other for our, other in zip(ours, found, strict=True))
        print(f"| {name} | {median(found):,.0f} | {times:.1f} |")


def main() -> None:
    """Prints a table for small images and one for photographs."""
    torch.manual_seed(0)
    coarse = 255 * torch.rand(COUNT, 3, SIZE // 4, SIZE // 4)  # as smooth as photographs: JPEG files of usual size
    pixels = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear").byte()
    with tempfile.TemporaryDirectory() as folder:
        print(f"crop, flip and normalise, {SIZE} pixels, batches of {BATCH}, {torch.get_num_threads()} threads\n")
        compare(pipelines(pixels, Path(folder)), ROUNDS)
    with tempfile.TemporaryDirectory() as folder:
        print("\nJPEG files of 640 x 427 pixels, read, resized to 224, shifted and mirrored\n")
        compare(photographs(Path(folder)), ROUNDS)


if __name__ == "__main__":
    main()
