"""Trains every task on real files that scikit-learn and Python bring along, and prints the scores of its test set."""

import csv
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_diabetes, load_digits, load_sample_images

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conftest import render_plainly, write_config  # noqa: E402

DIGITS = load_digits()
PICTURES = [Image.fromarray((image * 15.9).astype(np.uint8)).resize((24, 24)) for image in DIGITS.images]
SPLITS = {"train": range(1, 5), "test": range(1)}  # a sample belongs to test if its number is a multiple of five


def write_table(path: Path, names: list[str], rows: Iterable[Iterable[object]]) -> None:
    """A CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])


def numbers_in(split: str) -> list[int]:
    """The numbers of the handwritten digits that belong to a split."""
    return [number for number in range(len(PICTURES)) if number % 5 in SPLITS[split]]


def image_classification(folder: Path, draw: random.Random) -> None:
    """1,797 handwritten digits."""
    for split in SPLITS:
        for number in numbers_in(split):
            path = folder / split / str(DIGITS.target[number]) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PICTURES[number].save(path)


def multilabel_classification(folder: Path, draw: random.Random) -> None:
    """One to three different digits in an image; the labels say which."""
    (folder / "images").mkdir()
    for split, count in (("train", 3000), ("test", 500)):
        rows = []
        for image in range(count):
            chosen = draw.sample(numbers_in(split), draw.randint(1, 3))
            canvas = Image.new("L", (48, 48))
            for number, corner in zip(chosen, draw.sample([(0, 0), (24, 0), (0, 24), (24, 24)], 4), strict=False):
                canvas.paste(PICTURES[number], corner)
            canvas.save(folder / "images" / f"{split}{image}.png")
            there = {int(DIGITS.target[number]) for number in chosen}
            rows.append([f"{split}{image}.png", *(int(digit in there) for digit in range(10))])
        write_table(folder / f"{split}.csv", ["file", *map(str, range(10))], rows)


def regression(folder: Path, draw: random.Random) -> None:
    """442 patients and how their diabetes went on; sex as text, a tenth of the blood pressures missing."""
    data = load_diabetes(scaled=False)
    rows = []
    for values, target in zip(data.data.tolist(), data.target.tolist(), strict=True):
        values[1] = ("one", "other")[values[1] == 1]
        values[3] = "" if draw.random() < 0.1 else values[3]
        rows.append([*values, target])
    draw.shuffle(rows)
    for split, part in (("test", rows[:88]), ("train", rows[88:])):
        write_table(folder / f"{split}.csv", [*data.feature_names, "target"], part)


def segmentation(folder: Path, draw: random.Random) -> None:
    """Digits written on pieces of two photographs, of three sizes; ink of 0 to 4 and of 5 to 9 are two classes."""
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    for split, count in (("train", 800), ("test", 150)):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for image in range(count):
            photograph, (width, height) = draw.choice(photographs), draw.choice([(72, 48), (64, 64), (50, 75)])
            left, top = draw.randrange(photograph.width - width), draw.randrange(photograph.height - height)
            canvas, mask = photograph.crop((left, top, left + width, top + height)), Image.new("L", (width, height))
            for number in draw.sample(numbers_in(split), 2):
                place = draw.randrange(width - 24), draw.randrange(height - 24)
                ink = PICTURES[number].point(lambda value: 255 * (value > 100))
                canvas.paste((255, 255, 255), place, ink)
                mask.paste(1 + int(DIGITS.target[number] > 4), place, ink)
            canvas.save(folder / split / "images" / f"{image}.jpg", quality=95)
            mask.save(folder / split / "masks" / f"{image}.png")
    (folder / "classes.txt").write_text("photograph\n0 to 4\n5 to 9\n", encoding="utf-8")


def text_classification(folder: Path, draw: random.Random) -> None:
    """Paragraphs of the documentation inside four installed packages; the class says which, its name is taken out."""
    rows = []
    for package in ("torch", "numpy", "sklearn", "email"):
        found = set()
        for path in Path(__import__(package).__file__ or "").parent.rglob("*.py"):
            for text in re.findall(r'"""(.*?)"""', path.read_text("utf-8", errors="ignore"), re.DOTALL):
                found |= {" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text)}
        good = sorted(text for text in found if 80 < len(text) < 600 and ">>>" not in text)
        names = re.compile(rf"\b({package}|scikit-learn)\b", re.IGNORECASE)
        rows += [(names.sub("it", text), package) for text in draw.sample(good, min(1000, len(good)))]
    draw.shuffle(rows)
    write_table(folder / "test.csv", ["text", "label"], rows[: len(rows) // 5])
    write_table(folder / "train.csv", ["text", "label"], rows[len(rows) // 5 :])


EPOCHS: dict[Callable[[Path, random.Random], None], int] = {
    image_classification: 10, multilabel_classification: 10, regression: 20, segmentation: 15, text_classification: 5,
}  # fmt: skip


def main() -> None:
    """Prints a row of the README's table per task."""
    print("| task | data | test scores | seconds |\n|---|---|---|---|")
    for make, epochs in EPOCHS.items():
        folder = Path(tempfile.mkdtemp())
        make(folder, random.Random(0))
        project = render_plainly(folder / "project", write_config(folder), task_type=make.__name__)
        command = [sys.executable, "-B", "train.py", "--data", str(folder), "--epochs", str(epochs)]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=project, check=True, capture_output=True, text=True)
        [line] = re.findall(r"^test of epoch .*(?:\n    .*)*", done.stdout, re.M)
        scores = ", ".join(re.split(r"\s{2,}", line)[2:])
        print(f"| {make.__name__} | {make.__doc__} | {scores} | {time.perf_counter() - began:.0f} |", flush=True)


if __name__ == "__main__":
    main()
