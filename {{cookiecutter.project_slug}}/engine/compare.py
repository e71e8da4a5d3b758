"""Runs side by side: `python -m engine.compare check_point [--output compare.png]` prints a table and draws curves."""

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import UserError, command_line

# Settings that change nothing in what is learnt.
IDLE = {
    "ckpt_dir", "resume", "job", "device", "workers", "sync_timeout", "log_per_step", "save_per_epochs",
    "save_per_steps", "keep_last", "histograms", "pictures", "model_info",
}  # fmt: skip
NAMED = 12  # runs that a legend can name


@dataclass(frozen=True)
class Run:
    """What a run's folder says of it: its settings, what best.pth holds, curves by name with a value for each epoch."""

    folder: Path
    settings: dict[str, Any]
    best: dict[str, Any]
    curves: dict[str, list[float]]


def find_runs(paths: list[Path]) -> list[Path]:
    """The folders of runs among the paths and right below them, oldest first.

    Raises:
        UserError: there are none.
    """
    below = [folder for path in paths for folder in (path, *path.glob("*"))]
    found = sorted({folder for folder in below if (folder / "config.json").is_file()}, key=lambda folder: folder.name)
    if not found:
        raise UserError(f"no run in {', '.join(map(str, paths))}; give folders of runs, or one that holds them")
    return found


def read_run(folder: Path) -> Run:
    """Reads a run; one that is still in its first epoch has no best and no curves.

    Raises:
        UserError: its settings or its best.pth cannot be read.
    """
    from . import checkpoint

    try:
        settings = dict(json.loads((folder / "config.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'} cannot be read ({error})") from error
    state = checkpoint.load(folder / "best.pth") if (folder / "best.pth").is_file() else {}
    best = {name: value for name, value in state.items() if name in ("epoch", "best_metric", "key_metric")}
    of_training = read_curves(folder / "runs/loss_per_epoch_train").get("loss_per_epoch", [])
    return Run(folder, settings, best, read_curves(folder / "runs") | {"train/loss": of_training})


def read_curves(folder: Path) -> dict[str, list[float]]:
    """The values of each tag in TensorBoard's files in that folder, in turn; none where there is no such folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # that a run went on makes it warn
    if not folder.is_dir():
        return {}
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def differing(runs: list[Run]) -> list[str]:
    """The settings that are not the same in all runs."""
    names = dict.fromkeys(name for run in runs for name in run.settings if name not in IDLE)
    return [name for name in names if len({str(run.settings.get(name)) for run in runs}) > 1]


def table(runs: list[Run]) -> list[dict[str, str]]:
    """A row for each run: the settings in which they differ, the best epoch and its scores, how long it took."""
    from .report import duration

    scores = dict.fromkeys(name for run in runs for name in run.best.get("best_metric", {}))
    settings, rows = differing(runs), []
    for run in runs:
        metric, seconds = run.best.get("best_metric", {}), run.curves.get("speed/seconds_per_epoch", [])
        row = {"run": run.folder.name} | {f"--{name}": text(run.settings.get(name, "-")) for name in settings}
        row |= {"best epoch": f"{run.best.get('epoch', '-')}/{len(seconds)}"}
        row |= {name: f"{metric[name]:.4f}" if name in metric else "-" for name in scores}
        rows.append(row | {"time": duration(sum(seconds))})
    return rows


def text(value: Any) -> str:
    """A setting as on the command line."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def draw(runs: list[Run], path: Path) -> None:
    """Draws the losses of all runs by epoch, and beside them the score that chose the best epoch.

    Raises:
        UserError: the file cannot be written.
    """
    from .figures import caption, new_figure, rendered, write

    key = next((run.best["key_metric"] for run in runs if "key_metric" in run.best), "loss")
    figure, axes = new_figure(2, 1, 12, 4.8)
    losses, scores = axes[0]
    names = differing(runs)
    for number, run in enumerate(runs):
        settings = ", ".join(f"{name} {text(run.settings.get(name, '-'))}" for name in names)
        for axis, tag, style in ((losses, "eval/loss", "-"), (losses, "train/loss", ":"), (scores, f"eval/{key}", "-")):
            curve = run.curves.get(tag, [])
            name = caption(settings or run.folder.name) if style == "-" and number < NAMED else None
            axis.plot(range(1, len(curve) + 1), curve, style, marker=".", color=f"C{number % 10}", label=name)
    losses.set(xlabel="epoch", ylabel="loss: evaluation, dotted training")
    scores.set(xlabel="epoch", ylabel=key)
    for axis in axes[0]:
        axis.xaxis.get_major_locator().set_params(integer=True)
    losses.legend(fontsize=8, title=f"the first {NAMED} of {len(runs)}" if len(runs) > NAMED else None)
    write(rendered(figure), path)


def compare(argv: list[str]) -> None:
    """Parses the command line, prints and draws; a UserError where no run can be read."""
    parser = argparse.ArgumentParser(prog="python -m engine.compare", description="Shows runs side by side.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or a folder that holds them")
    parser.add_argument("--output", type=Path, default=Path("compare.png"), help="PNG file for the curves")
    arguments = parser.parse_args(argv)
    folders = find_runs(arguments.runs)
    from .report import print_table  # after what can be wrong: it brings torch

    runs = []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except UserError as error:
            print(f"left out: {error}")
    if not runs:
        raise UserError("no run is left to be shown")
    print_table(table(runs))
    draw(runs, arguments.output)
    print(f"their curves are in {arguments.output}")


if __name__ == "__main__":
    command_line(compare)
