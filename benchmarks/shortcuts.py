"""Measures what each function of engine/runtime/shortcuts.py gains against the public way that it replaces.

`python benchmarks/shortcuts.py` also measures what reseeding torch at every update would cost. `cpu_has_bf16` is left
out: it replaces what older versions of torch do not have.
"""

import math
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch
from overhead import Worker, by_hand_fused, loss_of, mlp, seconds_per_step
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

ROOT = Path(__file__).parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "{{cookiecutter.project_slug}}"))

from engine.runtime.shortcuts import flag_non_finite, keep_freed_memory, lerp_all, lightweight  # noqa: E402

UPDATES = 50  # of the perceptron in a block
BLOCKS, ROUNDS = 5, 200  # so many times these updates, for each of two ways, in every round
STARTS = 5  # processes in which the first step of each optimizer is measured
CNN_ROUNDS = 15  # after one that warms up

Step = Callable[[], object]
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": partial(SGD, lr=0.05, momentum=0.9, nesterov=True, fused=True),
    "lightweight(SGD)": partial(lightweight(SGD), lr=0.05, momentum=0.9, nesterov=True, fused=True),
    "AdamW": partial(AdamW, lr=1e-3, fused=True),
    "lightweight(AdamW)": partial(lightweight(AdamW), lr=1e-3, fused=True),
}


def nothing(*_: object) -> None:
    """In place of what one of two ways does besides."""


class Training:
    """A loop over 50 batches of the perceptron 64-64-10, as the engine trains it.

    Args:
        optimizer: a key of OPTIMIZERS.
        begin: what is done before every update.
        check: what is done with the gradients of every update.
    """

    def __init__(
        self,
        optimizer: str = "lightweight(SGD)",
        begin: Step = nothing,
        check: Callable[[Sequence[Tensor]], object] = nothing,
    ) -> None:
        torch.manual_seed(0)
        self.network, batches = mlp()
        self.batches = batches[:UPDATES]
        self.parameters = list(self.network.parameters())
        self.optimizer = OPTIMIZERS[optimizer](self.parameters)
        self.begin, self.check = begin, check

    def __call__(self) -> float:
        """Trains on every batch; returns the seconds of an update."""
        began = perf_counter()
        for x, y in self.batches:
            self.begin()
            for parameter in self.parameters:
                parameter.grad = None
            loss_of(self.network(x), y).backward()
            self.check([p.grad for p in self.parameters if p.grad is not None])
            self.optimizer.step()
        return (perf_counter() - began) / UPDATES


def averaging(move: Callable[[list[Tensor], list[Tensor]], object]) -> Training:
    """Training with a moving average of the weights, which `move` moves in every update."""
    training = Training()
    weights: list[Tensor] = list(training.parameters)
    averages = [weight.detach().clone() for weight in weights]
    training.begin = lambda: move(averages, weights)
    return training


def pairs() -> dict[tuple[str, str], tuple[Training, Training]]:
    """The public way and what replaces it, by their names."""
    flag = torch.zeros(())

    def public_check(gradients: Sequence[Tensor]) -> None:
        flag.copy_(~nn.utils.get_total_norm(gradients, math.inf).isfinite())

    def check(gradients: Sequence[Tensor]) -> None:
        flag_non_finite(gradients, flag)

    return {
        ("torch's SGD", "lightweight(SGD)"): (Training("SGD"), Training("lightweight(SGD)")),
        ("torch's AdamW", "lightweight(AdamW)"): (Training("AdamW"), Training("lightweight(AdamW)")),
        ("get_total_norm(...).isfinite()", "flag_non_finite"): (
            Training(check=public_check),
            Training(check=check),
        ),
        ("flag_non_finite", "no check"): (Training(check=check), Training()),
        ("swa_utils.get_ema_multi_avg_fn", "lerp_all"): (
            averaging(lambda averages, weights: get_ema_multi_avg_fn(0.999)(averages, weights, 0)),
            averaging(lambda averages, weights: lerp_all(averages, weights, 0.001)),
        ),
        ("lerp_all", "no average"): (
            averaging(lambda averages, weights: lerp_all(averages, weights, 0.001)),
            Training(),
        ),
        ("torch.manual_seed at every update", "no reseeding"): (
            Training(begin=lambda: torch.manual_seed(0)),
            Training(),
        ),
    }


def first_step(optimizer: str) -> float:
    """The seconds in which an optimizer is made and makes its first step, in a process that has made none."""
    network, [(x, y), *_] = mlp()
    loss_of(network(x), y).backward()
    began = perf_counter()
    OPTIMIZERS[optimizer](network.parameters()).step()
    return perf_counter() - began


def cnn_update(keep: bool) -> float:
    """The seconds of an update of overhead.py's convolutional network."""
    if keep:
        keep_freed_memory(torch.device("cpu"))
    return seconds_per_step(by_hand_fused, "cnn")


@cache
def large_network() -> tuple[nn.Module, Tensor]:
    """EfficientNet-Lite0 with random weights, and a batch of 30 images of 224 pixels."""
    import timm

    images = torch.randn(30, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    return timm.create_model("tf_efficientnet_lite0").to(memory_format=torch.channels_last), images


def large_update(keep: bool) -> float:
    """The seconds of a forward and a backward pass of a network with large activations."""
    if keep:
        keep_freed_memory(torch.device("cpu"))
    network, images = large_network()
    began = perf_counter()
    network(images).sum().backward()
    return perf_counter() - began


# What is measured in processes of its own.
ALONE: dict[str, Callable[[], float]] = {name: partial(first_step, name) for name in OPTIMIZERS}
KEEPING = {
    "an update of the small CNN": cnn_update,
    "forward and backward of EfficientNet-Lite0": large_update,
}
for name, update in KEEPING.items():
    ALONE |= {f"{name}, memory {'kept' if keep else 'returned'}": partial(update, keep) for keep in (False, True)}


def in_new_process(name: str) -> float:
    """One of ALONE."""
    worker = Worker(__file__, name)
    [seconds] = worker.measure()
    worker.end()
    return seconds


def duration(seconds: float) -> str:
    """In the unit that suits it."""
    return f"{1e6 * seconds:,.0f} us" if seconds < 0.1 else f"{seconds:.2f} s"


def row(public: str, shortcut: str, times: list[tuple[float, float]], share: bool = True) -> None:
    """Prints medians and, where these are the times of an update, the gain within each round as a share of it."""
    cells = [duration(median(found)) for found in zip(*times, strict=True)]
    low, middle, high = quantiles([100 * (1 - new / old) for old, new in times])
    gain = f"{middle:.1f} % ({low:.1f} to {high:.1f})" if share else ""
    print(f"| {public} | {shortcut} | {' | '.join(cells)} | {gain} |", flush=True)


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    if len(sys.argv) == 2:
        for _ in sys.stdin:
            print(ALONE[sys.argv[1]](), flush=True)
        return
    print(f"One thread, torch {torch.__version__}; in brackets the gain in half of the rounds.\n")
    print("| public way | in its place | it takes | takes | gain in % of an update |\n|---|---|---|---|---|")
    measured = pairs()
    times: dict[tuple[str, str], list[tuple[float, float]]] = {names: [] for names in measured}
    for number in range(ROUNDS + 1):
        for names, ways in measured.items():
            found = [median(way() for _ in range(BLOCKS)) for way in (ways if number % 2 else ways[::-1])]
            old, new = found if number % 2 else found[::-1]
            times[names].append((old, new))
    for (public, shortcut), rounds in times.items():
        row(public, shortcut, rounds[1:])
    for name in KEEPING:
        returned, kept = (Worker(__file__, f"{name}, memory {what}") for what in ("returned", "kept"))
        both = [(returned.measure()[0], kept.measure()[0]) for _ in range(CNN_ROUNDS + 1)][1:]
        row(f"freed memory is returned; {name}", "keep_freed_memory", both)
    for kind in ("SGD", "AdamW"):
        starts = [(in_new_process(kind), in_new_process(f"lightweight({kind})")) for _ in range(STARTS)]
        row(f"torch's {kind}, made and its first step", f"lightweight({kind})", starts, share=False)


if __name__ == "__main__":
    main()
