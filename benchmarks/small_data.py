"""Trains on 180 images of shapes with and without clipped gradients: few images are where training can diverge."""

import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conftest import render_plainly, write_config  # noqa: E402

SHAPES = ("circle", "square", "triangle")
SEEDS = ("0", "1")


def draw_shapes(folder: Path, draw: random.Random) -> None:
    """60 images of 80 pixels of each shape, in any colours, as FOLDER/SHAPE/*.jpg."""
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True)
        for number in range(60):
            ground, color = (tuple(draw.randrange(256) for _ in range(3)) for _ in range(2))
            image = Image.new("RGB", (80, 80), ground)
            canvas, x, y, r = ImageDraw.Draw(image), draw.randint(25, 55), draw.randint(25, 55), draw.randint(10, 22)
            if shape == "circle":
                canvas.ellipse((x - r, y - r, x + r, y + r), fill=color)
            elif shape == "square":
                canvas.rectangle((x - r, y - r, x + r, y + r), fill=color)
            else:
                canvas.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=color)
            image.save(folder / shape / f"{number}.jpg")


def main() -> None:
    """Prints the accuracy on the tenth that is held out, after the last epoch, for each seed."""
    folder = Path(tempfile.mkdtemp())
    draw_shapes(folder / "shapes", random.Random(0))
    project = render_plainly(folder / "project", write_config(folder), task_type="image_classification")
    print(f"| flags | accuracy after 20 epochs, seeds {' and '.join(SEEDS)} |\n|---|---|")
    for flags in ("", "--clip_grad 0", "--batch_size 16", "--batch_size 16 --clip_grad 0"):
        found = []
        for seed in SEEDS:
            command = [sys.executable, "-B", "train.py", "--data", str(folder / "shapes"), "--pictures", "none"]
            command += ["--seed", seed, *flags.split()]
            said = subprocess.run(command, cwd=project, check=True, capture_output=True, text=True).stdout
            found += re.findall(r"^20/20 +\S+ +\S+ +(\S+)", said, re.MULTILINE)
        print(f"| {flags or 'none'} | {', '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
