"""The network for regression, in one to three parts: see table_networks.py."""

from typing import Any

from torch import Tensor, nn

from columns import num_features, numbers_among
from engine.network import merge_stages
from table_networks import build_stages


class LastDimension(nn.Module):
    """Takes away the last dimension, of one number."""

    def forward(self, x: Tensor) -> Tensor:
        """From (..., 1) to (...)."""
        return x.squeeze(-1)


def build_model_list(meta: dict[str, Any], num_parts: int) -> list[nn.Module]:
    """The network, from features (B, F) to standardised targets (B,), of M members (B * M,), in `num_parts` parts.

    Args:
        meta: what `load_data` returned: the columns, how many rows are remembered, and the network's settings.
        num_parts: 3 parts are inputs, hidden layers and outputs, 2 parts the outputs and all before them.
    """
    features = sum(map(num_features, meta["columns"]))
    numbers = numbers_among(meta["columns"])
    *stages, last = build_stages(
        meta["backbone"], features, numbers, meta["remembered"], meta["width"], meta["dropout"], outputs=1
    )
    return merge_stages([*stages, nn.Sequential(last, LastDimension())], num_parts)
