"""The network for image classification: a backbone and a linear layer, in one to three parts."""

from typing import Any

from torch import nn

from backbones import build_backbone, channels_last
from engine.network import Fp32Linear, merge_stages


def build_model_list(meta: dict[str, Any], num_parts: int, pretrained: bool = False) -> list[nn.Module]:
    """The network, from uint8 images (B, 3, S, S) to logits (B, classes), in `num_parts` parts.

    Args:
        meta: what `load_data` returned: the classes, and what the backbone needs.
        num_parts: 3 parts are stem, body and head, 2 parts the head and all before it.
        pretrained: whether a torchvision backbone starts with pretrained weights, if they can be downloaded.
    """
    stem, body, features = build_backbone(meta, pretrained)
    head = Fp32Linear(features, len(meta["classes"]))
    return channels_last(merge_stages([stem, body, head], num_parts))
