"""Every setting of a run, each also a flag of train.py: `--epochs 30`. Imports no torch, so that --help is instant."""

import json
import os
import textwrap
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import tyro

from engine import UserError
from engine.files import replacing


@dataclass(frozen=True)
class Config:
    """Trains the network in task.py. Every flag's default is in config.py."""

    task_type: ClassVar[str] = "{{ cookiecutter.task_type }}"  # no setting: task.py is of this task

    # {% include "parts/settings" %}
    # The network's parts and their updates
    num_parts: Literal[1, 2, 3] = {{ cookiecutter.num_parts }}  # parts of the network; each has its own optimizer and LR
    momentum: float = 0.9  # of sgd
    accumulate: int = 1  # batches per update; their gradients add up to that of one large batch
    clip_grad: float = {{ 4.0 if cookiecutter.task_type == "image_classification" else 0.0 }}
    """largest norm of the gradient over all parts; 0 does not clip"""

    # Learning rate
    lr_scheduler_type: Literal["annealing", "step", "metric", "loss", "none"] = "{{ cookiecutter.lr_scheduler_type }}"
    """annealing: half a cosine down to eta_min; step: times gamma every step_size epochs; metric, loss: times gamma
    when the key metric or the evaluation loss stops improving; none: constant"""
    eta_min: float = 0.0  # learning rate at the end of annealing
    step_size: int = 8  # epochs between two decays of step
    gamma: float = 0.1  # factor of one decay of step, metric or loss
    patience: int = 3  # evaluations without progress before metric or loss decays
    warm_up_mode: Literal["linear", "exponential", "constant", "none"] = "{{ cookiecutter.warm_up_mode }}"
    """how the learning rate gets from warm_up_init_lr to its base: at a steady pace, by a steady factor, by staying
    low and jumping at the end, or at once"""
    warm_up_epochs: float = 1.0  # length of the warm-up in epochs; fractions count
    warm_up_init_lr: float = 1e-6  # learning rate of the first update of the warm-up

    # The run
    epochs: int = 20  # epochs in all, those before a resume included
    ckpt_dir: str = "check_point"  # folder in which each run gets a folder of its own
    resume: str = ""  # continue a run: auto (the newest state in ckpt_dir), a run's folder, or an epoch<N>.pth
    seed: int = 0  # start of all randomness; the same seed gives the same run
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: bf16 where the hardware has it, else fp32
    strategy: Literal["ddp", "fsdp"] = "ddp"  # of several processes: each holds all weights, or a piece of each
    sync_timeout: float = 30.0  # minutes that a process waits for the others before it takes them for lost
    compile: bool = False  # compile the parts with torch.compile: slow to start, then faster on a GPU
    log_per_step: int = 50  # updates between two points of the TensorBoard curves
    save_per_epochs: int = 1  # epochs between two saved states
    save_per_steps: int = 0  # updates between two saved states, inside epochs too; 0 saves after epochs alone
    keep_last: int = 3  # newest states of whole epochs that are kept, and as many inside an epoch; 0 keeps all
    patience_stop: int = 0  # epochs without a better key metric after which training ends; 0 trains to the last
    histograms: bool = False  # record weights and gradients in TensorBoard after each epoch
    pictures: Literal["end", "epoch", "none"] = "end"  # draw predictions at the end, after each epoch too, or not
    model_info: bool = False  # print a layer-by-layer summary and draw the graph in TensorBoard
    smoke: bool = False  # one small epoch at half the width, on synthetic data, that leaves no trace

    def lr_per_part(self) -> list[float]:
        """The base learning rate of each part; a UserError where --lr has neither one value nor one per part."""
        if len(self.lr) not in (1, self.num_parts):
            raise UserError(f"--lr has {len(self.lr)} values, --num_parts is {self.num_parts}; give 1, or 1 per part")
        return list(self.lr) * (self.num_parts // len(self.lr))

    def __str__(self) -> str:
        settings = "  ".join(f"{name}={value}" for name, value in asdict(self).items())
        return textwrap.fill(settings, 79, break_long_words=False, break_on_hyphens=False)


# What a resumed run may change. All else would make it another run than the one that it continues.
MAY_CHANGE = {
    "epochs", "lr", "eta_min", "step_size", "gamma", "patience", "ckpt_dir", "resume", "device", "strategy",
    "sync_timeout", "compile", "workers", "log_per_step", "save_per_epochs", "save_per_steps", "keep_last",
    "patience_stop", "histograms", "pictures", "model_info", "smoke",
}  # fmt: skip


# No number is negative; besides, these are above 0, and those that are a part of something are below 1.
ABOVE_0 = {"batch_size", "epochs", "gamma", "lr", "sync_timeout", "val_fraction", "width"}
PARTS = ("momentum", "_fraction", "_smoothing", "dropout")  # what their names end with


def check_numbers(config: Config) -> None:
    """Raises a UserError for the first number outside its range."""
    config.lr_per_part()
    if config.seed >= 2**43:
        raise UserError(f"--seed {config.seed} must be below {2**43}")
    for name, value in asdict(config).items():
        for number in value if name == "lr" else [value]:
            if isinstance(number, str):
                continue
            if number < 0 or (number == 0 and name in ABOVE_0):
                raise UserError(f"--{name} {number} must be {'above 0' if name in ABOVE_0 else '0 or more'}")
            if number >= 1 and name.endswith(PARTS):
                raise UserError(f"--{name} {number} must be below 1")


def parse_config(argv: list[str], defaults: Config = Config()) -> Config:  # noqa: B008
    """The `defaults` with the flags in `argv` applied.

    Raises:
        UserError: a number outside its range.
        SystemExit: --help, or a flag or value that does not exist; the reason has been printed.
    """
    flags = (tyro.conf.FlagCreatePairsOff,)
    # Of what is on already tyro makes a flag that turns it off, and the one that turns it on would be unknown.
    given = {argument.removeprefix("--").replace("-", "_") for argument in argv}
    off: dict[str, Any] = {name: False for name, on in asdict(defaults).items() if on is True and name in given}
    defaults = replace(defaults, **off)
    config: Config = tyro.cli(type(defaults), args=argv, default=defaults, use_underscores=True, config=flags)
    check_numbers(config)
    if not config.smoke:
        return config
    small = replace(config, data="synthetic", width=max(1, config.width // 2), epochs=1, batch_size=32, resume="")
    return replace(small, log_per_step=1, warm_up_epochs=0.25, pictures="none")


def resumed_config(argv: list[str], run_dir: Path) -> tuple[Config, set[str]]:
    """The settings of the run in `run_dir` with the flags in `argv` applied, and the names of those that they changed.

    Raises:
        UserError: no readable settings there, or a flag that would make it another run.
    """
    path = run_dir / "config.json"
    try:
        saved = json.loads(path.read_text("utf-8"))
        task_type, _ = saved.pop("task_type"), saved.pop("job", "")
        if task_type != Config.task_type:
            raise UserError(f"{run_dir} is a run of the task {task_type!r} and this is {Config.task_type!r}")
        before = replace(Config(), **{**saved, "lr": tuple(saved["lr"])})
    except UserError:
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} does not hold the settings of a run ({error}); start a new run") from error
    config = parse_config(argv, before)
    changed = {name for name, value in asdict(config).items() if value != getattr(before, name)}
    for name in sorted(changed - MAY_CHANGE):
        raise UserError(
            f"--{name} {getattr(config, name)} differs from {getattr(before, name)}, with which {run_dir} was trained; "
            "leave it out or start a new run"
        )
    return config, changed


def save_config(config: Config, run_dir: Path) -> None:
    """Writes the settings that a run uses into its folder."""
    with replacing(run_dir / "config.json") as file:
        job = os.environ.get("TORCHELASTIC_RUN_ID", "")  # torchrun's name for it, by which a restart finds its run
        settings = {"task_type": config.task_type, "job": job, **asdict(config)}
        file.write(f"{json.dumps(settings, indent=2)}\n".encode())
