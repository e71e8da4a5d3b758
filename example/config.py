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

    task_type: ClassVar[str] = "image_classification"  # no setting: what task.py, data.py and model.py are for

    # Data, network and optimizer
    SMOKE: ClassVar[dict[str, Any]] = {"data": "synthetic", "batch_size": 32, "width": 16}  # for --smoke and tests
    data: MayChange[str] = "cifar10"  # cifar10 (downloaded into data_dir), synthetic, or a folder with train/CLASS/*
    data_dir: MayChange[str] = "data"  # folder for downloads
    val_fraction: Fraction = 0.1  # part of train that is held out to choose the best epoch, without a val folder
    image_size: NonNegative[int] = 0  # side of the square crops, in pixels; 0: as the backbone and the images are
    eval_size: NonNegative[int] = 0  # the same for evaluation and prediction; 0: as suits crop_area and the backbone
    batch_size: Positive[int] = 128  # images per batch, over all processes; pretrained networks get 8 batches or more
    workers: MayChange[NonNegative[int]] = 2  # processes that decode images
    cache_gb: MayChange[NonNegative[float]] = 20.0  # 10^9 bytes on the disk for images that are decoded once; 0: none
    cache_dir: MayChange[str] = "cache"  # folder of these, which runs share; it may be removed at any time
    crop_area: Annotated[float, Range(above=0, at_most=1)] | None = None
    """smallest part of an image that a random crop takes, which is then resized; 1: crops are shifted by shift_fraction
    instead; None: 0.35 for a pretrained backbone, else 1"""
    shift_fraction: Fraction = 0.0625  # training images are padded by this part of their side, then cropped at random
    flip: Annotated[bool, FormerName("mirror")] = True  # flip training images horizontally, in every other epoch
    auto_augment: Literal["none", "trivial"] = "none"  # trivial: one random operation for each image (TrivialAugment)
    erasing: Fraction = 0.0  # probability that a random box of a training image is erased
    mixup: NonNegative[float] = 0.0  # alpha of mixup: pairs of images are blended, and so are their targets; 0: none
    cutmix: NonNegative[float] = 0.0  # alpha of cutmix: a box of another image is put in; with mixup, one of both
    test_time_flip: bool = True  # evaluate and predict by the mean over an image and its flip; not without flip
    backbone: str = "auto"  # small, a name of timm or torchvision; auto: pretrained from 64 pixels on, else small
    weights: str = "auto"  # of the backbone: auto (installed or downloaded), none, or a FILE of weights or a best.pth
    freeze: tuple[str, ...] | None = None  # stages that are not trained: stem, body, head; None: the pretrained stem
    freeze_epochs: NonNegative[int] = 0  # how long; 0: always, else freeze is all but the head by default
    backbone_lr_factor: Positive[float] = 0.05  # of lr, for the pretrained stages, if lr has one value
    width: Positive[int] = 32  # channels of the first trained convolution of small; the cost grows with its square
    label_smoothing: Fraction = 0.1  # part of each target that is spread over all classes
    class_weights: Literal["none", "balanced"] = "none"  # balanced: all classes weigh the same in the loss
    sampler: Literal["shuffle", "balanced"] = "shuffle"  # balanced: an epoch has every class equally often
    optimizer: Annotated[str, one_of(OPTIMIZERS)] = "sgd"  # see engine/optim/optimizers.py
    lr: MayChange[tuple[Positive[float], ...]] = (0.05,)  # base learning rate: one for all parts, or one per part
    weight_decay: NonNegative[float] = 5e-4  # of weights with 2 dimensions or more; muon: of convolutions
    clip_grad: NonNegative[float] = 4.0  # largest norm of the gradient over all parts; 0: no clipping

    # Optimizers: one for each part of the network
    num_parts: Literal[1, 2, 3] = 1  # parts of the network, each with its own optimizer and learning rate
    momentum: Fraction = 0.9  # of sgd and muon
    ema: Fraction = 0.0  # decay of the moving average of the weights that is evaluated and saved as the best; 0: none
    accumulate: Positive[int] = 1  # batches per update; their gradients add up to that of one large batch

    # Learning rate
    lr_scheduler_type: Literal["annealing", "step", "metric", "loss", "none"] = "annealing"
    """annealing: cosine annealing to eta_min; step: times gamma every step_size epochs; metric, loss: reduce on
    plateau, times gamma when the key metric or the evaluation loss stops improving; none: constant"""
    eta_min: MayChange[NonNegative[float]] = 0.0  # learning rate at the end of annealing
    step_size: MayChange[Positive[int]] = 8  # epochs between two reductions of step
    gamma: MayChange[Positive[float]] = 0.1  # factor of a reduction of step, metric or loss
    patience: MayChange[NonNegative[int]] = 3  # evaluations without improvement before metric or loss reduces
    warm_up_mode: Literal["linear", "exponential", "constant", "none"] = "linear"
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
