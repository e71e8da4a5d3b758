"""A few images of each class: pretrained and fine-tuned, pretrained with a frozen backbone, and from scratch.

    python benchmarks/few_images.py FOLDER

FOLDER holds train/CLASS/* and test/CLASS/*, such as CIFAR-10 as files. Each run of the rendered project trains on
so many images of each class, drawn by the seed, and is evaluated on the first images of test; the score is that of
its last epoch. Then a network is trained on all classes but the last two, and from its best.pth another one on these,
beside one that starts from ImageNet weights.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from time import perf_counter

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conftest import render_plainly, write_config  # noqa: E402
from fine_tuning import accuracies  # noqa: E402

PRETRAINED = ["--backbone", "tf_efficientnet_lite0"]
WAYS = {
    "fine-tuned": PRETRAINED,
    "frozen backbone": [*PRETRAINED, "--freeze", "stem", "body"],
    "from scratch": ["--backbone", "small", "--epochs", "40"],
}
EVALUATED = 50  # images of each class
NEW_CLASSES = 2  # on which a network goes on that was trained on the others


def chosen(data: Path, target: Path, classes: Sequence[str], per_class: int, seed: int) -> Path:
    """A folder with train/CLASS/* and val/CLASS/* of some classes, as links."""
    for name in classes:
        for split, source, count in (("train", "train", per_class), ("val", "test", EVALUATED)):
            files = sorted((data / source / name).iterdir())
            files = random.Random(seed).sample(files, count) if split == "train" else files[:count]
            (target / split / name).mkdir(parents=True)
            for file in files:
                (target / split / name / file.name).symlink_to(file)
    return target


def main() -> None:
    """Prints a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per_class", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    data, folder = arguments.folder.resolve(), Path(tempfile.mkdtemp())
    project = render_plainly(folder, write_config(folder), task_type="image_classification")
    classes = sorted(path.name for path in (data / "train").iterdir())
    found: dict[tuple[int, str], list[tuple[float, float]]] = {}

    def measure(row: tuple[int, str], images: Path, seed: int, flags: Sequence[str]) -> Path:
        """Adds a run to its row; the folder of its run."""
        runs, began = folder / f"runs{len(list(folder.glob('runs*')))}", perf_counter()
        scores = accuracies(project, images, seed, "--ckpt_dir", str(runs), *flags)
        found.setdefault(row, []).append((scores[-1], perf_counter() - began))
        [run] = runs.iterdir()
        return run

    for per_class in arguments.per_class:
        for seed in range(arguments.seeds):
            place = folder / f"{per_class} {seed}"
            images = chosen(data, place / "all", classes, per_class, seed)
            for way, flags in WAYS.items():
                measure((per_class, way), images, seed, flags)
            old = chosen(data, place / "old", classes[:-NEW_CLASSES], per_class, seed)
            new = chosen(data, place / "new", classes[-NEW_CLASSES:], per_class, seed)
            run = measure((per_class, f"the first {len(classes) - NEW_CLASSES} classes"), old, seed, PRETRAINED)
            last = f"the last {NEW_CLASSES} classes"
            measure((per_class, f"{last}, from ImageNet weights"), new, seed, PRETRAINED)
            own = [*PRETRAINED, "--weights", str(run / "best.pth")]
            measure((per_class, f"{last}, from the best.pth of the others"), new, seed, own)
    print("| images of a class | way | accuracy by seed | mean | seconds |\n|---|---|---|---|---|")
    for (per_class, way), runs in found.items():
        scores = [score for score, _ in runs]
        shown = ", ".join(f"{score:.4f}" for score in scores)
        print(f"| {per_class} | {way} | {shown} | {mean(scores):.4f} | {mean([seconds for _, seconds in runs]):.0f} |")


if __name__ == "__main__":
    main()
