"""Trainer: the training loop, evaluation, the best epoch, saving and resuming. A task subclasses it: see task.py.

In reading order: the attributes; what a task overrides; the check before training; training; evaluation;
checkpoints; helpers.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from . import checkpoint, settings
from .checkpoint import run_folder, state
from .data.loaders import grouped, length_of, local_batches, sample_means, train_batches
from .distributed.batches import LocalBatch
from .distributed.parallel import DataParallel, place_parts
from .distributed.process_group import (
    DelayedMax,
    ProcessGroupConfig,
    all_gather,
    broadcast_buffers,
    is_rank_0,
    on_rank_0,
    rank,
    world_size,
)
from .metrics import (
    WORST,
    DatasetMetric,
    SampleMeans,
    TrainingLosses,
    check_scalars,
    compute,
    improves,
    mode_by_name,
    update_best_values,
)
from .monitor import console, figures, lr_curve
from .monitor.summary import show_network
from .monitor.tensorboard import NullWriter, Writer, record_epoch, record_histograms, record_scalars
from .network import Network, eval_mode, evaluating, export, on_cpu, train_mode
from .nonfinite import NonFiniteWatch, check_weights
from .optim.ema import NoAverage, WeightAverage
from .optim.gradients import UPDATES_BELONG, Gradients, parameters_of, refuse_steps
from .optim.optimizers import check_attributes, check_parameters, learning_rates
from .runtime.devices import NO_CONTEXT, autocast, grad_scaler, pick_device, pick_precision, to_device
from .runtime.errors import UserError
from .runtime.seeding import epoch_seed, preserve_rng_state, seed_everything
from .runtime.shortcuts import keep_freed_memory
from .runtime.signals import Stopped, StopSignals
from .schedulers import EPOCHS, Schedule, ScheduleConfig, Timeline, build_schedule

Losses = dict[str, Any]  # scalars by name: tensors or numbers
SAMPLES_DRAWN = 64  # in figures, if the data set has `preview`; else one batch


class TrainerConfig(ScheduleConfig, ProcessGroupConfig, Protocol):
    """The settings that the trainer reads; config.py explains them and has their defaults."""

    @property
    def task_type(self) -> str: ...
    @property
    def epochs(self) -> int | None: ...
    @property
    def accumulate(self) -> int: ...
    @property
    def clip_grad(self) -> float: ...
    @property
    def ema(self) -> float: ...
    @property
    def ckpt_dir(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def precision(self) -> str: ...
    @property
    def strategy(self) -> str: ...
    @property
    def compile(self) -> bool: ...
    @property
    def log_per_step(self) -> int: ...
    @property
    def save_per_epochs(self) -> int: ...
    @property
    def save_per_steps(self) -> int: ...
    @property
    def keep_last(self) -> int: ...
    @property
    def early_stopping_patience(self) -> int: ...
    @property
    def histograms(self) -> bool: ...
    @property
    def pictures(self) -> str: ...


class MicroBatch(NamedTuple):
    """The position of a micro-batch in its update, of one or --accumulate of them, and its weight in the loss."""

    first: bool
    last: bool
    weight: float  # local batch size x number of processes / samples of the update


class Trainer:
    """Trains a list of models with a list of optimizers.

    A subclass sets the first group of attributes in its `__init__` and overrides `loss` and `metric`. Then
    `fit(epochs)` trains. All random numbers are seeded first, so that initial weights follow from the config.

    Args:
        config: the settings, as an instance of Config in config.py.

    Raises:
        UserError: a setting of another type or outside its range.
    """

    def __init__(self, config: TrainerConfig) -> None:
        if is_dataclass(config):
            settings.check_values(config)
        self.config = config
        seed_everything(config.seed)

        # What a task sets.
        self.model_list: list[nn.Module] = []  # the parts of the network, in the order of `forward`
        self.optimizer_list: list[Optimizer] = []  # usually one per part
        self.criterion: Callable[..., Tensor] = nn.CrossEntropyLoss()
        self.train_loader: Any = []  # any iterable of batches with a length
        self.eval_loader: Any = []
        self.test_loader: Any = []  # `test` reads it once, after training; it chooses nothing
        self.dataset_metrics: dict[str, DatasetMetric] = {}  # metrics over the whole data set, by name
        self.key_metric = "loss"  # the score that chooses the best epoch
        self.key_mode = ""  # whether "max" or "min" of it is better; "": as its name says (MODES in metrics.py)
        self.score_modes: dict[str, str] = {}  # the same for other scores whose names do not say it
        self.meta: dict[str, Any] = {}  # what prediction needs besides the weights, in plain types; saved with them

        # Where it runs and what it writes.
        self.device = pick_device(config.device)
        keep_freed_memory(self.device)
        self.precision = pick_precision(config.precision, self.device)
        self.ckpt_dir = Path(config.ckpt_dir)  # the folder of this run; check_init makes one here, unless it is set
        self.writer: Writer = NullWriter()

        # How far it is.
        self.epochs = config.epochs or EPOCHS  # how many to train in total; a task may set it if config.epochs is None
        self.epoch = 0  # the epoch in training, or the last one trained
        self.epoch_step = 0  # updates made in this epoch; 0 again once it is evaluated
        self.global_step = 0  # updates made
        self.best_metric: dict[str, float] = {}  # losses and scores of the best epoch
        self.best_epoch = 0
        self.best_values: dict[str, float] = {}  # the best value of each loss and score by itself
        self.train_means: dict[str, float] = {}  # mean training losses of the last epoch
        self.last_point: tuple[int, dict[str, float]] = (0, {})  # update and values of the last log point
        self.log_points = range(0)  # updates of this epoch that are recorded: every log_per_step, or else its last one
        self.logged_losses: list[float] = []  # mean loss at each log point of the epoch

        # What training needs besides; check_init makes the rest of it.
        self.sample_means: list[float] = []  # of a few samples, by which a resumed run knows its data
        self.training_losses = TrainingLosses()
        self.non_finite = NonFiniteWatch()
        self.grad_norm = torch.zeros(())  # over all parts, before clipping; of the last log point
        self.scaler = grad_scaler(self.precision, self.device)
        self.weight_average = NoAverage()  # with --ema, what is evaluated: see `averaged`
        self.lr_scheduler_list: list[Schedule] = []
        self.micro_batch = MicroBatch(first=True, last=True, weight=1.0)
        self.speed = console.Speed()
        self.signals = StopSignals()
        self._checked = False  # whether check_init has been called
        self._stop_vote = DelayedMax()
        self._steps = 0  # calls of _step, by this process
        self._epoch_began = time.perf_counter()
        self._table = console.EpochTable()

    @classmethod
    def without_data(cls, config: TrainerConfig) -> "Trainer":
        """A task for inference: its own `__init__`, which reads data, does not run. Set `meta` and `model_list`."""
        task = cls.__new__(cls)
        Trainer.__init__(task, config)
        return task

    # ---- settings as attributes ----

    @property
    def task_type(self) -> str:
        """What the checkpoints are of."""
        return self.config.task_type

    @property
    def log_per_step(self) -> int:
        """Updates between two log points."""
        return self.config.log_per_step

    @property
    def lr_scheduler_type(self) -> str:
        """A key of SCHEDULES."""
        return self.config.lr_scheduler_type

    @property
    def warm_up_mode(self) -> str:
        """A key of WARM_UPS."""
        return self.config.warm_up_mode

    @property
    def warm_up_epochs(self) -> float:
        """The length of the warm-up in epochs."""
        return self.timeline().warm_up_epochs

    # ---- what a task overrides ----

    def forward(self, x: Any) -> Any:
        """The output of the network: each part takes the output of the one before."""
        for model in self.model_list:
            x = model(x)
        return x

    def loss(self, pred: Any, y: Any) -> Losses:
        """Losses by name, each a mean over the samples of the batch: "loss" is minimised, others are only recorded.

        CrossEntropyLoss with `weight` or `ignore_index` takes other means: they depend on which samples share a batch.
        """
        return {"loss": self.criterion(pred, y)}

    def metric(self, pred: Any, y: Any) -> dict[str, Any]:
        """Scores that are means over the samples of a batch, scalars by name."""
        return {}

    def loss_per_batch(self, batch: Any) -> Losses:
        """The losses of a training batch. Override it if the loss needs more than the output and the targets."""
        x, y = inputs_and_targets(batch)
        return self.loss(self.forward(x), y)

    def eval_scores_per_batch(self, batch: Any) -> dict[str, Any]:
        """Losses and scores of an evaluation batch, by name, from one forward pass; also updates `dataset_metrics`.

        Override it if the scores need more than the output and the targets. If it returns no "loss", or if only
        `loss_per_batch` is overridden, the losses are those of `loss_per_batch`.

        Raises:
            UserError: `loss` or `metric` returns something else than scalars by name, or both have one of a name.
        """
        own_loss = self._overrides("loss_per_batch")
        if own_loss and not self._overrides("metric") and not self.dataset_metrics:
            return self._losses(batch)
        x, y = inputs_and_targets(batch)
        pred = self.forward(x)
        for metric in self.dataset_metrics.values():
            metric.update(pred, y)
        losses, scores = {} if own_loss else self.loss(pred, y), self.metric(pred, y)
        check_scalars(losses, "loss")
        check_scalars(scores, "metric")
        if both := losses.keys() & scores.keys():
            raise UserError(f"loss and metric both return {min(both)!r}; give one of them another name")
        return {**losses, **scores}

    def train_step(self, batch: Any) -> Losses:
        """One update of all optimizers from a batch: zero_grad, forward, backward, clip, step. Returns the losses.

        With --accumulate it is called for each micro-batch, and the step follows the last one. Override it for another
        update, such as a GAN's: run the networks inside `self.autocast()`, call `self.minimize(loss, optimizer)` for
        each update, and return losses by name, "loss" among them, to be recorded.

        Raises:
            UserError: `loss_per_batch` makes updates of its own, or returns something else than scalars by name.
        """
        if self.micro_batch.first:
            self.gradients.zero()
        # A hook slows a step down: steps are watched for in the first update, and gradients in all.
        watched = refuse_steps(self.optimizer_list) if self._steps == 0 else NO_CONTEXT
        with watched, self.data_parallel.sync(self.micro_batch.last), self.autocast():
            losses = self.data_parallel(self._losses, batch)
        if self.micro_batch.first and self.gradients.any():
            raise UserError(f"loss_per_batch has called backward(), but {UPDATES_BELONG}")
        require(losses, "loss", "the one to minimise, in what loss_per_batch returns")
        self._backward(losses["loss"])
        if self.micro_batch.last:
            self._step(self.gradients)
        return losses

    def _losses(self, batch: Any) -> Losses:
        """What `loss_per_batch` returns, once it is known to be scalars by name."""
        losses = self.loss_per_batch(batch)
        check_scalars(losses, "loss_per_batch")
        return losses

    def check_inputs(self, x: Any) -> None:
        """Raises a UserError for inputs that the network does not take, such as values of another range.

        It gets the inputs of the first batch of each loader, and those of `inference`. By default it takes all.
        """

    def augment(self, batch: Any) -> Any:
        """What is trained on instead of a training batch; it is on the device. By default the batch itself."""
        return batch

    def prepare(self) -> None:
        """Called once, before the first update of a new run: sets weights that depend on the data."""

    def begin_epoch(self) -> None:
        """Called before `self.epoch` is trained, or the rest of it: the place to freeze weights or to train them."""

    def draw(self, batch: Any) -> dict[str, Any]:
        """Matplotlib figures by name, of some samples and of what `dataset_metrics` hold after an evaluation."""
        return {}

    def prediction_meta(self) -> dict[str, Any]:
        """What prediction must know of the evaluation that has just ended, plain values: best.pth has it in `meta`."""
        return {}

    def report(self, split: str) -> None:
        """Prints and writes more than one number about the best epoch, from what `dataset_metrics` hold, at the end.

        Rank 0 alone calls it, so it predicts nothing.

        Args:
            split: "test" or, without a test set, "eval": how the files begin that it writes into `ckpt_dir`.
        """

    def analyse(self) -> dict[str, Any]:
        """Prints and writes what more predictions with the best weights say, at the end; returns figures by name.

        Every rank calls it, and must call `inference` equally often; files are written by rank 0 alone. The figures are
        dropped if --pictures is none.
        """
        return {}

    # ---- before training ----

    def check_init(self) -> None:
        """Checks what the task has set, moves the models to the device and builds the schedules; `fit` calls it.

        Raises:
            UserError: something is missing or contradictory; the message says what to set.
        """
        for name in ("model_list", "optimizer_list", "train_loader", "eval_loader"):
            if not length_of(getattr(self, name)):
                kind = "list" if name.endswith("list") else "loader with a length"
                raise UserError(f"{name} is empty or has no length; set it to a {kind} before check_init()")
        if self.lr_scheduler_list and not self._checked:
            raise UserError("lr_scheduler_list is made by check_init; choose lr_scheduler_type, or see schedulers.py")
        for name, metric in self.dataset_metrics.items():
            if isinstance(metric, type):
                raise UserError(f"dataset_metrics[{name!r}] is the class {metric.__name__}; make an instance of it")
        self.key_mode = self._checked_key_mode()
        if self._overrides("train_step") and self.config.accumulate > 1:
            raise UserError(
                f"accumulate is {self.config.accumulate}, but {type(self).__name__} has a train_step of its own, which "
                "updates after every batch; set it to 1"
            )
        if self.config.strategy == "fsdp" and self.precision == "fp16":
            raise UserError("fp16 does not go with the strategy fsdp; set precision to bf16 or fp32")
        check_parameters(self.model_list, self.optimizer_list)
        check_attributes(vars(self), self.model_list)
        state.check_plain(self.meta, "meta")
        state.check_plain(settings.of_run(self.config), "config")
        self.weight_average = WeightAverage(self, self.config.ema) if self.config.ema else NoAverage()
        if self.config.compile:
            for model in (*self.model_list, *self.weight_average.model_list):
                model.compile()
        place_parts(self.model_list, self.optimizer_list, self.device, self.config.strategy)
        if self.config.ema:
            place_parts(self.weight_average.model_list, [], self.device, self.config.strategy)
        if isinstance(self.criterion, nn.Module):
            self.criterion.to(self.device)  # the weights of classes, for instance
        self.data_parallel = DataParallel(self.model_list, self.config.strategy)
        self.gradients = Gradients(self.optimizer_list)
        self.lr_scheduler_list = [build_schedule(optimizer, self.timeline()) for optimizer in self.optimizer_list]
        if not self._has_own_folder():
            self.ckpt_dir = on_rank_0(run_folder.new_run_folder, self.ckpt_dir)
        Path(self.ckpt_dir).mkdir(parents=True, exist_ok=True)
        with preserve_rng_state(self.device):
            self.sample_means = sample_means(self.train_loader) + sample_means(self.eval_loader)
        self._checked = True
        print(console.start_lines(self.model_list, self.device, self.precision))

    def _checked_key_mode(self) -> str:
        """The mode of the key metric that is set, or else the one that its name says."""
        by_name = mode_by_name(self.key_metric)
        mode = self.key_mode or by_name
        if mode not in WORST:
            given = (
                f"key_mode {mode!r} is unknown" if mode else f"key_mode is not set, and {self.key_metric!r} is unknown"
            )
            raise UserError(f"{given}; set it to 'max' if more of {self.key_metric!r} is better, or else to 'min'")
        if by_name not in (None, mode):
            raise UserError(
                f"key_metric {self.key_metric!r} with key_mode {mode!r} would keep the worst epoch; set key_mode to "
                f"{by_name!r}, or choose another name"
            )
        return mode

    def _has_own_folder(self) -> bool:
        """Whether `ckpt_dir` is no longer the folder of all runs."""
        return Path(self.ckpt_dir) != Path(self.config.ckpt_dir)

    def updates_per_epoch(self) -> int:
        """The number of updates in an epoch."""
        return math.ceil(len(self.train_loader) / self.config.accumulate)

    def timeline(self) -> Timeline:
        """What the schedules depend on."""
        return Timeline(self.config, self.epochs, self.updates_per_epoch(), self.key_metric, self.key_mode)

    def save_lr_curve(self) -> None:
        """Draws the learning rates of the whole run into its folder, as lr.png, unless --pictures is none."""
        if self.config.pictures != "none" and is_rank_0():
            parts = [list(map(float, schedule.base_lrs)) for schedule in self.lr_scheduler_list]
            figures.try_write_png(lr_curve.draw_lr(self.timeline(), parts), Path(self.ckpt_dir) / "lr.png")

    # ---- training ----

    def fit(self, epochs: int | None = None) -> None:
        """Trains until `epochs` epochs are done, by default `self.epochs`, those before a resume included.

        First it scores one batch of the evaluation and of the test set, so that a mistake there costs no epoch, and
        writes config.json, with which the run can be resumed. The schedules end with the last epoch; a finished run
        that is given more continues on the longer curve.

        SIGTERM or SIGINT (Ctrl-C) stops after the update, or the evaluation batch, in progress: a state is saved and
        SystemExit raised, with 128 and the signal's number; a second SIGINT raises KeyboardInterrupt at once.

        Raises:
            UserError: something that check_init refuses; NaN or inf in a loss or a gradient, with the first update that
                has it; or a file that cannot be written.
        """
        epochs = self.epochs if epochs is None else epochs
        if type(epochs) is not int or epochs < 1:
            raise UserError(f"fit got {epochs!r} epochs; give a whole number from 1 on, of epochs in total")
        if not self._checked:
            self.check_init()
        if epochs != self.epochs:
            self.epochs = epochs
            self.timeline().check()
            for schedule in self.lr_scheduler_list:
                schedule.set_timeline(self.timeline())
        if self.is_finished():
            print(f"training has ended with epoch {self.epoch}; more epochs would continue it")
        with run_folder.locked(self.ckpt_dir), StopSignals() as self.signals:
            try:
                if not self.is_finished():
                    if note := self.timeline().note():
                        print(note)
                    self._try_evaluation()
                    self._write_settings()
                if not self.global_step:
                    with preserve_rng_state(self.device):
                        self.prepare()
                while not self.is_finished():
                    if self.epoch_step < self.updates_per_epoch():
                        self.train_loop()
                    elif self.last_point[0] == self.global_step:  # resuming has purged its records
                        record_scalars(self.writer, self.last_point[1], self.global_step)
                    self.eval_loop(self.config.save_per_epochs)
                    self._check_stop()
                if number := max(self._stop_vote.finish(), *all_gather(self.signals.received)):
                    raise Stopped(number)  # by a signal since the last vote
            except Stopped as stop:
                print(f"stopped by {stop.signal.name} after update {self.global_step}; saved {self._save()}")
                raise SystemExit(stop.exit_status) from None
        last = run_folder.state_path(self.ckpt_dir, self.epoch, 0)
        on_rank_0(run_folder.prune, last, self.config.keep_last)  # a kill may have come between its save and this
        if self.epoch < self.epochs:
            patience = self.config.early_stopping_patience
            print(f"no better {self.key_metric} for {patience} epochs: training stops early (early_stopping_patience)")

    def _try_evaluation(self) -> None:
        """Scores the first batch of the evaluation and of the test set; a UserError says what cannot be used."""
        if self._overrides("evaluate"):
            return
        names, trainer = set(self.dataset_metrics), self.averaged()
        for loader in (loader for loader in (self.eval_loader, self.test_loader) if length_of(loader)):
            with evaluating(trainer.model_list), preserve_rng_state(self.device):
                batch = next(self._awaited(loader, local_batches(loader, loader)))
                self._check_batch(to_device(batch.data, self.device))
                try:
                    names |= trainer._scores(batch).keys()
                except RuntimeError as error:
                    if "does not require grad" not in str(error):
                        raise
                    raise UserError(
                        f"loss_per_batch has called backward(), but {UPDATES_BELONG}; its scores are "
                        "what eval_scores_per_batch(batch) returns"
                    ) from error
        if world_size() == 1:
            try:
                compute(self.dataset_metrics)
            except UserError:
                raise
            except Exception:  # one batch may be too little for a metric
                pass
        for metric in self.dataset_metrics.values():
            metric.reset()
        require(dict.fromkeys(names), self.key_metric, "the key_metric, in the scores")

    def _check_batch(self, data: Any) -> None:
        """Hands the inputs of a batch, which come first in it, to `check_inputs`."""
        if isinstance(data, (tuple, list)) and data:
            self.check_inputs(data[0])

    def _write_settings(self) -> None:
        """Writes config.json into the folder of the run."""
        if is_dataclass(self.config):
            on_rank_0(settings.save, replace(self.config, epochs=self.epochs), Path(self.ckpt_dir))

    def train_loop(self) -> dict[str, float]:
        """Trains for an epoch, or the rest of one inside which a state was saved; returns its mean losses."""
        batches, updates = self._start_epoch(), self.updates_per_epoch()
        with console.progress(f"epoch {self.epoch}/{self.epochs}", updates, self.epoch_step) as bar:
            self.speed = console.Speed()
            for micro_batches in grouped(batches, self.config.accumulate):
                self._update(micro_batches)
                if self.global_step in self.log_points:
                    bar.set_postfix_str(self._log_point())
                self.update_lr_scheduler()
                bar.update()
                if self.epoch_step < updates:
                    self._between_updates()
        self._check_finite()
        self.train_means = self.training_losses.epoch_means()
        if self.config.histograms:
            record_histograms(self.writer, self.model_list, self.global_step)
        return self.train_means

    def _start_epoch(self) -> Iterator[LocalBatch]:
        """The batches of the next epoch, or those that are left of the epoch in training."""
        if self.epoch_step in (0, self.updates_per_epoch()):
            self.epoch, self.epoch_step = self.epoch + 1, 0
            self.training_losses, self.logged_losses = TrainingLosses(), []
            self._epoch_began = time.perf_counter()
        every, before = self.config.log_per_step, self.global_step - self.epoch_step  # updates before this epoch
        last = before + self.updates_per_epoch()
        self.log_points = range(every * (before // every + 1), last + 1, every) or range(last, last + 1)
        trained = self._trained()
        self.begin_epoch()
        if self._trained() != trained:  # DDP averages the gradients of weights that were trained when it was made
            self.data_parallel = DataParallel(self.model_list, self.config.strategy)
        for model in self.model_list:
            train_mode(model)
        # All that an epoch draws follows from (seed, epoch). A state inside an epoch holds the generators as they were:
        # passing over the batches before it must not move them.
        with preserve_rng_state(self.device) if self.epoch_step else nullcontext():
            seed_everything(seed := epoch_seed(self.config.seed, self.epoch))
            batches = train_batches(self.train_loader, self.epoch, self.epoch_step * self.config.accumulate)
            batches = self._awaited(self.train_loader, batches)
            seed_everything(seed, rank())  # from here on each process draws its own numbers, for dropout and the like
            return batches

    def _trained(self) -> list[bool]:
        """Of every weight of the network, whether it is trained."""
        return [weight.requires_grad for model in self.model_list for weight in model.parameters()]

    def _update(self, micro_batches: list[LocalBatch]) -> None:
        """One update of the weights from the micro-batches that share it."""
        samples, steps = sum([batch.global_size for batch in micro_batches]), self._steps
        own_step = self._overrides("train_step")
        if not steps:
            self._check_batch(micro_batches[0].data)
        for number, batch in enumerate(micro_batches, 1):
            weight = batch.local_size * world_size() / samples  # the mean over processes is taken afterwards
            self.micro_batch = MicroBatch(number == 1, number == len(micro_batches), weight)
            try:
                losses = self.train_step(self.augment(to_device(batch.data, self.device)))
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise UserError(
                    f"BatchNorm cannot train on a batch of {batch.local_size}: {error}; set --batch_size to 2 or more "
                    "per process, or put GroupNorm into the network"
                ) from error
            if own_step:
                check_scalars(losses, "train_step")
                require(losses, "loss", "in what train_step returns, to be recorded")
            self.training_losses.add(losses, batch.local_size, self.global_step + 1)
        if self._steps == steps and world_size() > 1:  # or the processes would have different weights
            raise UserError("train_step has made no update; make each by self.minimize(loss, optimizer)")
        self.weight_average.update(self.global_step)
        self.global_step += 1
        self.epoch_step += 1
        self.speed.samples += samples

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision: inside, matrix products and convolutions run in the precision of the run."""
        return autocast(self.precision, self.device)

    def minimize(self, loss: Tensor, *optimizers: Optimizer) -> None:
        """For a `train_step`: zero_grad, backward, mean over the processes, clip and step of these optimizers.

        Raises:
            UserError: no optimizer, or a loss that is no scalar or has no gradient.
        """
        if not optimizers:
            raise UserError("minimize has got no optimizer: give those to update, as minimize(loss, optimizer)")
        check_scalars({"loss": loss}, "train_step, which minimises it,")
        gradients = Gradients(optimizers)
        gradients.zero()
        self._backward(loss)
        gradients.all_reduce()
        self._step(gradients)

    def _backward(self, loss: Tensor) -> None:
        if not (torch.is_tensor(loss) and loss.requires_grad):
            raise UserError(
                "the loss to minimise has no gradient: compute it by tensor operations from the network's output, "
                "without .item(), .detach() or no_grad"
            )
        weighted = loss if self.micro_batch.weight == 1 else loss * self.micro_batch.weight
        self.scaler.scale(weighted).backward()

    def _step(self, gradients: Gradients) -> None:
        """Checks and clips the gradients, then steps their optimizers."""
        update = self.global_step + 1
        if not self.scaler.is_enabled():  # fp16 overflows now and then, and the scaler skips those steps
            if self.non_finite.is_full:
                self._check_finite()
            gradients.flag_non_finite(self.non_finite.flag(update, self.device))
        if self.config.clip_grad or update in self.log_points:
            self.grad_norm = gradients.clip(self.scaler, self.config.clip_grad)
        for optimizer in gradients.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        self._steps += 1

    def _check_finite(self) -> None:
        """Raises a UserError that names the first update since the last log point with NaN or inf."""
        self.non_finite.check(self.training_losses.bad_values())

    def _log_point(self) -> str:
        """Records what came since the last log point, with learning rates and gradient norm; returns the bar's text."""
        self._check_finite()
        losses, lrs = self.training_losses.log_point(), learning_rates(self.optimizer_list)
        self.logged_losses.append(losses["loss"])
        # The very first loss is far above all others and would flatten the curve; but each epoch has a point.
        recorded = self.global_step > 1 or len(self.log_points) == 1
        values = {f"train/{name}": value for name, value in losses.items() if recorded}
        values |= lrs | {"train/grad_norm": self.grad_norm.item()}
        self.last_point = self.global_step, values
        speed = self.speed.read()
        record_scalars(self.writer, values | {"speed/samples_per_second": speed}, self.global_step)
        return console.bar_status(losses["loss"], lrs, speed)

    def first_record(self) -> int:
        """The first update whose TensorBoard records are still to be written; those of it and later ones are purged."""
        # A run that was stopped in an evaluation evaluates again, and those records belong to the last update.
        return self.global_step + (self.epoch_step != self.updates_per_epoch())

    def update_lr_scheduler(self, scores: Mapping[str, float] | None = None) -> None:
        """Moves every schedule to the next update or, given the scores of an evaluation, tells it these."""
        for schedule in self.lr_scheduler_list:
            if scores is None:
                schedule.step()
            else:
                schedule.after_evaluation(scores)

    def change_lr(self, lr_list: list[float]) -> None:
        """Gives each optimizer a new base learning rate; its schedule continues from there.

        The first group of the optimizer gets that learning rate, and further groups keep their ratio to it.

        Raises:
            UserError: not one learning rate per optimizer.
        """
        if len(lr_list) != len(self.optimizer_list):
            raise UserError(f"change_lr got {len(lr_list)} rates for {len(self.optimizer_list)} optimizers")
        for schedule, lr in zip(self.lr_scheduler_list, lr_list, strict=True):
            schedule.change_lr(lr)

    def _between_updates(self) -> None:
        """Stops if a signal asked for it, and saves inside the epoch if that is due."""
        self._check_stop()
        if self.config.save_per_steps and self.global_step % self.config.save_per_steps == 0:
            self._save()

    def _check_stop(self) -> None:
        """Raises Stopped after a signal to any process; all of them stop at the same update, one or two later."""
        if number := self._stop_vote(self.signals.received):
            raise Stopped(number)

    def _awaited(self, loader: Any, batches: Iterator[LocalBatch]) -> Iterator[LocalBatch]:
        """The batches; while one process waits for its workers a signal stops it at once, even if they never answer."""
        return self.signals.awaited(batches) if getattr(loader, "num_workers", 0) and world_size() == 1 else batches

    def is_finished(self) -> bool:
        """Whether nothing is left to train: all epochs are done, or early stopping has run out of patience."""
        out_of_patience = 0 < self.config.early_stopping_patience <= self.epoch - self.best_epoch
        return self.epoch_step == 0 and (self.epoch >= self.epochs or out_of_patience)

    # ---- evaluation ----

    def eval_loop(self, save_per_epochs: int = 1) -> float:
        """Evaluates after an epoch, tells the schedules, keeps the best, records and saves; returns the key metric."""
        trainer = self.averaged()
        scores = trainer.evaluate(self.eval_loader)
        require(scores, self.key_metric, "the key_metric, in the scores")
        self.update_lr_scheduler(scores)
        self._update_best(scores)
        train_loss, seconds = self.train_means.get("loss", math.nan), time.perf_counter() - self._epoch_began
        record_epoch(
            self.writer, train_loss, scores, seconds, self.global_step
        )  # before the state, so that a resumed run has it
        self.epoch_step = 0
        lrs, is_best = learning_rates(self.optimizer_list), self.best_epoch == self.epoch
        self._table.print_row(self.epoch, self.epochs, train_loss, scores, self.key_metric, lrs, seconds, is_best)
        due = self.config.save_per_steps and self.global_step % self.config.save_per_steps == 0
        if self.epoch % save_per_epochs == 0 or due or self.is_finished():
            self._save()
        if self.config.pictures == "epoch":
            trainer._draw(self.eval_loader, "eval", self.global_step)
        return scores[self.key_metric]

    def averaged(self) -> "Trainer":
        """The trainer to evaluate and to predict with: this one or, with --ema, a copy that has the averaged weights.

        Evaluation and `draw` run on that copy: there, what they set on `self` is gone afterwards.
        """
        return self.weight_average.twin_of(self)

    def evaluate(self, loader: Any) -> dict[str, float]:
        """Mean losses and scores over all samples of `loader`; modes, buffers and random states stay as they were."""
        means = SampleMeans()
        for metric in self.dataset_metrics.values():
            metric.reset()
        broadcast_buffers(self.model_list)
        trainer, bar = self.averaged(), console.progress("eval", len(loader))
        with evaluating(trainer.model_list), preserve_rng_state(self.device), bar:
            for batch in self._awaited(loader, local_batches(loader, loader)):
                self._check_stop()
                means.add(trainer._scores(batch), batch.local_size)
                bar.update()
            return {**means.means(), **compute(self.dataset_metrics)}

    def _scores(self, batch: LocalBatch) -> dict[str, Any]:
        trainer = self
        if batch.local_size == 0:  # takes part, since FSDP gathers weights in all processes, but counts in no metric
            trainer = copy.copy(self)
            trainer.dataset_metrics = copy.deepcopy(self.dataset_metrics)
        data = to_device(batch.data, self.device)
        with self.autocast():
            scores = trainer.eval_scores_per_batch(data)
            check_scalars(scores, "eval_scores_per_batch")
            return scores if "loss" in scores else {**trainer._losses(data), **scores}

    def _update_best(self, scores: dict[str, float]) -> None:
        """Keeps the best value of each score and, if the key metric has improved, this epoch as the best.

        An epoch whose loss or key metric is NaN or inf is never the best.
        """
        modes = {name: mode_by_name(name) or ("min" if name in self.train_means else "max") for name in scores}
        update_best_values(self.best_values, scores, modes | self.score_modes | {self.key_metric: self.key_mode})
        best = self.best_metric.get(self.key_metric, WORST[self.key_mode])
        deciding = {name: scores[name] for name in ("loss", self.key_metric)}
        if not all(map(math.isfinite, deciding.values())):
            shown = ", ".join(f"{name} {value}" for name, value in deciding.items())
            print(f"note: epoch {self.epoch} cannot be the best, since its evaluation is not finite: {shown}")
        elif improves(scores[self.key_metric], best, self.key_mode):
            self.best_metric, self.best_epoch = dict(scores), self.epoch
            self.save_state(Path(self.ckpt_dir) / "best.pth", optim=False)

    def test(self) -> dict[str, float]:
        """Loads best.pth, reports, draws and analyses, and returns the scores of the test set; none without one."""
        best, split = Path(self.ckpt_dir) / "best.pth", "test" if len(self.test_loader) else "eval"
        draws = self.config.pictures != "none" and self._overrides("draw")
        evaluates = draws or self._overrides("report") or split == "test"
        if not (evaluates or self._overrides("analyse")):
            return {}
        if not on_rank_0(best.exists):
            print(f"there is no {best} to test")
            return {}
        self.load_state(best, optim=False)
        trainer, loader = self.averaged(), self.test_loader if split == "test" else self.eval_loader
        scores = trainer.evaluate(loader) if evaluates else {}
        if split == "test":
            print(console.score_line(f"test of epoch {self.best_epoch}", scores))
        if is_rank_0():
            trainer.report(split)
        step = self.global_step + 1  # as record_result
        if draws:
            trainer._draw(loader, split, step)
        made = trainer.analyse()
        if self.config.pictures != "none":
            self._write_figures("result", "", made, step)
        return scores if split == "test" else {}

    def _draw(self, loader: Any, split: str, step: int) -> None:
        """Writes the figures that `draw` makes after an evaluation of `loader`, to the run's folder and TensorBoard."""
        dataset: Any = getattr(loader, "dataset", None)
        with preserve_rng_state(self.device):
            batch = dataset.preview(SAMPLES_DRAWN) if hasattr(dataset, "preview") else next(iter(loader))
        made = self.draw(to_device(batch, self.device))  # on every rank: with FSDP all of them must predict
        self._write_figures(split, f"{split}_", made, step)

    def _write_figures(self, tag: str, prefix: str, made: Mapping[str, Any], step: int) -> None:
        """Writes figures by name to the run's folder and, below that tag, to TensorBoard."""
        if not is_rank_0():
            return
        for name, figure in made.items():
            picture = figures.render(figure)
            figures.try_write_png(picture, Path(self.ckpt_dir) / f"{prefix}{name}.png")
            self.writer.add_image(f"{tag}/{name}", picture[..., :3], step, dataformats="HWC")

    def record_result(self, settings: Mapping[str, Any], test_scores: Mapping[str, float]) -> None:
        """Records the settings beside the scores of the best epoch and of the test set, in TensorBoard's HPARAMS."""
        scores = {f"result/best_{name}": value for name, value in self.best_metric.items()}
        scores |= {f"result/test_{name}": value for name, value in test_scores.items()}
        # As of the update after the last one, so that a run that continues purges it.
        self.writer.add_result(settings, scores, self.global_step + 1)

    def inference(self, x: Any) -> Any:
        """The network's output for `x`, in eval mode, on the device and in the precision of the run."""
        self.check_inputs(x)
        trainer = self.averaged()
        with evaluating(trainer.model_list), self.autocast():
            return trainer.forward(to_device(x, self.device))

    # ---- checkpoints ----

    def save_state(self, path: str | Path, optim: bool = True) -> None:
        """Writes the weights and scores and, with `optim`, all that continuing needs: see checkpoint/state.py.

        With --ema the weights are the averaged ones; what is there to continue from has both.

        Raises:
            UserError: a weight is NaN or inf, or the file cannot be written; what was at `path` is still there.
        """
        check_weights(parameters_of(self.optimizer_list), self.scaler, self.global_step)
        averaged = self.averaged()  # whose buffers are the present ones now
        on_rank_0(checkpoint.save, state.collect(self if optim else averaged, optim), path)

    def load_state(self, path: str | Path, optim: bool = True) -> None:
        """Reads what `save_state` has written; without `optim` the weights alone, for inference.

        Learning rates are those of the present config, at the update from which the run continues, in the folder of the
        file unless `ckpt_dir` is set.

        Raises:
            UserError: a damaged file, one of another task or network, or one from which this run cannot continue.
                Nothing was changed.
        """
        if optim and not self._checked:
            self.ckpt_dir = self.ckpt_dir if self._has_own_folder() else Path(path).parent
            self.check_init()
        state.restore(self, checkpoint.load(path), path, optim)

    def data_sizes(self) -> dict[str, int]:
        """What the order of samples and the schedule depend on; a run continues only if they are the same."""
        loaders = {"training": self.train_loader, "evaluation": self.eval_loader}
        samples = {f"{name} samples": len(getattr(loader, "dataset", loader)) for name, loader in loaders.items()}
        return samples | {"updates per epoch": self.updates_per_epoch()}

    def _save(self) -> Path:
        """Saves all that continuing needs, in a file named by the position in the run, and removes the oldest ones."""
        self._check_finite()
        self.writer.flush()  # the records that the state covers are on the disk before it
        update = self.global_step if self.epoch_step else 0
        path = run_folder.state_path(self.ckpt_dir, self.epoch, update)
        self.save_state(path)
        on_rank_0(run_folder.prune, path, self.config.keep_last)
        return path

    def save_model(self, path: str | Path) -> None:
        """Writes the whole network, in eval mode, for `torch.export.load(path).module()`; a UserError with FSDP."""
        twin = copy.copy(self.averaged())
        twin.model_list = on_cpu(twin.model_list)
        x = self.example_input().cpu()
        export(Network(twin.model_list, twin.forward), torch.cat([x, x])[:2], path)

    # ---- helpers ----

    def example_input(self) -> Any:
        """An input of `forward`: what comes first in the first evaluation batch. Override it for other batches.

        Raises:
            UserError: the batch is neither a tensor nor a list.
        """
        with preserve_rng_state(self.device):
            batch = next(iter(self.eval_loader))
        if isinstance(batch, (tuple, list)):
            return batch[0]
        if torch.is_tensor(batch):
            return batch
        raise UserError(f"a batch is a {type(batch).__name__}: override example_input to return an input of forward")

    def get_model_info(self, fake_inp: Any) -> None:
        """Prints a summary of each part and records the graph in TensorBoard; changes nothing and never fails."""
        print(f"{' model info ':=^60}")
        with torch.no_grad(), eval_mode(self.model_list), preserve_rng_state(self.device):
            show_network(Network(self.model_list, self.forward), to_device(fake_inp, self.device), self.writer)
        print(f"{self.num_parameters():,} parameters")

    def num_parameters(self) -> int:
        """The number of parameters of all parts together, frozen ones included."""
        return sum(p.numel() for model in self.model_list for p in model.parameters())

    def print_best_metrics(self) -> None:
        """Prints the scores of the best epoch, and the best value that each score has reached in any epoch."""
        if not self.best_metric:
            print(f"no epoch is the best: {self.key_metric} or the loss was NaN or inf, or best.pth is gone")
            return
        print(f"best epoch {self.best_epoch} (by {self.key_metric})")
        for name, value in self.best_metric.items():
            print(f"  {name:<12} {value:.4f}   best of all epochs {self.best_values.get(name, value):.4f}")

    def print_final_lr(self) -> None:
        """Prints the present learning rate of every part."""
        print(*(f"final {name}: {lr:g}" for name, lr in learning_rates(self.optimizer_list).items()), sep="\n")

    def print_all_member(self, print_model: bool = False) -> None:
        """Prints the settings and the attributes that are short enough to read, the models too if asked."""
        print(f"{' trainer ':=^60}")
        short = (int, float, str, Path, torch.device, dict)
        members = {name: value for name, value in vars(self).items() if isinstance(value, short) and name != "meta"}
        models = {"model_list": self.model_list} if print_model else {}
        for name, value in (vars(self.config) | members | models).items():
            if not name.startswith("_"):
                print(f"{name}: {value}")

    def _overrides(self, method: str) -> bool:
        """Whether the task has a method of that name of its own."""
        return getattr(type(self), method) is not getattr(Trainer, method)


def inputs_and_targets(batch: Any) -> tuple[Any, Any]:
    """The inputs x and the targets y of a batch.

    Raises:
        UserError: a batch of another form.
    """
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        x, y = batch
        return x, y
    form = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list, dict)) else type(batch).__name__
    raise UserError(f"a batch is a {form}, not a pair (x, y); override loss_per_batch and eval_scores_per_batch")


def require(values: Mapping[str, Any], name: str, what: str) -> None:
    """Raises a UserError if `name` is not among the values."""
    if name not in values:
        raise UserError(f"{name!r}, {what}, is missing; there are {', '.join(map(repr, sorted(values))) or 'none'}")
