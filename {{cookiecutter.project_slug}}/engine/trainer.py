"""Trainer: trains and evaluates a list of models with a list of optimizers; a task overrides its loss and its scores.

Schedules are in schedulers.py, means and scores in metrics.py, what a state holds in state.py, its file in
checkpoint.py, what a signal does in stops.py.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from . import UserError, checkpoint, figures, records, report
from .checks import check_has, check_healthy, check_parameters, check_settings
from .data import batches_of, windows
from .devices import autocast, grad_scaler, keep_freed_memory, pick_device, pick_precision, to_device
from .distributed import from_main, rank, replicate, share_buffers, training_together, world_size
from .gradients import Gradients
from .losses import EpochLosses
from .metrics import WORST, SampleMeans, SetMetric, compute, improves, note_best_values, uncounted
from .network import Network, eval_mode, evaluating, export, one_forward, show
from .schedulers import Schedule, build_schedules
from .seeding import epoch_seed, kept_random_state, seed_everything
from .shares import Share, shares_of
from .state import collect, restore
from .stops import Stopped, StopSignals


class Trainer:
    """Set the attributes, call `check_init()`, then `fit(epochs)`.

    Override `loss_per_batch` and `metric`, and `forward` or `eval_scores_per_batch` where the network or the batch
    is not a chain fed with (x, y); and `draw` for pictures. Losses and scores are means over samples.
    """

    # Settings, named and explained as in config.py; `configure` takes them from there.
    task_type: str = ""
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
    strategy: str = "ddp"
    seed: int = 0
    log_per_step: int = 50
    save_per_epochs: int = 1
    save_per_steps: int = 0
    keep_last: int = 3
    patience_stop: int = 0
    histograms: bool = False
    pictures: str = "none"

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
        self.writer: Any = records.NoWriter()
        # Where it stands.
        self.epoch = 0  # the epoch in training, or the last one trained
        self.epoch_step = 0  # updates made in the epoch in training; all of them until it is evaluated, then 0
        self.global_step = 0  # updates made
        self.best_metric: dict[str, float] = {}  # losses and scores of the best epoch
        self.best_epoch = 0
        self.best_values: dict[str, float] = {}  # the best value of each loss and score on its own
        self.train_means: dict[str, float] = {}  # mean losses of the last epoch
        self.losses = EpochLosses()  # of the epoch in training
        self.last_point: tuple[int, dict[str, float]] = (0, {})  # update and values of the last log point
        self.logged_losses: list[float] = []  # mean loss at each log point of the last epoch
        self.grad_norm = torch.zeros(())  # of all parts together, before it was clipped; of the last log point
        self.lr_scheduler_list: list[Schedule] = []
        self.stops = StopSignals()
        self._epoch_began = time.perf_counter()
        self.speed = records.Speed()
        self._table = report.EpochTable()

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

    def draw(self, batch: Any) -> dict[str, Any]:
        """Matplotlib figures by name, of some samples and of what `set_metrics` took in at an evaluation."""
        return {}

    # ---- before training ----

    def check_init(self) -> None:
        """Checks all that was set, moves the models to the device and builds the schedules.

        A UserError names what is missing or contradictory and says what to set.
        """
        check_settings(self)
        check_parameters(self.model_list, self.optimizer_list)
        self.precision = pick_precision(self.precision, self.device)
        keep_freed_memory(self.device)
        for model in self.model_list if self.compile else ():
            model.compile()
        self.replicas = replicate(self.model_list, self.optimizer_list, self.device, self.strategy)
        self.scaler = grad_scaler(self.precision, self.device)
        Path(self.ckpt_dir).mkdir(parents=True, exist_ok=True)
        self.lr_scheduler_list = build_schedules(self)
        print(report.start_line(self))

    def updates_per_epoch(self) -> int:
        """The number of optimizer steps in an epoch."""
        return math.ceil(len(self.train_loader) / self.accumulate)

    # ---- training ----

    def fit(self, epochs: int) -> None:
        """Trains and evaluates until `epochs` epochs are done in all, those before a resume included.

        Schedules end with the last of these; after more epochs a finished run has the rates of a longer curve.
        SIGTERM or SIGINT ends it after the update, or the batch of an evaluation, in progress: a state is saved and
        SystemExit raised, with 128 and the signal's number; a second SIGINT raises KeyboardInterrupt at once.
        A UserError names the first update with NaN or inf in a loss or gradient, or the file that cannot be written.
        """
        if epochs != self.epochs:
            self.epochs = epochs
            self.lr_scheduler_list = build_schedules(self)
        with StopSignals() as self.stops:
            try:
                while not self._finished():
                    if self.epoch_step < self.updates_per_epoch():
                        self.train_loop()
                    elif self.last_point[0] == self.global_step:  # stopped in the evaluation: see first_record
                        records.record_scalars(self.writer, *self.last_point)
                    self.eval_loop(self.save_per_epochs)
                    self.stops.check()
            except Stopped as stop:
                print(f"stopped by {stop.signal.name} after update {self.global_step}; saved {self._save()}")
                raise SystemExit(stop.status) from None
        last = checkpoint.state_path(self.ckpt_dir, self.epoch, 0)
        from_main(checkpoint.prune, last, self.keep_last)  # a kill may have come between its save and this
        if self.epoch < self.epochs:
            print(f"no better {self.key_metric} for {self.patience_stop} epochs: training ends early (patience_stop)")

    def _finished(self) -> bool:
        out_of_patience = 0 < self.patience_stop <= self.epoch - self.best_epoch
        return self.epoch_step == 0 and (self.epoch >= self.epochs or out_of_patience)

    def train_loop(self) -> dict[str, float]:
        """Trains for an epoch, or the rest of the one in which a state was saved; returns its mean losses."""
        batches, updates = self._batches(), self.updates_per_epoch()
        with report.progress(f"epoch {self.epoch}/{self.epochs}", updates, self.epoch_step) as bar:
            self.speed = records.Speed()
            for window in windows(batches, self.accumulate):
                self._update(window)
                if self.global_step % self.log_per_step == 0:
                    bar.set_postfix_str(report.state_of_bar(self, records.record_point(self)))
                self.update_lr_scheduler()
                bar.update()
                if self.epoch_step < updates:
                    self._between_updates()
        self.losses.check()
        self.train_means = self.losses.means()
        if self.histograms:
            records.record_histograms(self.writer, self.model_list, self.global_step)
        return self.train_means

    def _batches(self) -> Iterator[Share]:
        """The batches of the next epoch, or those that are left of the one in training."""
        if self.epoch_step in (0, self.updates_per_epoch()):
            self.epoch, self.epoch_step = self.epoch + 1, 0
            self.losses, self.logged_losses = EpochLosses(), []
            self._epoch_began = time.perf_counter()
        for model in self.model_list:
            model.train()
        self._gradients = Gradients(self.optimizer_list)
        # All that an epoch draws follows from (seed, epoch), up to where a state within it was saved: that has the
        # generators as they stood, which the batches that are passed over must not move.
        with kept_random_state(self.device) if self.epoch_step else nullcontext():
            seed_everything(seed := epoch_seed(self.seed, self.epoch))
            batches = batches_of(self.train_loader, self.epoch, self.epoch_step * self.accumulate)
            seed_everything(seed, rank())  # from here on each process draws numbers of its own, as for dropout
            return batches

    def _update(self, window: list[Share]) -> None:
        """One step of every optimizer on the gradient of the mean loss over all samples of the window's batches."""
        self._gradients.clear()
        samples = sum([share.whole for share in window]) / world_size()  # the mean over processes is taken afterwards
        for share in window:
            with training_together(self, share is window[-1]), autocast(self.precision, self.device):
                losses = self.loss_per_batch(to_device(share.batch, self.device))
            check_has(losses, "loss", "the one to minimise, in what loss_per_batch returns")
            self.losses.add(losses, share.own, self.global_step + 1)
            loss = losses["loss"] if share.own == samples else losses["loss"] * (share.own / samples)
            self.scaler.scale(loss).backward()
        if not self.scaler.is_enabled():  # fp16 overflows now and then, and the scaler leaves such updates out
            self._gradients.overflow(self.losses.flag(self.global_step + 1, self.device))
        if self.clip_grad or (self.global_step + 1) % self.log_per_step == 0:
            self.grad_norm = self._gradients.clip(self.optimizer_list, self.scaler, self.clip_grad)
        for optimizer in self.optimizer_list:
            self.scaler.step(optimizer)
        self.scaler.update()
        self.global_step += 1
        self.epoch_step += 1
        self.speed.samples += samples * world_size()

    def _between_updates(self) -> None:
        """Saves inside the epoch where it is due, and stops where that was asked for."""
        self.stops.check()
        if self.save_per_steps and self.global_step % self.save_per_steps == 0:
            self._save()

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
        train_loss, seconds = self.train_means.get("loss", math.nan), time.perf_counter() - self._epoch_began
        records.record_epoch(self.writer, train_loss, scores, seconds, self.global_step)  # before the state of it
        self.epoch_step = 0
        self._table.print_row(self, train_loss, scores, seconds)
        in_turn = self.save_per_steps and self.global_step % self.save_per_steps == 0
        if self.epoch % save_per_epochs == 0 or in_turn or self._finished():
            self._save()
        if self.pictures == "epoch":
            figures.draw_evaluation(self, self.eval_loader, "eval", self.global_step)
        return scores[self.key_metric]

    def evaluate(self, loader: Any) -> dict[str, float]:
        """Mean losses and scores over all samples of `loader`; modes, buffers and random state stay as they were."""
        means = SampleMeans()
        for score in self.set_metrics.values():
            score.reset()
        share_buffers(self.model_list)
        with evaluating(self.model_list), kept_random_state(self.device), report.progress("eval", len(loader)) as bar:
            for batch, own, _ in shares_of(loader, iter(loader)):
                self.stops.check()
                batch = to_device(batch, self.device)
                with autocast(self.precision, self.device), one_forward(self), uncounted(self, own == 0):
                    means.add(self.loss_per_batch(batch), own)
                    means.add(self.eval_scores_per_batch(batch), own)
                bar.update()
            return {**means.means(), **compute(self.set_metrics)}

    def test(self) -> dict[str, float]:
        """Scores of best.pth, which stays in the models, on the test set; without one it is drawn at most."""
        best, split = Path(self.ckpt_dir) / "best.pth", "test" if len(self.test_loader) else "eval"
        draws = self.pictures != "none" and type(self).draw is not Trainer.draw
        if not from_main(best.exists) or not (draws or split == "test"):
            return {}
        self.load_state(best, optim=False)
        scores = self.evaluate(loader := getattr(self, f"{split}_loader"))
        if split == "test":
            print(f"test of epoch {self.best_epoch}  " + "  ".join(f"{name} {v:.4f}" for name, v in scores.items()))
        if draws:
            figures.draw_evaluation(self, loader, split, self.global_step + 1)  # as record_result
        return scores if split == "test" else {}

    def _note_best(self, scores: dict[str, float]) -> None:
        modes = {name: "min" for name in self.train_means} | self.score_modes | {self.key_metric: self.key_mode}
        note_best_values(self.best_values, scores, modes)
        best = self.best_metric.get(self.key_metric, WORST[self.key_mode])
        if improves(scores[self.key_metric], best, self.key_mode):
            self.best_metric, self.best_epoch = dict(scores), self.epoch
            self.save_state(Path(self.ckpt_dir) / "best.pth", optim=False)

    def inference(self, x: Any) -> Any:
        """The network's output for `x`, in eval mode; on the device and in the precision of the run."""
        with evaluating(self.model_list), autocast(self.precision, self.device):
            return self.forward(to_device(x, self.device))

    # ---- files ----

    def _save(self) -> Path:
        """Saves all that continuing needs in a file that says where the run stands; removes the oldest of these."""
        self.losses.check()
        self.writer.flush()  # what a state covers has been recorded
        path = checkpoint.state_path(self.ckpt_dir, self.epoch, self.global_step if self.epoch_step else 0)
        self.save_state(path)
        from_main(checkpoint.prune, path, self.keep_last)
        return path

    def save_state(self, path: str | Path, optim: bool = True) -> None:
        """Writes the weights and scores and, with `optim`, all that continuing needs.

        Raises:
            UserError: a weight is inf or NaN, or the file cannot be written; what was at `path` stays.
        """
        check_healthy(self)
        from_main(checkpoint.save, collect(self, optim), path)

    def load_state(self, path: str | Path, optim: bool = True) -> None:
        """Reads what `save_state` wrote; without `optim` the weights alone, for inference.

        Raises:
            UserError: a damaged file, one of another task or network, or one without what continuing needs.
        """
        restore(self, checkpoint.load(path), path, optim)

    def save_model(self, path: str | Path) -> None:
        """Writes the whole network, in eval mode, for `torch.export.load(path).module()`; a UserError with fsdp."""
        export(self, path)

    def example_input(self) -> Any:
        """An input of `forward`: the one in the first evaluation batch."""
        with kept_random_state(self.device):
            return next(iter(self.eval_loader))[0]

    # ---- records ----

    def get_model_info(self, fake_inp: Any) -> None:
        """Prints a summary of each part and draws the network in TensorBoard; changes nothing and never fails."""
        print(f"{' model info ':=^60}")
        with torch.no_grad(), eval_mode(self.model_list), kept_random_state(self.device):
            show(Network(self.model_list, self.forward), to_device(fake_inp, self.device), self.writer)
        print(f"{self.num_parameters():,} parameters")

    def num_parameters(self) -> int:
        """The number of weights of all parts together, frozen ones too."""
        return sum(p.numel() for model in self.model_list for p in model.parameters())

    def print_best_metrics(self) -> None:
        """Prints the scores of the best epoch and the best value that each score reached in any."""
        report.print_best(self)

    def print_final_lr(self) -> None:
        """Prints the present learning rate of every parameter group."""
        print(*(f"final {name}: {lr:g}" for name, lr in records.rates_by_name(self.optimizer_list).items()), sep="\n")

    def print_all_member(self, print_model: bool = False) -> None:
        """Prints every setting and attribute that is short enough to read, the models too where asked."""
        report.print_members({name: getattr(self, name) for name in Trainer.__annotations__} | vars(self), print_model)
