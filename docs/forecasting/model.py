"""The network for forecasting: a multilayer perceptron, in one to three parts."""

from typing import Any

from torch import nn

from engine.network import Fp32Linear, merge_stages


def build_model_list(meta: dict[str, Any], num_parts: int) -> list[nn.Module]:
    """The network, from standardised windows (B, W) to the number after each (B,), in `num_parts` parts."""
    w = meta["width"]
    stem = nn.Sequential(nn.Linear(meta["window"], w), nn.SiLU())
    body = nn.Sequential(nn.Linear(w, w), nn.SiLU())
    return merge_stages([stem, body, nn.Sequential(Fp32Linear(w, 1), nn.Flatten(0))], num_parts)
