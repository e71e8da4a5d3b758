"""How long an update takes alone, and beside others, by how often torch's waiting threads look before they sleep.

`python benchmarks/waiting_threads.py` trains a perceptron in one process, and in four processes at once, as where other
programs need the cores: with libgomp's own count, and with that of engine/__init__.py.
"""

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
PROCESSES = (1, 4)
ROUNDS = 3
UPDATES = """
import sys, time
if sys.argv[1]:
    sys.path.insert(0, sys.argv[1])
    import engine
import torch
torch.manual_seed(0)
network = torch.nn.Sequential(
    torch.nn.Linear(200, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 1)
)
optimizer = torch.optim.AdamW(network.parameters())
x, y = torch.randn(256, 200), torch.randn(256, 1)
count, began = 0, time.perf_counter()
while time.perf_counter() - began < 4:
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(network(x), y).backward()
    optimizer.step()
    count += 1
print(1000 * (time.perf_counter() - began) / count)
"""


def milliseconds(engine: str, processes: int) -> float:
    """Of an update, the median of so many processes that train at once."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-B", "-c", UPDATES, engine]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return median(float(process.communicate()[0]) for process in started)


def main() -> None:
    """Prints a row for each count, the median of three rounds in which both take turns."""
    ways = {"libgomp's own": "", "of the engine": str(ROOT / "{{cookiecutter.project_slug}}")}
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for processes in PROCESSES:
            for way, engine in ways.items():
                found.setdefault((way, processes), []).append(milliseconds(engine, processes))
    print("| spin count | one process | four at once |\n|---|---|---|")
    for way in ways:
        row = " | ".join(f"{median(found[way, processes]):.1f} ms" for processes in PROCESSES)
        print(f"| {way} | {row} |")


if __name__ == "__main__":
    main()
