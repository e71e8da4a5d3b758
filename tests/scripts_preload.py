"""What the processes of scripts.py start with: all that a first training imports, much of it on first use."""

import gc
import io
from dataclasses import dataclass

import matplotlib.backends.backend_agg  # noqa: F401
import PIL.ImageOps  # noqa: F401
import torch
import torch.utils.tensorboard  # noqa: F401
import tyro


@dataclass
class Flags:
    """For a parser."""

    flag: bool = False


tyro.cli(Flags, args=[])
# One thread: a forked process must not inherit a pool whose threads are gone.
torch.set_num_threads(1)
for kind in (torch.optim.SGD, torch.optim.AdamW):
    layer = torch.nn.Linear(2, 2)
    for parameter in layer.parameters():  # without backward(), after which no process may fork where there is a GPU
        parameter.grad = torch.ones_like(parameter)
    optimizer = kind(layer.parameters(), 0.1)
    optimizer.step()
torch.save(optimizer.state_dict(), io.BytesIO())
gc.freeze()  # what is here is garbage in no process: none needs to look at it, and so to copy it
