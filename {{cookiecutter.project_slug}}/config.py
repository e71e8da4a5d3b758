"""Every setting of a run: its type, default and meaning. Each is a flag of train.py: `--epochs 30`.

The types say what is allowed: Positive is above 0, NonNegative 0 or more, Fraction 0 or more and below 1. Settings
that MayChange can be given again when a run is resumed; changing any other would make it another run. A setting that a
file of engine/ reads is also in that file's Protocol, as TrainerConfig.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from engine.optim.optimizers import OPTIMIZERS
from engine.settings import FormerName, Fraction, MayChange, NonNegative, Positive, Range, one_of


@dataclass(frozen=True)
class Config:
    """Trains the network in model.py on the data of data.py, as task.py says. Defaults are in config.py."""  # --help

    task_type: ClassVar[str] = "{{ cookiecutter.task_type }}"  # no setting: what task.py, data.py and model.py are for

    # {% filter replace("# ", "", 1) | indent %}{% include "tasks/" ~ cookiecutter.task_type ~ "/settings.py" %}{% endfilter %}
    # Optimizers: one for each part of the network
    num_parts: Literal[1, 2, 3] = {{ cookiecutter.num_parts }}  # parts of the network, each with its own optimizer and learning rate
    momentum: Fraction = 0.9  # of sgd and muon
    ema: Fraction = 0.0  # decay of the moving average of the weights that is evaluated and saved as the best; 0: none
    accumulate: Positive[int] = 1  # batches per update; their gradients add up to that of one large batch

    # Learning rate
    lr_scheduler_type: Literal["annealing", "step", "metric", "loss", "none"] = "{{ cookiecutter.lr_scheduler_type }}"
    """annealing: cosine annealing to eta_min; step: times gamma every step_size epochs; metric, loss: reduce on
    plateau, times gamma when the key metric or the evaluation loss stops improving; none: constant"""
    eta_min: MayChange[NonNegative[float]] = 0.0  # learning rate at the end of annealing
    step_size: MayChange[Positive[int]] = 8  # epochs between two reductions of step
    gamma: MayChange[Positive[float]] = 0.1  # factor of a reduction of step, metric or loss
    patience: MayChange[NonNegative[int]] = 3  # evaluations without improvement before metric or loss reduces
    warm_up_mode: Literal["linear", "exponential", "constant", "none"] = "{{ cookiecutter.warm_up_mode }}"
    """how the learning rate rises from warm_up_init_lr to its base: linearly, exponentially, at once at the end of the
    warm-up, or without a warm-up"""
    warm_up_epochs: NonNegative[float] | None = None
    """length of the warm-up in epochs; may be a fraction; None: 1, or a quarter of a run of fewer than 4 epochs"""
    warm_up_init_lr: NonNegative[float] = 1e-6  # learning rate of the first update of the warm-up

    # The run
    epochs: MayChange[Positive[int] | None] = None
    """epochs in total, those before a resume included; None: as many as suit the network, mostly 20"""
    ckpt_dir: MayChange[str] = "check_point"  # folder in which each run gets a folder of its own
    resume: MayChange[str] = ""  # continue a run: auto (the newest in ckpt_dir), a run's folder, or an epoch<N>.pth
    config: MayChange[str] = ""  # repeat a run with the settings in its config.json; flags given with it win
    folds: Positive[int] = 1  # of a cross-validation: parts of train, each of which is val in a run; 1: none
    fold: NonNegative[int] = 0  # which of the folds is trained, 1 to folds; 0: all, one after another
    seed: Annotated[int, Range(at_least=0, below=2**43)] = 0  # of all random numbers; the same seed repeats a run
    device: MayChange[str] = "auto"  # auto, cpu, cuda, cuda:1, mps
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: bf16 if the hardware has it, else fp32
    strategy: MayChange[Literal["ddp", "fsdp"]] = "ddp"  # of several processes: each has all weights, or a shard
    sync_timeout: MayChange[Positive[float]] = 30.0  # minutes of silence after which a process is considered failed
    compile: MayChange[bool] = False  # compile the parts with torch.compile: a slow start, then faster on a GPU
    log_per_step: MayChange[Positive[int]] = 50  # updates between two points of the TensorBoard curves
    save_per_epochs: MayChange[Positive[int]] = 1  # epochs between two saved states
    save_per_steps: MayChange[NonNegative[int]] = 0  # updates between two states inside epochs, too; 0: none there
    keep_last: MayChange[NonNegative[int]] = 3  # newest states to keep, and as many inside an epoch; 0: all
    early_stopping_patience: Annotated[MayChange[NonNegative[int]], FormerName("patience_stop")] = 0
    """epochs without a better key metric after which training stops early; 0: never"""
    histograms: MayChange[bool] = False  # record weights and gradients in TensorBoard after each epoch
    pictures: MayChange[Literal["end", "epoch", "none"]] = "end"  # when predictions are drawn; epoch: at the end, too
    model_info: MayChange[bool] = False  # print a summary of the layers and record the graph in TensorBoard
    show_lr: bool = False  # draw the learning rates of a run with these settings, and train nothing
    smoke: bool = False  # train one small epoch on synthetic data, which leaves no files
