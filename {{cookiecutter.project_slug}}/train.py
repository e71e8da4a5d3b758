"""Trains the network in task.py with the settings in config.py: `python train.py --help` lists them."""

import sys
import time
from dataclasses import replace
from tempfile import TemporaryDirectory

sys.dont_write_bytecode = "--smoke" in sys.argv  # a smoke run leaves no trace, not even compiled files

from config import Config, parse_config, resumed_config, save_config  # noqa: E402
from engine import UserError  # noqa: E402


def train(config: Config, argv: list[str]) -> list[float]:
    """Trains and tests; returns the loss at each log point of the last epoch."""
    # Imported once the flags are known to be right: torch takes seconds.
    from engine.checkpoint import find_state, new_run_dir
    from engine.logger import Logger
    from engine.records import open_writer
    from task import Task

    changed: set[str] = set()
    state = find_state(config.resume, config.ckpt_dir)
    if state:
        config, changed = resumed_config(argv, state.parent)
    run_dir = state.parent if state else new_run_dir(config.ckpt_dir)
    with Logger(run_dir / "log.txt"):
        print(config)
        trainer = Task(config)
        trainer.ckpt_dir = run_dir
        trainer.check_init()
        if state:
            trainer.load_state(state)
        if "lr" in changed:
            trainer.change_lr(config.lr_per_part())
        save_config(config, run_dir)
        with open_writer(run_dir / "runs", trainer.global_step + 1) as trainer.writer:
            if config.model_info:
                trainer.get_model_info(trainer.example_input())
            trainer.fit(config.epochs)
        trainer.print_best_metrics()
        trainer.print_final_lr()
        trainer.test()
        print(f"all files are in {run_dir}; see the curves with: tensorboard --logdir {config.ckpt_dir}")
    return trainer.logged_losses


def main(argv: list[str]) -> None:
    """Trains as the flags say; a smoke run does so in a temporary folder."""
    began = time.perf_counter()
    config = parse_config(argv)
    if not config.smoke:
        train(config, argv)
        return
    with TemporaryDirectory() as folder:
        losses = train(replace(config, ckpt_dir=folder), argv)
    print(f"smoke epoch: loss {losses[0]:.4f} -> {losses[-1]:.4f} in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
