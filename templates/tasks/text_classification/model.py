"""The network for text classification: embeddings of bytes and n-grams, a Transformer encoder, a linear layer."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.network import Fp32Linear, merge_stages

STRIDE = 4  # bytes that become one position of the Transformer
NGRAMS = (2, 3, 4, 6)  # lengths, in bytes, of the n-grams that have an embedding, beside that of each byte
BUCKETS = 2**16  # embeddings that all n-grams share


def build_model_list(meta: dict[str, Any], num_parts: int) -> list[nn.Module]:
    """The network, from bytes plus one (B, L), 0 for padding, to logits (B, C), in `num_parts` parts.

    Args:
        meta: what `load_data` returned: the classes, `max_length`, `width`, `layers` and `dropout`.
        num_parts: 3 parts are embeddings, encoder and head, 2 parts the head and all before it.
    """
    w, dropout = meta["width"], meta["dropout"]
    head = Head(w, len(meta["classes"]), dropout)
    return merge_stages(
        [Embedding(w, meta["max_length"], dropout), Encoder(w, meta["layers"], dropout), head], num_parts
    )


def hash_ngrams(x: Tensor, n: int) -> Tensor:
    """The bucket, 1 to BUCKETS - 1, of the n bytes that end at each place of x (B, L); 0 for padding."""
    code = torch.full_like(x, n)
    for before in range(n):
        code = (code * 263 + F.pad(x, (before, 0))[:, : x.shape[1]]) % (BUCKETS - 1)
    return (code + 1).where(x > 0, 0)


class Embedding(nn.Module):
    """From bytes (B, L) to a vector for every four of them, and a mask of those that are text.

    A byte's vector is the sum of its own embedding and those of the n-grams that end there, found by hashing as in the
    Byte Latent Transformer (Pagnoni et al. 2024). Four become the mean of theirs plus a convolution around them.
    """

    def __init__(self, width: int, max_length: int, dropout: float) -> None:
        super().__init__()
        self.bytes = nn.Embedding(257, width, padding_idx=0)
        self.ngrams = nn.Embedding(BUCKETS, width, padding_idx=0)
        self.ngrams.weight.data *= len(NGRAMS) ** -0.5
        self.dropout = nn.Dropout(dropout)
        self.conv = nn.Conv1d(width, width, 2 * STRIDE - 1, STRIDE, padding=STRIDE - 1)
        self.positions = nn.Parameter(0.02 * torch.randn(-(-max_length // STRIDE), width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From bytes plus one (B, L) to vectors (B, P, width) and a mask (B, P), with P = ceil(L / 4)."""
        # Padding is zero everywhere, so that its length changes nothing.
        x = F.pad(x, (0, -x.shape[1] % STRIDE))
        h = self.bytes(x) + self.ngrams(torch.stack([hash_ngrams(x, n) for n in NGRAMS])).sum(0)
        h = self.dropout(h)
        h = h.unflatten(1, (-1, STRIDE)).mean(2) + F.gelu(self.conv(h.mT).mT)
        return h + self.positions[: h.shape[1]], x[:, ::STRIDE] > 0


class Encoder(nn.Module):
    """A Transformer encoder (Vaswani et al. 2017, with normalisation first) that attends to text, not to padding."""

    def __init__(self, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        heads = next(heads for heads in (8, 4, 2, 1) if width % heads == 0 and width >= 32 * heads or heads == 1)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
        layer.self_attn.dropout = 0.0  # on a CPU, drawing it for every pair of positions would take most of the time
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, inp: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """From vectors (B, P, width) and a mask (B, P) to the same."""
        h, is_text = inp
        return self.layers(h, src_key_padding_mask=~is_text), is_text


class Head(nn.Module):
    """Logits from the mean over a text."""

    def __init__(self, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.linear = Fp32Linear(width, classes)

    def forward(self, inp: tuple[Tensor, Tensor]) -> Tensor:
        """From vectors (B, P, width) and a mask (B, P) to logits (B, C)."""
        h, is_text = inp
        mask = is_text.unsqueeze(2)
        logits: Tensor = self.linear(self.dropout(self.norm((h * mask).sum(1) / mask.sum(1))))
        return logits
