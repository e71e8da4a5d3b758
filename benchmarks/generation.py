"""Times generation: rendering, the hooks without a smoke epoch, all combinations rendered and linted, and trained."""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conftest import COMBINATIONS  # noqa: E402
from cookiecutter.main import cookiecutter  # noqa: E402
from scripts import run_script  # noqa: E402


def seconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def render(folder: Path, hooks: bool = False, **answers: str) -> Path:
    """Renders a project without asking."""
    return Path(
        cookiecutter(str(ROOT), no_input=True, extra_context=answers, output_dir=str(folder), accept_hooks=hooks)
    )


def main() -> None:
    """Prints a line per figure."""
    os.environ["COOKIECUTTER_CONFIG"] = os.devnull
    folder = Path(tempfile.mkdtemp())
    numbers = (folder / str(number) for number in itertools.count())
    render(next(numbers))  # imports and file caches

    plain = median(seconds(lambda: render(next(numbers))) for _ in range(9))
    with open(os.devnull, "w") as nowhere:
        keep, null = os.dup(1), nowhere.fileno()
        os.dup2(null, 1)
        hooked = median(seconds(lambda: render(next(numbers), hooks=True, smoke_epoch="skip")) for _ in range(9))
        os.dup2(keep, 1)
    print(f"| render one project, hooks off | {plain:.3f} s |")
    print(f"| what the hooks add without a smoke epoch | {hooked - plain:.3f} s |")

    projects: list[Path] = []
    whole = folder / "all"

    def render_and_lint() -> None:
        projects.extend(render(whole / "-".join(answers.values()), **answers) for answers in COMBINATIONS)
        for command in (["check"], ["format", "--check"]):
            subprocess.run([sys.executable, "-m", "ruff", *command, "-q", "--no-cache", str(whole)], check=True)

    print(f"| render and lint all {len(COMBINATIONS)} combinations | {seconds(render_and_lint):.1f} s |")

    def train() -> None:
        for project in projects:
            status, output = run_script(project, ["train.py", "--smoke"], folder / "output")
            if status:
                raise RuntimeError(output)

    print(f"| train all {len(COMBINATIONS)} for a small epoch, one after the other | {seconds(train):.1f} s |")
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
    print("| | |\n|---|---|")
    main()
