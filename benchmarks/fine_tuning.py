"""Photographs: the rendered project's default answers beside what a careful person writes with timm and scikit-learn.

    python benchmarks/fine_tuning.py FOLDER

FOLDER holds train/CLASS/* and val/CLASS/*. In turn, for each seed: a project with the default answers; timm's features
of the same network with logistic regression; and the fine-tuning of PyTorch's tutorial on transfer learning (SGD with
momentum 0.9, learning rate 0.001, a tenth after 7 epochs, batches of 4, random resized crops, flips) on that network.
The tutorial's 25 epochs take long: `--tutorial_epochs` says how many, 0 leaves it out.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conftest import modules_of, render_plainly, write_config  # noqa: E402

NAME = "tf_efficientnet_lite0"
NORMALIZE = transforms.Normalize([0.5] * 3, [0.5] * 3)
TO_EVALUATE = transforms.Compose(
    [
        transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        NORMALIZE,
    ]
)
TO_TRAIN = transforms.Compose(
    [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor(), NORMALIZE]
)


def accuracies(project: Path, data: Path, seed: int, *flags: str) -> list[float]:
    """The accuracy of every epoch of a run of the rendered project."""
    command = [sys.executable, "-B", "train.py", "--data", str(data), "--seed", str(seed), "--pictures", "none", *flags]
    said = subprocess.run(command, cwd=project, check=True, capture_output=True, text=True).stdout
    header, *rows = re.findall(r"^ *(?:epoch|\d+/\d+) .*$", said, re.MULTILINE)
    column = header.replace("train loss", "train").replace("eval loss", "eval").split().index("acc")
    return [float(row.split()[column]) for row in rows]


def ours(project: Path, data: Path, seed: int) -> dict[str, float]:
    """The accuracy of the best epoch, and of the last one, with the default answers."""
    scores = accuracies(project, data, seed)
    return {"ours, best epoch": max(scores), "ours, last epoch": scores[-1]}


def batches(data: Path, split: str, change: Callable[[Any], Any], size: int, shuffle: bool) -> DataLoader[Any]:
    """A loader of a split."""
    return DataLoader(ImageFolder(data / split, change), size, shuffle=shuffle, num_workers=2)


def features(network: nn.Module, data: Path, split: str) -> tuple[Tensor, Tensor]:
    """The features of a split, (N, F), and its classes."""
    with torch.inference_mode():
        found = [(network(x), y) for x, y in batches(data, split, TO_EVALUATE, 32, shuffle=False)]
    x, y = zip(*found, strict=True)
    return torch.cat(x), torch.cat(y)


def frozen(network: nn.Module, data: Path) -> dict[str, float]:
    """The accuracy of logistic regression on frozen features."""
    x, y = features(network.eval(), data, "train")
    score = LogisticRegression(max_iter=2000).fit(x, y).score(*features(network, data, "val"))
    return {"frozen features, logistic regression": float(score)}


def tutorial(network: nn.Module, data: Path, epochs: int, seed: int) -> dict[str, float]:
    """The accuracy of the best epoch of the tutorial's fine-tuning."""
    torch.manual_seed(seed)
    train, val = batches(data, "train", TO_TRAIN, 4, shuffle=True), batches(data, "val", TO_EVALUATE, 32, shuffle=False)
    classes = len(ImageFolder(data / "train").classes)
    model = nn.Sequential(network, nn.Linear(network.num_features, classes))  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 7)
    scores = []
    for _ in range(epochs):
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
        model.eval()
        with torch.inference_mode():
            hits = [(model(x).argmax(1) == y).float() for x, y in val]
        scores.append(torch.cat(hits).mean().item())
    return {f"tutorial, {epochs} epochs, best epoch": max(scores)}


def main() -> None:
    """Prints a row for each way: accuracy of each seed, mean, and seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tutorial_epochs", type=int, default=25)
    arguments = parser.parse_args()
    data, folder = arguments.folder.resolve(), Path(tempfile.mkdtemp())
    project = render_plainly(folder, write_config(folder), task_type="image_classification")
    with modules_of(project) as own:

        def network() -> nn.Module:
            built: nn.Module = own.pretrained.build_timm(NAME, own.pretrained.package_file(NAME), num_classes=0)
            return built

        found: dict[str, list[tuple[float, float]]] = {}
        for seed in range(arguments.seeds):
            ways: list[Callable[[], dict[str, float]]] = [
                partial(ours, project, data, seed),
                partial(frozen, network(), data),
            ]
            if arguments.tutorial_epochs:
                ways.append(partial(tutorial, network(), data, arguments.tutorial_epochs, seed))
            for run in ways:
                began = time.perf_counter()
                scores = run()
                for way, score in scores.items():
                    found.setdefault(way, []).append((score, time.perf_counter() - began))
    print("| way | accuracy by seed | mean | seconds |\n|---|---|---|---|")
    for name, runs in found.items():
        accuracies = [accuracy for accuracy, _ in runs]
        shown = ", ".join(f"{accuracy:.4f}" for accuracy in accuracies)
        print(f"| {name} | {shown} | {mean(accuracies):.4f} | {mean([seconds for _, seconds in runs]):.0f} |")


if __name__ == "__main__":
    main()
