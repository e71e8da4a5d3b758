"""Trainer: trains and evaluates a list of models with a list of optimizers; a task overrides its loss and its scores.

Schedules are in schedulers.py, checkpoint files in checkpoint.py, means and scores in metrics.py.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from . import UserError, checkpoint
from .checks import check_finite, check_has, check_parameters, check_settings
from .data import set_epoch, windows
from .devices import autocast, grad_scaler, num_samples, pick_device, pick_precision, to_device
from .metrics import WORST, SampleMeans, SetMetric, improves
from .network import Network, eval_mode, export, one_forward, show
from .records import NoWriter, epoch_line, progress, rates_by_name, record_epoch, record_histograms
from .schedulers import Schedule, Timeline, build_schedule
from .seeding import epoch_seed, kept_random_state, seed_everything

SAVED_WITH_WEIGHTS = ("meta", "epoch", "global_step", "key_metric", "best_metric")
SAVED_TO_CONTINUE = ("best_epoch", "best_values", "train_means")


class Trainer:
    """Set the attributes, call `check_init()`, then `fit(epochs)`.

    Override `loss_per_batch` and `metric`, and `forward` or `eval_scores_per_batch` where the network or the batch
    is not a chain fed with (x, y). Losses and scores are means over samples.
    """

    # Settings, named and explained as in config.py; `configure` takes them from there.
    epochs: int = 20
    lr_scheduler_type: str = "annealing"
    eta_min: float = 0.0
    step_size: int = 8
    gamma: float = 0.1
    patience: int = 3
    warm_up_mode: str = "none"
    warm_up_epochs: float = 1.0
    warm_up_init_lr: float = 1e-6
    accumulate: int = 1
    clip_grad: float = 0.0
    precision: str = "fp32"
    compile: bool = False
    seed: int = 0
    log_per_step: int = 50
    save_per_epochs: int = 1
    keep_last: int = 3
    histograms: bool = False

    def __init__(self) -> None:
        # What a task sets.
        self.model_list: list[nn.Module] = []  # the parts of the network, in the order of `forward`
        self.optimizer_list: list[Optimizer] = []  # usually one per part
        self.criterion: Callable[..., Tensor] = nn.CrossEntropyLoss()
        self.train_loader: Any = []  # any sized iterable of batches
        self.eval_loader: Any = []
        self.test_loader: Any = []  # chooses nothing; `test` reads it once
        self.set_metrics: dict[str, SetMetric] = {}  # scores of the whole set, by name
        self.key_metric = "loss"  # the score that chooses best.pth
        self.key_mode = "min"  # whether "max" or "min" of it is better
        self.score_modes: dict[str, str] = {}  # the same for other scores; losses are "min", the rest "max"
        self.meta: dict[str, Any] = {}  # what prediction needs; saved in every file, so of plain types
        # Where it runs and what it writes.
        self.device = pick_device("auto")
        self.ckpt_dir = Path("check_point") / time.strftime("%Y-%m-%d_%H-%M-%S")
        self.writer: Any = NoWriter()
        # Where it stands.
        self.epoch = 0  # the epoch in training, or the last one trained
        self.global_step = 0  # updates made
        self.best_metric: dict[str, float] = {}  # losses and scores of the best epoch
        self.best_epoch = 0
        self.best_values: dict[str, float] = {}  # the best value of each loss and score on its own
        self.train_means: dict[str, float] = {}  # mean losses of the last epoch
        self.logged_losses: list[float] = []  # mean loss at each log point of the last epoch
        self.lr_scheduler_list: list[Schedule] = []
        self._epoch_began = time.perf_counter()

    def configure(self, settings: object) -> None:
        """Takes over every attribute of `settings` that is declared at the top of this class, and its `device`."""
        vars(self).update({name: getattr(settings, name, getattr(self, name)) for name in Trainer.__annotations__})
        self.device = pick_device(getattr(settings, "device", "auto"))

    # ---- what a task overrides ----

    def forward(self, x: Any) -> Any:
        """The network's output: each part is fed with the output of the one before."""
        for model in self.model_list:
            x = model(x)
        return x

    def loss_per_batch(self, batch: Any) -> dict[str, Any]:
        """Mean losses over the batch, scalars by name. "loss" is minimised, the others are only recorded."""
        x, y = batch
        return {"loss": self.criterion(self.forward(x), y)}

    def eval_scores_per_batch(self, batch: Any) -> dict[str, Any]:
        """Mean scores over the batch, scalars by name; also feeds the scores of the whole set.

        The output of `forward` is shared with `loss_per_batch`: the network runs once per batch.
        """
        x, y = batch
        pred = self.forward(x)
        for score in self.set_metrics.values():
            score.update(pred, y)
        return self.metric(pred, y)

    def metric(self, pred: Any, y: Any) -> dict[str, Any]:
        """Scores that are means over the batch's samples, scalars by name."""
        return {}

    # ---- before training ----

    def check_init(self) -> None:
        """Checks all that was set, moves the models to the device and builds the schedules.

        Raises:
            UserError: something is missing or contradictory; the message names it and says what to set.
        """
        check_settings(self)
        check_parameters(self.model_list, self.optimizer_list)
        self.precision = pick_precision(self.precision, self.device)
        for model in self.model_list:
            model.to(self.device)
            if self.compile:
                model.compile()
        self.scaler = grad_scaler(self.precision, self.device)
        Path(self.ckpt_dir).mkdir(parents=True, exist_ok=True)
        self._build_schedules()
        parts = " + ".join(f"{sum(p.numel() for p in model.parameters()):,}" for model in self.model_list)
        print(f"device {self.device}, precision {self.precision}, parameters {parts}")

    def updates_per_epoch(self) -> int:
        """The number of optimizer steps in an epoch."""
        return math.ceil(len(self.train_loader) / self.accumulate)

    def _build_schedules(self) -> None:
        names = Timeline.__dataclass_fields__.keys() - {"updates_per_epoch"}
        timeline = Timeline(updates_per_epoch=self.updates_per_epoch(), **{name: getattr(self, name) for name in names})
        progress = [schedule.state_dict() for schedule in self.lr_scheduler_list]
        self.lr_scheduler_list = [build_schedule(self.lr_scheduler_type, o, timeline) for o in self.optimizer_list]
        for schedule, state in zip(self.lr_scheduler_list, progress, strict=False):
            schedule.load_state_dict(state)

    # ---- training ----

    def fit(self, epochs: int) -> None:
        """Trains and evaluates until `epochs` epochs are done in all, those before a resume included.

        Schedules end with the last of these epochs. More epochs for a finished run mean a longer curve, on which it
        goes on from where it stands: annealing leaves eta_min for the rate that the longer curve has there.
        """
        if epochs != self.epochs:
            self.epochs = epochs
            self._build_schedules()
        while self.epoch < self.epochs:
            self.train_loop()
            self.eval_loop(self.save_per_epochs)

    def train_loop(self) -> dict[str, float]:
        """Trains for one epoch; returns the mean losses over its samples."""
        self._start_epoch()
        epoch_means = SampleMeans()
        with progress(f"epoch {self.epoch}/{self.epochs}", self.updates_per_epoch()) as bar:
            log_means = SampleMeans()
            for window in windows(self.train_loader, self.accumulate):
                self._update(window, log_means)
                if self.global_step % self.log_per_step == 0:
                    bar.set_postfix(self._log_losses(log_means))
                    epoch_means.merge(log_means)
                    log_means = SampleMeans()
                self.update_lr_scheduler()
                bar.update()
            epoch_means.merge(log_means)
        self.train_means = epoch_means.means()
        check_finite(self.train_means, f"epoch {self.epoch}, update {self.global_step}")
        if self.histograms:
            record_histograms(self.writer, self.model_list, self.global_step)
        return self.train_means

    def _start_epoch(self) -> None:
        self.epoch += 1
        self._epoch_began = time.perf_counter()
        self.logged_losses = []
        # All that an epoch draws follows from (seed, epoch): a resumed run needs no state of any generator.
        seed_everything(epoch_seed(self.seed, self.epoch))
        set_epoch(self.train_loader, self.epoch)
        for model in self.model_list:
            model.train()

    def _update(self, window: list[Any], means: SampleMeans) -> None:
        """One step of every optimizer on the gradient of the mean loss over all samples of the window's batches."""
        for optimizer in self.optimizer_list:
            optimizer.zero_grad()
        total = sum(num_samples(batch) for batch in window)
        for batch in window:
            with autocast(self.precision, self.device):
                losses = self.loss_per_batch(to_device(batch, self.device))
            check_has(losses, "loss", "the one to minimise, in what loss_per_batch returns")
            samples = num_samples(batch)
            means.add(losses, samples)
            self.scaler.scale(losses["loss"] * (samples / total)).backward()
        if self.clip_grad:
            self._clip_gradients()
        for optimizer in self.optimizer_list:
            self.scaler.step(optimizer)
        self.scaler.update()
        self.global_step += 1

    def _clip_gradients(self) -> None:
        """Scales the gradients of all parts by one factor, so that their common norm is at most `clip_grad`.

        A part that overflowed in fp16 is not stepped by the scaler; the others then get gradients of zero.
        """
        for optimizer in self.optimizer_list:
            self.scaler.unscale_(optimizer)
        parameters = [p for o in self.optimizer_list for group in o.param_groups for p in group["params"]]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        nn.utils.clip_grads_with_norm_(parameters, self.clip_grad, torch.where(norm.isfinite(), norm, math.inf))

    def update_lr_scheduler(self, scores: Mapping[str, float] | None = None) -> None:
        """Moves every schedule on by one update or, given the scores of an evaluation, tells it these."""
        for schedule in self.lr_scheduler_list:
            if scores is None:
                schedule.step()
            else:
                schedule.after_evaluation(scores)

    def change_lr(self, lr_list: list[float]) -> None:
        """Gives each optimizer, all groups of it, a new base learning rate; schedules go on from there.

        Raises:
            UserError: not one rate per optimizer.
        """
        if len(lr_list) != len(self.optimizer_list):
            raise UserError(f"change_lr got {len(lr_list)} rates for {len(self.optimizer_list)} optimizers")
        for schedule, lr in zip(self.lr_scheduler_list, lr_list, strict=True):
            schedule.rebase(lr)

    # ---- evaluation ----

    def eval_loop(self, save_per_epochs: int = 1) -> float:
        """Evaluates after an epoch, moves plateau schedules, saves, records; returns the key metric."""
        scores = self.evaluate(self.eval_loader)
        check_has(scores, self.key_metric, "the key_metric, in the scores")
        self.update_lr_scheduler(scores)
        self._note_best(scores)
        # Before the state is saved: what a state covers has been recorded.
        train_loss = self.train_means.get("loss", math.nan)
        record_epoch(self.writer, train_loss, scores, self.global_step)
        line = epoch_line(f"{self.epoch}/{self.epochs}", train_loss, scores, rates_by_name(self.optimizer_list))
        best = "  best" if self.best_epoch == self.epoch else ""
        print(f"{line}  {time.perf_counter() - self._epoch_began:.1f} s{best}")
        if self.epoch % save_per_epochs == 0 or self.epoch >= self.epochs:
            self.save_state(Path(self.ckpt_dir) / f"epoch{self.epoch}.pth")
            checkpoint.prune(self.ckpt_dir, self.keep_last)
        return scores[self.key_metric]

    @torch.inference_mode()
    def evaluate(self, loader: Any) -> dict[str, float]:
        """Mean losses and scores over all samples of `loader`; modes, buffers and random state stay as they were."""
        means = SampleMeans()
        for score in self.set_metrics.values():
            score.reset()
        with eval_mode(self.model_list), kept_random_state(self.device), progress("evaluation", len(loader)) as bar:
            for batch in loader:
                samples = num_samples(batch)
                batch = to_device(batch, self.device)
                with autocast(self.precision, self.device), one_forward(self):
                    means.add(self.loss_per_batch(batch), samples)
                    means.add(self.eval_scores_per_batch(batch), samples)
                bar.update()
        return {**means.means(), **{name: float(score.compute()) for name, score in self.set_metrics.items()}}

    def test(self) -> dict[str, float]:
        """Mean losses and scores of best.pth on the test set, where there is one; its weights stay in the models."""
        best = Path(self.ckpt_dir) / "best.pth"
        if not len(self.test_loader) or not best.exists():
            return {}
        self.load_state(best, optim=False)
        scores = self.evaluate(self.test_loader)
        print(f"test of epoch {self.best_epoch}  " + "  ".join(f"{name} {v:.4f}" for name, v in scores.items()))
        return scores

    def _note_best(self, scores: dict[str, float]) -> None:
        modes = {name: "min" for name in self.train_means} | self.score_modes | {self.key_metric: self.key_mode}
        for name, value in scores.items():
            mode = modes.get(name, "max")
            if improves(value, self.best_values.get(name, WORST[mode]), mode):
                self.best_values[name] = value
        best = self.best_metric.get(self.key_metric, WORST[self.key_mode])
        if improves(scores[self.key_metric], best, self.key_mode):
            self.best_metric, self.best_epoch = dict(scores), self.epoch
            self.save_state(Path(self.ckpt_dir) / "best.pth", optim=False)

    @torch.inference_mode()
    def inference(self, x: Any) -> Any:
        """The network's output for `x`, in eval mode; on the device and in the precision of the run."""
        with eval_mode(self.model_list), autocast(self.precision, self.device):
            return self.forward(to_device(x, self.device))

    # ---- files ----

    def save_state(self, path: str | Path, optim: bool = True) -> None:
        """Writes the weights and scores and, with `optim`, all that continuing needs."""
        state: dict[str, Any] = {f"model{i}": model.state_dict() for i, model in enumerate(self.model_list)}
        state |= {name: getattr(self, name) for name in SAVED_WITH_WEIGHTS}
        if optim:
            state |= {name: getattr(self, name) for name in SAVED_TO_CONTINUE}
            state |= {f"optimizer{i}": optimizer.state_dict() for i, optimizer in enumerate(self.optimizer_list)}
            state |= {f"lr_scheduler{i}": s.state_dict() for i, s in enumerate(self.lr_scheduler_list)}
            state["scaler"] = self.scaler.state_dict()
        checkpoint.save(state, path)

    def load_state(self, path: str | Path, optim: bool = True) -> None:
        """Reads what `save_state` wrote; without `optim` the weights alone, for inference.

        Raises:
            UserError: a damaged file, one of another network, or one without what continuing needs.
        """
        state = checkpoint.load(path)
        checkpoint.check_fits(state, self.model_list, path)
        if optim:
            checkpoint.check_continues(state, self, path)
        for number, model in enumerate(self.model_list):
            model.load_state_dict(state[f"model{number}"])
            model.to(self.device)
        if not optim:
            return
        for number, (optimizer, schedule) in enumerate(zip(self.optimizer_list, self.lr_scheduler_list, strict=True)):
            optimizer.load_state_dict(state[f"optimizer{number}"])
            schedule.load_state_dict(state[f"lr_scheduler{number}"])
        self.scaler.load_state_dict(state["scaler"])
        for name in SAVED_WITH_WEIGHTS + SAVED_TO_CONTINUE:
            setattr(self, name, state[name])

    def save_model(self, path: str | Path) -> None:
        """Writes the whole network, so that it runs without this project's code, for batches of any size.

        Read it with `torch.export.load(path).module()`; it is in eval mode and on the CPU.
        """
        twin = copy.copy(self)
        twin.model_list = [copy.deepcopy(model).cpu().eval() for model in self.model_list]
        export(Network(twin.model_list, twin.forward), to_device(self.example_input(), torch.device("cpu")), path)

    def example_input(self) -> Any:
        """An input of `forward`: the one in the first evaluation batch."""
        return next(iter(self.eval_loader))[0]

    # ---- records ----

    def _log_losses(self, means: SampleMeans) -> dict[str, float]:
        """Records the losses since the last log point and the rates of the update just made."""
        losses = means.means()
        check_finite(losses, f"epoch {self.epoch}, update {self.global_step}")
        self.logged_losses.append(losses["loss"])
        if self.global_step > 1:  # the very first loss is far above all others and would flatten the curve
            for name, value in losses.items():
                self.writer.add_scalar(f"train/{name}", value, self.global_step)
        for name, lr in rates_by_name(self.optimizer_list).items():
            self.writer.add_scalar(name, lr, self.global_step)
        return losses

    def get_model_info(self, fake_inp: Any) -> None:
        """Prints a summary of each part and draws the network in TensorBoard; changes nothing and never fails."""
        print(f"{' model info ':=^60}")
        with torch.no_grad(), eval_mode(self.model_list), kept_random_state(self.device):
            show(Network(self.model_list, self.forward), to_device(fake_inp, self.device), self.writer)
        print(f"{self.num_parameters():,} parameters")

    def num_parameters(self) -> int:
        """The number of weights in all parts."""
        return sum(parameter.numel() for model in self.model_list for parameter in model.parameters())

    def print_best_metrics(self) -> None:
        """Prints the scores of the best epoch and the best value that each score reached in any."""
        print(f"best epoch {self.best_epoch} (by {self.key_metric})")
        for name, value in self.best_metric.items():
            print(f"  {name:<12} {value:.4f}   best of all epochs {self.best_values[name]:.4f}")

    def print_final_lr(self) -> None:
        """Prints the present learning rate of every parameter group."""
        for name, lr in rates_by_name(self.optimizer_list).items():
            print(f"final {name}: {lr:g}")

    def print_all_member(self, print_model: bool = False) -> None:
        """Prints every setting and attribute that is short enough to read, the models too where asked."""
        print(f"{' trainer ':=^60}")
        long = {"train_loader", "eval_loader", "test_loader", "writer", "optimizer_list", "lr_scheduler_list", "meta"}
        settings = {name: getattr(self, name) for name in Trainer.__annotations__}
        for name, value in {**settings, **vars(self)}.items():
            if not name.startswith("_") and name not in long and (print_model or name != "model_list"):
                print(f"{name}: {value}")
