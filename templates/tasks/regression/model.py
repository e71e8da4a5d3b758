"""The network for regression: a multilayer perceptron, in one to three parts."""

from typing import Any

from torch import nn

from columns import num_features
from engine.network import Fp32Linear, merge_stages


def build_model_list(meta: dict[str, Any], num_parts: int) -> list[nn.Module]:
    """The network, from features (B, F) to standardised targets (B,), in `num_parts` parts.

    Args:
        meta: what `load_data` returned: the columns, `width` and `dropout`.
        num_parts: 3 parts are input, hidden and output layers, 2 parts the output layer and all before it.
    """
    w = meta["width"]
    stem = nn.Sequential(nn.Linear(sum(map(num_features, meta["columns"])), w), nn.SiLU())
    body = [layer for _ in range(2) for layer in (nn.Linear(w, w), nn.SiLU(), nn.Dropout(meta["dropout"]))]
    return merge_stages([stem, nn.Sequential(*body), nn.Sequential(Fp32Linear(w, 1), nn.Flatten(0))], num_parts)
