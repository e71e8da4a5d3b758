"""Trains the demo on CIFAR-10 with the flags of the README and several seeds; prints the scores on its test images.

    python benchmarks/cifar10.py FOLDER [SEED...]

FOLDER has train/CLASS/* and test/CLASS/*; "cifar10" downloads the images. The test images choose nothing: the best
epoch is the one that is best on the tenth of the training images that is held out.
"""

import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conftest import render_plainly, write_config  # noqa: E402


def main(data: str, *seeds: str) -> None:
    """Prints a row per seed, and the medians."""
    folder = Path(tempfile.mkdtemp())
    project = render_plainly(folder / "project", write_config(folder), task_type="image_classification")
    readme = (project / "README.md").read_text("utf-8")
    recipe = re.search(r"^    python train.py (.*--optimizer muon.*)$", readme, re.M)
    assert recipe, "the project's README has no recipe"
    rows = []
    print(f"python train.py {recipe[1]}\n\n| seed | test accuracy | training | all |\n|---|---|---|---|")
    for seed in seeds or ("0", "1", "2"):
        where = ["--data", data if data == "cifar10" else str(Path(data).resolve()), "--seed", seed]
        began = time.perf_counter()
        command = [sys.executable, "-B", "train.py", *shlex.split(recipe[1]), *where]
        said = subprocess.run(command, cwd=project, check=True, capture_output=True, text=True).stdout
        seconds = time.perf_counter() - began
        [accuracy] = re.findall(r"^test of epoch.*\bacc ([\d.]+)", said, re.M)
        training = sum(map(float, re.findall(r"^ *\d+/\d+ .* ([\d.]+)(?: \*)?$", said, re.M)))
        rows.append((100 * float(accuracy), training, seconds))
        print(f"| {seed} | {rows[-1][0]:.2f} % | {training:.0f} s | {seconds:.0f} s |", flush=True)
    accuracy, training, seconds = map(median, zip(*rows, strict=True))
    print(f"| median | {accuracy:.2f} % | {training:.0f} s | {seconds:.0f} s |")


if __name__ == "__main__":
    main(*sys.argv[1:])
