"""The network for image classification: a backbone and a linear layer, in one to three parts."""

from typing import Any

from torch import nn

from backbones import build_backbone
from engine.network import Fp32Linear, merge_stages
from layers import channels_last

STAGES = ("stem", "body", "head")  # as --freeze names them


def build_stages(meta: dict[str, Any], weights: str = "none") -> list[nn.Module]:
    """Stem, body and head, from uint8 images (B, 3, S, S) to logits (B, classes).

    Args:
        meta: what `load_data` returned: the classes, and what the backbone needs.
        weights: what the backbone starts from: "auto", "none" or a file; see pretrained.py.
    """
    stem, body, features = build_backbone(meta, weights)
    head = Fp32Linear(features, len(meta["classes"]))
    return channels_last([stem, body, head])


def build_model_list(meta: dict[str, Any], num_parts: int) -> list[nn.Module]:
    """The stages in `num_parts` parts: 3 are stem, body and head, 2 the head and all before it."""
    return merge_stages(build_stages(meta), num_parts)
