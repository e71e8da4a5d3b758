"""What this project promises of every task: the learning rate follows its curve, runs can be found and repeated.

These tests, and those of test_faults.py, are of the project: they need a `Task` that trains with the settings of SMOKE
in config.py. What the task itself promises is in test_task.py, which changes with it.
"""

import json
import math
from pathlib import Path

import pytest

import predict
import train
from config import Config
from engine import settings
from engine.trainer import Trainer
from task import Task

SMALL = ["--precision", "fp32"]
for name, value in Config.SMOKE.items():
    SMALL += [f"--{name}", *map(str, value if isinstance(value, (tuple, list)) else [value])]


def run(folder: Path, *flags: str) -> Path:
    """Trains with these flags as train.py does; returns the run's folder."""
    train.train([*SMALL, "--ckpt_dir", str(folder), *flags])
    return max(path for path in folder.iterdir() if path.is_dir())


@pytest.mark.parametrize("num_parts", [1, 2, 3])
def test_every_update_has_the_learning_rate_of_the_curve(num_parts: int, tmp_path: Path) -> None:
    flags = ["--num_parts", str(num_parts), "--epochs", "4", "--step_size", "1", "--warm_up_epochs", "1.5"]
    config = settings.parse(Config(), [*SMALL, *flags, "--ckpt_dir", str(tmp_path)])
    trainer = Task(config)
    groups = [group for optimizer in trainer.optimizer_list for group in optimizer.param_groups]
    base = [0.01 * number for number in range(1, len(groups) + 1)]  # another one for each
    for lr, group in zip(base, groups, strict=True):
        group["lr"] = lr
    trainer.check_init()
    per_epoch = trainer.updates_per_epoch()
    warm_up = 0 if config.warm_up_mode == "none" else round(1.5 * per_epoch)
    for update in range(4 * per_epoch):
        for lr, group in zip(base, groups, strict=True):
            assert group["lr"] == pytest.approx(expected_lr(config, lr, update, warm_up, per_epoch), rel=1e-9)
        for optimizer in trainer.optimizer_list:
            optimizer.step()
        trainer.update_lr_scheduler()


def expected_lr(config: Config, b: float, update: int, warm_up: int, per_epoch: int) -> float:
    """The formulas of the schedules, written out again; without evaluations reduce on plateau is constant."""
    low, since = config.warm_up_init_lr, update - warm_up
    if since < 0:
        p = update / warm_up
        rises = {"linear": low + (b - low) * p, "exponential": low * (b / low) ** p, "constant": low}
        return float(rises[config.warm_up_mode])
    if config.lr_scheduler_type == "annealing":
        return b * (1 + math.cos(math.pi * since / (4 * per_epoch - warm_up))) / 2
    return float(b * config.gamma ** (since // per_epoch)) if config.lr_scheduler_type == "step" else b


def test_predict_py_can_use_the_checkpoints(tmp_path: Path) -> None:
    assert predict.obstacle(Task(settings.parse(Config(), [*SMALL, "--ckpt_dir", str(tmp_path)]))) == ""


def test_a_run_leaves_the_files_that_the_readme_names(tmp_path: Path) -> None:
    run_dir = run(tmp_path, "--epochs", "2", "--keep_last", "1")
    names = {path.name for path in run_dir.iterdir()}
    pictures = {name for name in names if name.endswith(".png")}
    tables = {name for name in names if name.endswith(".csv")}
    assert names - pictures - tables == {"log.txt", "config.json", "best.pth", "epoch2.pth", "runs", ".lock"}
    assert len(tables) == (Task.report is not Trainer.report)
    assert "lr.png" in pictures and (len(pictures) > 1) == (Task.draw is not Trainer.draw)
    assert "\n  2/2  " in (run_dir / "log.txt").read_text("utf-8")
    assert json.loads((run_dir / "config.json").read_text("utf-8"))["epochs"] == 2


def test_a_run_is_repeated_by_its_settings_and_flags_win(tmp_path: Path) -> None:
    first = run(tmp_path / "first", "--epochs", "1", "--warm_up_mode", "none", "--seed", "3")
    config = settings.parse(Config(), ["--config", str(first / "config.json"), "--epochs", "2"])
    assert (config.seed, config.warm_up_mode, config.epochs) == (3, "none", 2)
    assert {name: getattr(config, name) for name in Config.SMOKE} == Config.SMOKE
