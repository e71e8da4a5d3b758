"""Draws a run's learning rates before it is trained: `python lr_curve.py [--output lr.png]`, with train.py's flags."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import Config, parse_config
from engine import UserError, command_line


@dataclass(frozen=True)
class Arguments(Config):
    """Draws the learning rate of every update of a run with these settings; trains nothing."""

    output: str = ""  # PNG file for the picture; empty draws with characters


def draw(argv: list[str]) -> None:
    """Parses the flags, loads the data, which says how many updates there are, and draws."""
    arguments: Any = parse_config(argv, Arguments())
    if arguments.resume:
        raise UserError("--resume: a run that was begun has its curve in lr.png; leave it out to draw one to come")
    from engine.checks import check_settings
    from engine.figures import write
    from engine.lr_curve import draw_lr, print_lr
    from engine.schedulers import build_schedules
    from task import Task

    trainer = Task(arguments)
    check_settings(trainer)
    trainer.lr_scheduler_list = build_schedules(trainer)
    if arguments.output:
        write(draw_lr(trainer), Path(arguments.output))
        print(f"the learning rates are in {arguments.output}")
    else:
        print_lr(trainer)


if __name__ == "__main__":
    command_line(draw)
