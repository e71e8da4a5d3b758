"""Trains the network in task.py with the settings in config.py: `python train.py --help` lists them."""

import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from tempfile import TemporaryDirectory

sys.dont_write_bytecode |= "--smoke" in sys.argv  # a smoke run leaves no trace, not even compiled files
from config import parse_config, resumed_config, save_config  # noqa: E402
from engine import command_line  # noqa: E402


def train(argv: list[str]) -> None:
    """Parses the flags, builds the task, resumes where asked, trains, tests."""
    began, config, changed = time.perf_counter(), parse_config(argv), set[str]()
    from engine import lr_curve, records, report  # after the flags: importing torch takes seconds
    from engine.checkpoint import find_state, new_run_dir
    from engine.distributed import from_main, is_main, joined
    from engine.logger import Logger
    from task import Task

    with joined(config), TemporaryDirectory() if config.smoke else nullcontext(config.ckpt_dir) as root:
        if state := from_main(find_state, config.resume, root):
            config, changed = resumed_config(argv, state.parent)
        run_dir = state.parent if state else from_main(new_run_dir, root)
        with Logger(run_dir / "log.txt") if is_main() else nullcontext():
            print(config)
            trainer = Task(config)
            trainer.ckpt_dir = run_dir
            trainer.check_init()
            if state:
                trainer.load_state(state)
                if "lr" in changed:
                    trainer.change_lr(config.lr_per_part())
                    trainer.save_state(state)  # before the settings: a restart of this restart finds the new rates
            from_main(save_config, config, run_dir)
            lr_curve.save_lr(trainer)
            with records.open_writer(run_dir / "runs", records.first_record(trainer)) as trainer.writer:
                if config.model_info:
                    trainer.get_model_info(trainer.example_input())
                trainer.fit(config.epochs)
                trainer.print_best_metrics()
                trainer.print_final_lr()
                records.record_result(trainer, asdict(config), trainer.test())
            print(report.end_lines(trainer, time.perf_counter() - began, config.smoke))


if __name__ == "__main__":
    command_line(train)
