"""Times generation: rendering, the hooks without a smoke epoch, all combinations rendered and linted, and trained.

With `--old FOLDER`, a checkout of another version of this template, it instead times the rendering and linting of all
combinations of both versions in turn.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

ROOT = Path(os.environ.get("TEMPLATE", Path(__file__).parent.parent))  # the checkout that is measured
sys.path.insert(0, str(ROOT / "tests"))

from conftest import COMBINATIONS, render_plainly, render_project, ruff, write_config  # noqa: E402
from scripts import run_script  # noqa: E402

ROUNDS = 3  # of both versions in turn
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def render_combination(folder: Path, config: Path, number: int) -> Path:
    """Renders the combination of that number as the tests do."""
    return render_project(folder / str(number), config, **COMBINATIONS[number])


def render_and_lint(folder: Path, config: Path) -> list[Path]:
    """Renders all combinations; an error where ruff is not content."""
    count = len(COMBINATIONS)
    with ProcessPoolExecutor(CORES) as pool:
        projects = list(pool.map(render_combination, [folder] * count, [config] * count, range(count)))
    clean, said = ruff(projects)
    if not clean:
        raise RuntimeError(said)
    return projects


def compare(old: Path) -> None:
    """Prints the seconds of both versions, medians of rounds in turn, and of the ratios within each round."""
    roots = {"this version": ROOT, str(old): old}
    rounds = []
    for _ in range(ROUNDS):
        found = {}
        for name, root in roots.items():
            call = [sys.executable, __file__, "--lint"]
            done = subprocess.run(call, env=os.environ | {"TEMPLATE": str(root)}, check=True, stdout=subprocess.PIPE)
            found[name] = float(done.stdout)
        rounds.append(found)
    for name in roots:
        ratio = median(found[name] / found[str(old)] for found in rounds)
        print(f"| render and lint all, {name} | {median(found[name] for found in rounds):.1f} s, {ratio:.2f} |")


def train(project: Path) -> None:
    """Trains a small epoch as the tests do."""
    status, output = run_script(project, ["train.py", "--smoke"], project.with_suffix(".txt"))
    if status:
        raise RuntimeError(output)


def main() -> None:
    """Prints a line per figure."""
    folder = Path(tempfile.mkdtemp())
    config = write_config(folder)
    numbers = (folder / str(number) for number in itertools.count())
    render_plainly(next(numbers), config)  # imports and file caches

    plain = median(seconds(lambda: render_plainly(next(numbers), config)) for _ in range(9))
    with open(os.devnull, "w") as nowhere:
        keep, null = os.dup(1), nowhere.fileno()
        os.dup2(null, 1)
        hooked = median(
            seconds(lambda: render_plainly(next(numbers), config, True, smoke_epoch="skip")) for _ in range(9)
        )
        os.dup2(keep, 1)
    print(f"| render one project, hooks off | {plain:.3f} s |")
    print(f"| what the hooks add without a smoke epoch | {hooked - plain:.3f} s |")

    began = time.perf_counter()
    projects = render_and_lint(folder / "all", config)
    rendered = time.perf_counter() - began
    print(f"| render and lint all {len(COMBINATIONS)} combinations, {CORES} at a time | {rendered:.1f} s |")

    def train_all() -> None:
        with ProcessPoolExecutor(CORES) as pool:
            list(pool.map(train, projects))

    trained = seconds(train_all)
    print(f"| train all {len(COMBINATIONS)} for a small epoch, {CORES} at a time | {trained:.1f} s |")

    one = [sys.executable, "-B", "train.py", "--smoke"]
    alone = median(
        seconds(lambda: subprocess.run(one, cwd=projects[0], check=True, capture_output=True)) for _ in range(5)
    )
    torch = median(seconds(lambda: subprocess.run([sys.executable, "-c", "import torch"])) for _ in range(5))
    print(f"| `train.py --smoke`, process start to exit | {alone:.1f} s, {alone / torch:.2f} times `import torch` |")
    command = [sys.executable, "-B", "train.py", "--help"]
    helped = median(seconds(lambda: subprocess.run(command, cwd=projects[0], capture_output=True)) for _ in range(5))
    print(f"| `train.py --help` | {helped:.2f} s |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, metavar="FOLDER", help="a checkout of another version of this template")
    parser.add_argument("--lint", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.lint:
        with tempfile.TemporaryDirectory() as name:
            config = write_config(Path(name))
            print(seconds(lambda: render_and_lint(Path(name, "all"), config)))
    else:
        print("| | |\n|---|---|")
        if options.old:
            compare(options.old.resolve())
        else:
            main()
