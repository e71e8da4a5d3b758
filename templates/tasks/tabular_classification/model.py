"""The network for classes of rows, in one to three parts: see table_networks.py."""

from typing import Any

from torch import nn

from columns import num_features, numbers_among
from engine.network import merge_stages
from table_networks import build_stages


def build_model_list(meta: dict[str, Any], num_parts: int) -> list[nn.Module]:
    """The network, from features (B, F) to logits (B, C), of M members (B * M, C), in `num_parts` parts.

    Args:
        meta: what `load_data` returned: columns, classes, how many rows are remembered, and the network's settings.
        num_parts: 3 parts are inputs, hidden layers and outputs, 2 parts the outputs and all before them.
    """
    features = sum(map(num_features, meta["columns"]))
    numbers = numbers_among(meta["columns"])
    classes = len(meta["classes"])
    stages = build_stages(
        meta["backbone"], features, numbers, meta["remembered"], meta["width"], meta["dropout"], classes
    )
    return merge_stages(stages, num_parts)
