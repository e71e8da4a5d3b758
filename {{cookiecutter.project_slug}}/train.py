"""Trains the task in task.py with the settings in config.py; `python train.py --help` lists them."""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.dont_write_bytecode |= "--smoke" in sys.argv  # a smoke run leaves no files, not even compiled ones
from config import Config  # noqa: E402
from engine import settings  # noqa: E402
from engine.runtime.command_line import command_line  # noqa: E402
from engine.runtime.errors import UserError  # noqa: E402


def train(argv: list[str]) -> None:
    """Parses the flags, finds what to resume if asked, and trains: one network or, with --folds, one for each fold.

    Raises:
        UserError: something that the person can correct.
    """
    config = settings.parse(Config(), argv)
    # After the flags: importing torch takes seconds.
    from engine.checkpoint.run_folder import find_state, new_run_folder, resumed_folder
    from engine.cross_validation import cross_validate, is_cross_validation
    from engine.distributed.process_group import on_rank_0, process_group
    from engine.monitor import lr_curve

    if config.show_lr:
        lr_curve.show(config)
        return
    with process_group(config), TemporaryDirectory() if config.smoke else nullcontext(config.ckpt_dir) as root:
        state_path = on_rank_0(find_state, config.resume, root)
        folder: Path | None = on_rank_0(resumed_folder, state_path, config.resume) if state_path else None
        if folder:
            config = settings.resumed(Config(), argv, folder)
        trains_all_folds = is_cross_validation(config)  # or it refuses them, before there is a folder
        folder = folder or on_rank_0(new_run_folder, root)
        if trains_all_folds:
            cross_validate(config, folder, train_run)
        else:
            train_run(config, folder, state_path)


def train_run(
    config: Config, folder: Path, state_path: Path | None, check: Callable[[Any], None] = lambda trainer: None
) -> tuple[Any, dict[str, float]]:
    """Builds the task, continues from the state if there is one, trains, and tests the best epoch.

    Args:
        config: the settings of the run.
        folder: of the run, for all that it writes.
        state_path: the state to continue from; None for a new run.
        check: called with the task before it trains.

    Returns:
        The task, trained, and its scores on the test set.

    Raises:
        UserError: something that the person can correct.
    """
    began = time.perf_counter()
    from engine.checkpoint.run_folder import locked
    from engine.distributed.process_group import is_rank_0, on_rank_0
    from engine.logger import Logger
    from engine.monitor import console
    from engine.monitor.tensorboard import open_writer
    from predict import obstacle
    from task import Task

    with locked(folder), Logger(folder / "log.txt") if is_rank_0() else nullcontext():
        print(settings.describe(config))
        trainer = Task(config)
        trainer.ckpt_dir = folder
        trainer.check_init()
        check(trainer)
        if state_path:
            trainer.load_state(state_path)
        if not trainer.is_finished() and (why := on_rank_0(obstacle, trainer)):
            print(f"note: predict.py cannot be used with this run: {why}")
        trainer.save_lr_curve()
        with open_writer(folder / "runs", trainer.first_record()) as trainer.writer:
            if config.model_info:
                trainer.get_model_info(trainer.example_input())
            trainer.fit()
            trainer.print_best_metrics()
            trainer.print_final_lr()
            used = on_rank_0(settings.load, Config(), folder / "config.json")
            try:
                test_scores = trainer.test()
            except UserError as error:
                raise UserError(f"{error}; the training is complete, and --resume auto tests it then") from error
            trainer.record_result(asdict(used), test_scores)
        seconds, losses = time.perf_counter() - began, trainer.logged_losses
        print(console.smoke_line(losses, seconds) if config.smoke else console.end_lines(folder, seconds))
    return trainer, test_scores


if __name__ == "__main__":
    command_line(train)
