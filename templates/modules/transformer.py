"""The network for texts: bytes to vectors, a Transformer encoder, a linear layer on the mean of what it returns."""

import torch
from torch import Tensor, nn

from engine.network import Fp32Linear

STRIDE = 4  # bytes that become one position of the Transformer


class Embed(nn.Module):
    """From bytes (B, L) to a vector for every four of them and the three around, and which of these are text."""

    def __init__(self, width: int, max_length: int) -> None:
        super().__init__()
        self.bytes = nn.Embedding(257, width, padding_idx=0)
        self.conv = nn.Conv1d(width, width, 7, STRIDE, padding=3)
        self.positions = nn.Parameter(0.02 * torch.randn(-(-max_length // STRIDE), width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # Padding is embedded as zeros, so how far a batch is padded changes nothing.
        h = nn.functional.gelu(self.conv(self.bytes(x).mT).mT)
        return h + self.positions[: h.shape[1]], x[:, ::STRIDE] > 0


class Encoder(nn.Module):
    """A Transformer encoder (Vaswani et al. 2017, normalised first) that looks at text only, not at padding."""

    def __init__(self, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        heads = next(heads for heads in (8, 4, 2, 1) if width % heads == 0 and width >= 16 * heads or heads == 1)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, inp: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, is_text = inp
        return self.layers(h, src_key_padding_mask=~is_text), is_text


class Classify(nn.Module):
    """Logits from the mean over a text."""

    def __init__(self, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = Fp32Linear(width, classes)

    def forward(self, inp: tuple[Tensor, Tensor]) -> Tensor:
        h, is_text = inp
        counted = is_text.unsqueeze(2)
        return self.linear(self.dropout((h * counted).sum(1) / counted.sum(1)))
