"""Times a training step of each engine beside a loop written by hand: same network, data and steps, engines in turn.

`python benchmarks/overhead.py`, or with `--ours` for the first three alone.
"""

import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

ROOT = Path(__file__).parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "{{cookiecutter.project_slug}}"))

from engine.logger import Logger  # noqa: E402
from engine.optimizers import build_optimizers  # noqa: E402
from engine.records import open_writer  # noqa: E402
from engine.trainer import Trainer  # noqa: E402

Batches = list[tuple[Tensor, Tensor]]
Engine = Callable[[nn.Module, Batches, Path], float]  # trains on each batch once; returns the seconds that it took
loss_of = nn.functional.cross_entropy


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
    settings = SimpleNamespace(lr_per_part=lambda: [0.05], optimizer="sgd", momentum=0.9, weight_decay=0.0)
    trainer = Trainer()
    trainer.model_list, trainer.criterion = [network], loss_of
    trainer.optimizer_list = build_optimizers([network], settings)
    trainer.train_loader, trainer.eval_loader = batches, batches[:1]
    trainer.warm_up_mode, trainer.warm_up_epochs, trainer.epochs = "linear", 0.1, 1
    trainer.device, trainer.ckpt_dir = torch.device("cpu"), folder
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


ENGINES: dict[str, Engine] = {
    "hand-written loop": by_hand,
    "hand-written loop, fused optimizer": by_hand_fused,
    "**the rendered trainer, as it comes**": rendered,
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
    """A process of the engine's own: what one of them sets for its process must not be there for the others."""

    def __init__(self, engine: str, workload: str) -> None:
        command = [sys.executable, __file__, workload, engine]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self) -> tuple[float, float]:
        """Has it train once: seconds per step, and the MB that it has held at most (Linux)."""
        assert self.process.stdin and self.process.stdout
        print(file=self.process.stdin, flush=True)
        seconds, memory = self.process.stdout.readline().split()
        return float(seconds), float(memory)


def work(engine: str, workload: str) -> None:
    """What a worker does for every line that it is sent."""
    for _ in sys.stdin:
        seconds = seconds_per_step(ENGINES[engine], workload)
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
        print(seconds, int(line.split()[1]) / 1024, flush=True)


def main() -> None:
    """Prints a table per workload: medians of rounds in turn, and of the ratios within each round."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "ignite"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if len(sys.argv) == 3:
        work(sys.argv[2], sys.argv[1])
        return
    engines = list(ENGINES)[: 3 if "--ours" in sys.argv else None]
    for workload, build in WORKLOADS.items():
        workers = {name: Worker(name, workload) for name in engines}
        rounds = [{name: worker.measure() for name, worker in workers.items()} for _ in range(ROUNDS + 1)][1:]
        for worker in workers.values():
            worker.process.communicate()
        print(f"{workload}: {build.__doc__} One thread, torch {torch.__version__}.\n")
        print("| engine | us per step | ratio | peak memory |\n|---|---|---|---|")
        for name in engines:
            us = 1e6 * median(found[name][0] for found in rounds)
            ratio = median(found[name][0] / found["hand-written loop"][0] for found in rounds)
            more = rounds[-1][name][1] - rounds[-1]["hand-written loop"][1]
            print(f"| {name} | {us:.0f} | {ratio:.2f} | {more:+.0f} MB |")
        print(flush=True)


if __name__ == "__main__":
    main()
