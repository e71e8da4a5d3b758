"""Trains the task in task.py with the settings in config.py; `python train.py --help` lists them."""

import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

sys.dont_write_bytecode |= "--smoke" in sys.argv  # a smoke run leaves no files, not even compiled ones
from config import Config  # noqa: E402
from engine import settings  # noqa: E402
from engine.runtime.command_line import command_line  # noqa: E402
from engine.runtime.errors import UserError  # noqa: E402


def train(argv: list[str]) -> None:
    """Parses the flags, builds the task, resumes if asked, trains, and tests the best epoch.

    Raises:
        UserError: something that the person can correct.
    """
    began, config = time.perf_counter(), settings.parse(Config(), argv)
    # After the flags: importing torch takes seconds.
    from engine.checkpoint.run_folder import find_state, locked, new_run_folder
    from engine.distributed.process_group import is_rank_0, on_rank_0, process_group
    from engine.logger import Logger
    from engine.monitor import console, lr_curve
    from engine.monitor.tensorboard import open_writer
    from predict import obstacle
    from task import Task

    if config.show_lr:
        lr_curve.show(config)
        return
    with process_group(config), TemporaryDirectory() if config.smoke else nullcontext(config.ckpt_dir) as root:
        state_path = on_rank_0(find_state, config.resume, root)
        if state_path:
            config = settings.resumed(Config(), argv, state_path.parent)
        folder: Path = state_path.parent if state_path else on_rank_0(new_run_folder, root)
        with locked(folder), Logger(folder / "log.txt") if is_rank_0() else nullcontext():
            print(settings.describe(config))
            trainer = Task(config)
            trainer.ckpt_dir = folder
            trainer.check_init()
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
                    trainer.record_result(asdict(used), trainer.test())
                except UserError as error:
                    raise UserError(f"{error}; the training is complete, and --resume auto tests it then") from error
            seconds, losses = time.perf_counter() - began, trainer.logged_losses
            print(console.smoke_line(losses, seconds) if config.smoke else console.end_lines(folder, seconds))


if __name__ == "__main__":
    command_line(train)
