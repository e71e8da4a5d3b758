"""Times what exactness and the watch for NaN cost in each update, beside the update itself, of a small network."""

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from timeit import repeat

import torch
from torch import nn
from torch.optim import SGD

ROOT = Path(__file__).parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "{{cookiecutter.project_slug}}"))

from engine.gradients import Gradients  # noqa: E402

CALLS, ROUNDS = 500, 15


def main() -> None:
    """Prints microseconds, medians of interleaved rounds, and their ratios to a hand-written update."""
    torch.set_num_threads(1)
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = SGD(network.parameters(), 0.01)
    gradients, flag = Gradients([optimizer]), torch.zeros(())
    x, y = torch.randn(32, 64), torch.randint(10, (32,))

    def update() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()

    def norm() -> None:
        nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])

    actions: dict[str, Callable[[], object]] = {
        "an update by hand (64-64-64-10, batch 32)": update,
        "the engine's check of its gradients": lambda: gradients.overflow(flag),
        "the same by torch.nn.utils.get_total_norm": norm,
        "torch.manual_seed, which reseeding at every update would cost": lambda: torch.manual_seed(0),
    }
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(ROUNDS):
        for name, action in actions.items():
            times[name] += repeat(action, number=CALLS, repeat=1)
    first = median(next(iter(times.values())))
    for name, found in times.items():
        print(f"| {name} | {median(found) / CALLS * 1e6:.1f} us | {median(found) / first:.2f} |")


if __name__ == "__main__":
    main()
