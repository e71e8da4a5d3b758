"""A linear head, fitted to the features of a pretrained backbone before that is fine-tuned."""

import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.data.loaders import in_its_order
from engine.data.splits import Split
from engine.distributed.fsdp import has_shards
from engine.monitor import console
from engine.network import evaluating

PROBE_SAMPLES = 5_000  # at most, of which the head is fitted
PROBE_BATCH = 32  # images
PROBE_DECAY = 1.0  # of the head's weights, in units of the loss of one sample, as C = 1 in scikit-learn


def fit_head(stages: Sequence[nn.Module], loader: Any, loss: Any, device: torch.device) -> None:
    """Fits the head to the features of the training images; fine-tuning distorts them less then (Kumar et al. 2022).

    Args:
        stages: stem, body and head, whose weights are replaced.
        loader: one of `make_loaders`, of the training images; they are not augmented.
        loss: from outputs and targets to a mean over samples.
        device: where the stages are.
    """
    *backbone, head = stages
    if has_shards(list(stages)):
        print("note: with the strategy fsdp the head starts from random weights")
        return
    began = time.perf_counter()
    features, targets = features_of(backbone, loader, device)
    fit_linear(head, features, targets, loss)
    print(f"head fitted to the features of {len(features):,} images in {time.perf_counter() - began:.1f} s")


def features_of(backbone: Sequence[nn.Module], loader: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """The features (N, F) of up to 5,000 training images, without augmentation, and their targets."""
    split = loader.dataset
    plain = Split(split.x, split.y, split.indices[:: -(-len(split) // PROBE_SAMPLES)])
    found: list[tuple[Tensor, Tensor]] = []
    with evaluating(list(backbone)), console.progress("features", len(plain)) as bar:
        for x, y in in_its_order(plain, PROBE_BATCH, device, loader.num_workers):
            x = x.to(device)
            for stage in backbone:
                x = stage(x)
            found.append((x.float(), y.to(device)))
            bar.update(len(y))
    features, targets = zip(*found, strict=True)
    return torch.cat(features).clone(), torch.cat(targets)


def fit_linear(head: Any, features: Tensor, targets: Tensor, loss: Any) -> None:
    """Fits a linear layer with L-BFGS (Liu and Nocedal 1989).

    Args:
        head: of F inputs; its weights are replaced.
        features: (N, F).
        targets: (N,) or (N, L), as `loss` takes them.
        loss: from outputs and targets to a mean over samples.
    """
    weight = torch.zeros_like(head.weight, requires_grad=True)
    bias = torch.zeros_like(head.bias, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        penalty = PROBE_DECAY * weight.square().sum() / (2 * len(features))
        value: Tensor = loss(F.linear(features, weight, bias), targets) + penalty
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(objective)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
