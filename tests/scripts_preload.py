"""What the processes of scripts.py start with: torch, with the lazy imports of its first optimizer done."""

import torch
import torch.utils.tensorboard  # noqa: F401
import tyro  # noqa: F401

# One thread: a forked process must not inherit a pool whose threads are gone.
torch.set_num_threads(1)
layer = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(layer.parameters(), 0.1)
layer(torch.ones(1, 2)).sum().backward()
optimizer.step()
