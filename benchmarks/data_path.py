"""Counts the images per second that reach the training loop: ours beside torchvision's usual pipelines, in turn."""

import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conftest import modules_of, render_plainly, write_config  # noqa: E402
from engine.data.loaders import make_loaders  # noqa: E402
from engine.data.splits import Split  # noqa: E402

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


def our_loader(
    own: Any, x: Any, size: int, count: int, shift_fraction: float, batch: int, workers: int
) -> DataLoader[Any]:
    """The rendered project's loader of `count` training images, randomly cropped and flipped; `own` are its modules."""
    split = Split(x, torch.zeros(count, dtype=torch.long), torch.arange(count))
    config = own.config.Config(shift_fraction=shift_fraction)
    augmentation = own.augmentation.augmentation_of(config, {"image_size": size, "crop_area": 1.0})
    augmented = own.augmentation.AugmentedSplit(split, augmentation, 0)
    return make_loaders({"train": augmented, "val": split}, batch, 0, torch.device("cpu"), workers).train


def pipelines(own: Any, pixels: torch.Tensor, folder: Path) -> dict[str, Iterable[Any]]:
    """Loaders of the same images, by name; each gives normalised batches."""
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    (folder / "class").mkdir(parents=True)
    for number, picture in enumerate(pictures):
        picture.save(folder / "class" / f"{number}.jpg")
    by_pil, by_tensor = transforms(v2.ToImage()), transforms()
    normalize = own.backbones.Normalize(MEAN, STD)
    ours = our_loader(own, pixels, SIZE, COUNT, 2 / SIZE, BATCH, workers=0)

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


def photographs(own: Any, folder: Path) -> dict[str, Iterable[Any]]:
    """Loaders of files that are not kept on the disk: photographs of 640 x 427 pixels, brought to 224."""
    (folder / "class").mkdir(parents=True)
    pictures = [Image.fromarray(image) for image in load_sample_images().images]
    paths = [folder / "class" / f"{number}.jpg" for number in range(PHOTOGRAPHS)]
    for number, path in enumerate(paths):
        pictures[number % len(pictures)].save(path, quality=90)
    cropping = own.crops.Cropping(224, 1.0, "bilinear", None)
    ours = own.crops.Photographs(own.crops.ImageFiles(paths, cropping.reader()), 224)
    change = v2.Compose([v2.Resize(224), v2.RandomCrop(224, 14), v2.RandomHorizontalFlip(), v2.ToImage()])
    theirs = ImageFolder(folder, change)
    return {
        "**the rendered project, files**": our_loader(own, ours, 224, PHOTOGRAPHS, 0.0625, 32, workers=0),
        "**the rendered project, files, 2 workers**": our_loader(own, ours, 224, PHOTOGRAPHS, 0.0625, 32, workers=2),
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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        project = render_plainly(folder / "project", write_config(folder), task_type="image_classification")
        with modules_of(project) as own:
            print(f"crop, flip and normalise, {SIZE} pixels, batches of {BATCH}, {torch.get_num_threads()} threads\n")
            compare(pipelines(own, pixels, folder / "small"), ROUNDS)
            print("\nJPEG files of 640 x 427 pixels, read, resized to 224, randomly cropped and flipped\n")
            compare(photographs(own, folder / "photographs"), ROUNDS)


if __name__ == "__main__":
    main()
