"""Times a training step of each engine beside a loop written by hand: same network, data and steps, engines in turn.

`python benchmarks/overhead.py`, or with `--ours` for the first three alone. `--old FOLDER` adds the trainer of another
version of this template, whose checkout is in FOLDER, in the same rounds.
"""

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

ROOT = Path(__file__).parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "{{cookiecutter.project_slug}}"))

from engine.logger import Logger  # noqa: E402
from engine.monitor.tensorboard import open_writer  # noqa: E402
from engine.optim.optimizers import build_optimizers  # noqa: E402
from engine.trainer import Trainer  # noqa: E402

Batches = list[tuple[Tensor, Tensor]]
Engine = Callable[[nn.Module, Batches, Path], float]  # trains on each batch once; returns the seconds that it took
loss_of = nn.functional.cross_entropy


@dataclass(frozen=True)
class Config:
    """The settings that the engine reads: config.py's defaults, but for the arithmetic, which is that of the others."""

    task_type: str = ""
    optimizer: str = "sgd"
    num_parts: int = 1
    lr: tuple[float, ...] = (0.05,)
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_grad: float = 0.0
    ema: float = 0.0
    accumulate: int = 1
    lr_scheduler_type: str = "annealing"
    eta_min: float = 0.0
    step_size: int = 8
    gamma: float = 0.1
    patience: int = 3
    warm_up_mode: str = "linear"
    warm_up_epochs: float = 0.1
    warm_up_init_lr: float = 1e-6
    epochs: int = 1
    ckpt_dir: str = "check_point"
    seed: int = 0
    device: str = "cpu"
    precision: str = "fp32"
    strategy: str = "ddp"
    sync_timeout: float = 30.0
    compile: bool = False
    log_per_step: int = 50
    save_per_epochs: int = 1
    save_per_steps: int = 0
    keep_last: int = 3
    early_stopping_patience: int = 0
    histograms: bool = False
    pictures: str = "end"


def mlp() -> tuple[nn.Module, Batches]:
    """The perceptron 64-64-10 on batches of 32: nearly all of a step is overhead."""
    batches = [(torch.randn(32, 64), torch.randint(10, (32,))) for _ in range(100)]
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), batches * 50


def cnn() -> tuple[nn.Module, Batches]:
    """A small convolutional network on 64 images of 32 x 32 pixels."""
    layers: list[nn.Module] = []
    for inp, out in ((3, 16), (16, 32)):
        layers += [nn.Conv2d(inp, out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    batches = [(torch.randn(64, 3, 32, 32), torch.randint(10, (64,))) for _ in range(20)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 10)), batches * 5


def by_hand(network: nn.Module, batches: Batches, folder: Path, **options: bool) -> float:
    """The loop that everyone writes first. It records nothing, saves nothing and keeps its learning rate."""
    optimizer = SGD(network.parameters(), 0.05, 0.9, nesterov=True, **options)
    network.train()
    began = perf_counter()
    for x, y in batches:
        optimizer.zero_grad()
        loss = loss_of(network(x), y)
        loss.backward()
        optimizer.step()
    return perf_counter() - began


def by_hand_fused(network: nn.Module, batches: Batches, folder: Path) -> float:
    """The same with torch's fused optimizer."""
    return by_hand(network, batches, folder, fused=True)


def rendered(network: nn.Module, batches: Batches, folder: Path) -> float:
    """The rendered trainer as it comes: everything is on, and what it writes at the epoch's end is counted."""
    config = Config()
    trainer = Trainer(config)
    trainer.model_list, trainer.criterion = [network], loss_of
    trainer.optimizer_list = build_optimizers([network], config)
    trainer.train_loader, trainer.eval_loader = batches, batches[:1]
    trainer.ckpt_dir = folder
    with Logger(folder / "log.txt"):
        trainer.check_init()
        with open_writer(folder / "runs") as trainer.writer:
            began = perf_counter()
            trainer.fit(1)
            return perf_counter() - began


def lightning(network: nn.Module, batches: Batches, folder: Path, **options: Any) -> float:
    """Lightning as it comes: logger, progress bar and checkpoint."""
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            x, y = batch
            loss = loss_of(self.network(x), y)
            if not options:
                self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return SGD(self.network.parameters(), 0.05, 0.9, nesterov=True)

    class Loader:  # Lightning takes a list for several loaders
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return iter(batches)

        def __len__(self) -> int:
            return len(batches)

    trainer = L.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=folder, **options)
    began = perf_counter()
    trainer.fit(Module(), Loader())
    return perf_counter() - began


def lightning_bare(network: nn.Module, batches: Batches, folder: Path) -> float:
    """Lightning with all of that switched off."""
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning(network, batches, folder, **off)


def ignite(network: nn.Module, batches: Batches, folder: Path, bare: bool = False) -> float:
    """Ignite with what its code generator adds: the loss's running mean, a progress bar, TensorBoard."""
    from ignite.engine import Events, create_supervised_trainer
    from ignite.handlers import ProgressBar
    from ignite.handlers.tensorboard_logger import TensorboardLogger
    from ignite.metrics import RunningAverage

    optimizer = SGD(network.parameters(), 0.05, 0.9, nesterov=True)
    trainer = create_supervised_trainer(network, optimizer, loss_of)
    if not bare:
        RunningAverage(output_transform=lambda loss: loss).attach(trainer, "loss")
        ProgressBar().attach(trainer, ["loss"])
        board = TensorboardLogger(log_dir=str(folder))
        board.attach_output_handler(trainer, Events.ITERATION_COMPLETED(every=50), "train", metric_names=["loss"])
    began = perf_counter()
    trainer.run(batches, max_epochs=1)
    return perf_counter() - began


def ignite_bare(network: nn.Module, batches: Batches, folder: Path) -> float:
    """Ignite's trainer alone."""
    return ignite(network, batches, folder, bare=True)


def accelerate(network: nn.Module, batches: Batches, folder: Path) -> float:
    """The loop written by hand with Accelerate's wrappers around network, optimizer and backward."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    network, optimizer = accelerator.prepare(network, SGD(network.parameters(), 0.05, 0.9, nesterov=True))
    network.train()
    began = perf_counter()
    for x, y in batches:
        optimizer.zero_grad()
        accelerator.backward(loss_of(network(x), y))
        optimizer.step()
    return perf_counter() - began


BY_HAND, RENDERED = "hand-written loop", "**the rendered trainer, as it comes**"
ENGINES: dict[str, Engine] = {
    BY_HAND: by_hand,
    "hand-written loop, fused optimizer": by_hand_fused,
    RENDERED: rendered,
    "ignite, bare": ignite_bare,
    "ignite, as generated": ignite,
    "Accelerate": accelerate,
    "Lightning, bare": lightning_bare,
    "Lightning, as it comes": lightning,
}
WORKLOADS = {"mlp": mlp, "cnn": cnn}
ROUNDS = 15  # after one that imports what is needed


@contextmanager
def silence() -> Iterator[None]:
    """Nothing is printed inside: what engines print is not what is compared."""
    kept = os.dup(1), os.dup(2)
    with open(os.devnull, "w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
        try:
            yield
        finally:
            sys.stdout.flush()
            for stream, copy in enumerate(kept, 1):
                os.dup2(copy, stream)
                os.close(copy)


def seconds_per_step(engine: Engine, workload: str) -> float:
    """Trains a fresh network once."""
    torch.manual_seed(0)
    network, batches = WORKLOADS[workload]()
    with tempfile.TemporaryDirectory() as folder, silence():
        return engine(network, batches, Path(folder)) / len(batches)


class Worker:
    """A process of its own for what is measured: what one engine sets for its process must not be there for the others.

    Args:
        command: a Python file and its arguments, which prints numbers for every line that it is sent.
    """

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure(self) -> list[float]:
        """The numbers of another run."""
        assert self.process.stdin and self.process.stdout
        print(file=self.process.stdin, flush=True)
        return [float(number) for number in self.process.stdout.readline().split()]

    def end(self) -> None:
        """Waits until the process has ended."""
        self.process.communicate()


def work(engine: str, workload: str) -> None:
    """What a worker does for every line: trains once; seconds per step, and the MB that it has held at most (Linux)."""
    for _ in sys.stdin:
        seconds = seconds_per_step(ENGINES[engine], workload)
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
        print(seconds, int(line.split()[1]) / 1024, flush=True)


def compare(workload: str, workers: dict[str, Worker], old: str) -> None:
    """Prints a table: medians of rounds in turn, and of the ratios within each round."""
    rounds = [{name: worker.measure() for name, worker in workers.items()} for _ in range(ROUNDS + 1)][1:]
    print(f"{workload}: {WORKLOADS[workload].__doc__} One thread, torch {torch.__version__}.\n")
    print("| engine | us per step | ratio | peak memory |\n|---|---|---|---|")
    for name in workers:
        us = 1e6 * median(found[name][0] for found in rounds)
        ratio = median(found[name][0] / found[BY_HAND][0] for found in rounds)
        more = rounds[-1][name][1] - rounds[-1][BY_HAND][1]
        print(f"| {name} | {us:.0f} | {ratio:.2f} | {more:+.0f} MB |")
    if old:
        low, middle, high = quantiles([found[RENDERED][0] / found[old][0] for found in rounds])
        print(f"\nA step takes {middle:.3f} times what it took; {low:.3f} to {high:.3f} in half of {ROUNDS} rounds.")
    print(flush=True)


def main() -> None:
    """Prints a table per workload."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "ignite"):
        logging.getLogger(name).setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", action="store_true", help="the hand-written loop and the rendered trainer alone")
    parser.add_argument("--old", type=Path, metavar="FOLDER", help="a checkout of another version of this template")
    parser.add_argument("worker", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        workload, engine = options.worker
        work(engine, workload)
        return
    for workload in WORKLOADS:
        engines = list(ENGINES)[: 3 if options.ours else None]
        workers = {name: Worker(__file__, workload, name) for name in engines}
        old = f"the rendered trainer of {options.old}" if options.old else ""
        if options.old:  # its own benchmark measures it: the trainer's interface may be another, a worker's is the same
            workers[old] = Worker(str(options.old / "benchmarks" / "overhead.py"), workload, RENDERED)
        compare(workload, workers, old)
        for worker in workers.values():
            worker.end()


if __name__ == "__main__":
    main()
