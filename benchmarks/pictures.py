"""Makes the pictures of the README anew, in docs/images: `python benchmarks/pictures.py [RUN ...]`.

lr_curves.png has every schedule with every warm-up, from the code that trains; session.svg what a person sees who
generates a project and trains it, taken from a terminal in the middle of the last epoch (not on Windows);
predictions.png what two runs draw of their test sets. If folders of runs are given, tensorboard.png is what Chromium
shows of them.
"""

import io
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "{{cookiecutter.project_slug}}"
sys.dont_write_bytecode = True
sys.path[:0] = [str(SOURCE), str(ROOT / "tests")]

from conftest import render_plainly, write_config  # noqa: E402
from engine.monitor.figures import new_figure, render, write_png  # noqa: E402
from engine.monitor.lr_curve import lr_curve  # noqa: E402
from engine.schedulers import SCHEDULES, WARM_UPS, Timeline  # noqa: E402
from real_data import image_classification, segmentation  # noqa: E402
from small import SmallConfig  # noqa: E402
from terminals import COLUMNS, in_terminal, read_until  # noqa: E402

IMAGES = ROOT / "docs" / "images"
PORT = 16006
TAGS = "eval/acc$|eval/loss|per_epoch|lr/|norm|per_second|train/loss"  # on the page of TensorBoard


def draw_schedules() -> None:
    """A row for each warm-up and a column for each schedule: 20 epochs, 4 of them warm-up."""
    figure, axes = new_figure(len(SCHEDULES), len(WARM_UPS), 12, 7)
    for column, schedule in enumerate(SCHEDULES):
        for row, warm_up in enumerate(WARM_UPS):
            config = SmallConfig(
                lr_scheduler_type=schedule, step_size=6, warm_up_mode=warm_up, warm_up_epochs=4, warm_up_init_lr=1e-4
            )
            axis, timeline = axes[row, column], Timeline(config, 20, 50, "loss", "min")
            [high], [low] = (lr_curve(timeline, [0.1], improving) for improving in (True, False))
            epochs, lrs = zip(*high, strict=True)
            lowest = [lr for _, lr in low]
            axis.plot(epochs, lrs)
            if high != low:
                axis.plot(epochs, lowest, "C0--")
                axis.fill_between(epochs, lrs, lowest, alpha=0.15)
            axis.set(ylim=(-0.004, 0.108), xticks=[0, 4, 10, 20], yticks=[0, 0.1], yticklabels=["0", "lr"])
            axis.set_title(f"{schedule}, {warm_up}", fontsize=10)
    figure.supxlabel("epochs; dashed: if no evaluation is better than the one before", fontsize=10)
    write_png(render(figure), IMAGES / "lr_curves.png")


def session(folder: Path) -> str:
    """Generates a project with the first answers but for its name, and trains it into its third epoch."""
    config = write_config(folder)
    make = [sys.executable, "-m", "cookiecutter", str(ROOT), "--config-file", str(config)]
    shown = "$ cookiecutter gh:user/torch-template\n"
    with in_terminal(make, folder, PWD=str(folder)) as (terminal, _):
        for answer in ("Stripes", *[""] * 8):
            shown += read_until(terminal, r"\)\S*: $")
            os.write(terminal, f"{answer}\n".encode())
        shown += read_until(terminal)
    shown += "$ cd stripes && python train.py --data synthetic --epochs 3\n"
    train = ["train.py", "--data", "synthetic", "--epochs", "3", "--log_per_step", "3"]
    with in_terminal([sys.executable, *train], folder / "stripes") as (terminal, _):
        shown += read_until(terminal, r"3/3  [4-9]\d%\|[^\r]*samples/s")
    return shown.replace(os.path.abspath(sys.executable), "~/.venv/bin/python")


def draw_session() -> None:
    """The last lines of a session, as they stand in the terminal."""
    with tempfile.TemporaryDirectory() as folder:
        lines = session(Path(folder)).replace("\r\n", "\n").split("\n")
    standing = [[part for part in line.split("\r") if part.strip()][-1:] for line in lines]  # what is not overwritten
    wrapped = [line[0] if line else "" for line in standing]
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi("\n".join(wrapped[wrapped.index("$ cookiecutter gh:user/torch-template") :])))
    console.save_svg(str(IMAGES / "session.svg"), title="torch-template")


def draw_tensorboard(root: Path) -> None:
    """TensorBoard as a browser shows it that is in no hurry."""
    serve = [sys.executable, "-m", "tensorboard.main", "--logdir", root.name, "--port", str(PORT), "--load_fast=false"]
    with (
        subprocess.Popen(serve, cwd=root.parent, stderr=subprocess.DEVNULL) as server,
        tempfile.TemporaryDirectory() as profile,
    ):
        time.sleep(20)  # it reads the files
        page = f"http://localhost:{PORT}/#scalars&_smoothingWeight=0&tagFilter={TAGS}"
        quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking"]
        look = [f"--user-data-dir={profile}", "--window-size=1500,1300", "--virtual-time-budget=30000"]
        command = ["chromium", *quiet, *look, f"--screenshot={IMAGES / 'tensorboard.png'}", page]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        server.terminate()


def draw_predictions() -> None:
    """What two short runs on the files of real_data.py drew of their test sets: digits, and ink on photographs."""
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(Path(folder))
        few = {image_classification: "--epochs 3 --no_flip", segmentation: "--epochs 8"}
        for make, flags in few.items():
            data = Path(folder, "data", make.__name__)
            data.mkdir(parents=True)
            make(data, random.Random(0))
            project = render_plainly(Path(folder), config, task_type=make.__name__, project_slug=make.__name__)
            subprocess.run([sys.executable, "train.py", "--data", str(data), *flags.split()], cwd=project, check=True)
            drawn = {path.stem: path for path in project.glob("check_point/*/test_*.png")}
            if make is image_classification:
                pictures.append(Image.open(drawn["test_confusion"]).convert("RGB"))
            pictures.append(Image.open(drawn["test_predictions"]).convert("RGB"))
    height = min(picture.height for picture in pictures)
    pictures = [picture.resize((picture.width * height // picture.height, height)) for picture in pictures]
    together = Image.new("RGB", (sum(picture.width for picture in pictures), height), "white")
    left = 0
    for picture in pictures:
        together.paste(picture, (left, 0))
        left += picture.width
    together.save(IMAGES / "predictions.png", optimize=True)


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    runs = [Path(run) for run in sys.argv[1:]]
    if runs:
        draw_tensorboard(runs[0].parent)
    draw_predictions()
    draw_schedules()
    draw_session()
