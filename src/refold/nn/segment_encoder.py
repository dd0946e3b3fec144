"""A pre-norm transformer encoder whose attention reads segments.

x = x + attention(norm(x)); x = x + feedforward(norm(x)), for every layer, and a norm at the end (Xiong et al. 2020).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from refold.geometry import whole
from refold.nn.down_conv import check_items
from refold.nn.segment_attention import SegmentAttention


class SegmentEncoderLayer(nn.Module):
    """One layer: an attention of items and mask, and a feed-forward network, each on the normed input and added to it."""

    def __init__(self, hidden_size: int, attention: nn.Module, feedforward_size: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.attention = attention
        self.feedforward_norm = nn.LayerNorm(hidden_size)
        self.feedforward = nn.Sequential(
            nn.Linear(hidden_size, feedforward_size), nn.GELU(), nn.Dropout(dropout), nn.Linear(feedforward_size, hidden_size)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Items `(batch, length, hidden_size)` to items."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        x = x + self.dropout(self.feedforward(self.feedforward_norm(x)))
        return x


class SegmentEncoder(nn.Module):
    """`num_layers` layers of segment attention.

    Args:
        hidden_size: channels of the items, in and out.
        num_heads: heads of each attention.
        num_layers: layers.
        seq_len: the longest sequence; shorter ones are aligned to the newest item.
        m_segments: segments that each layer attends to.
        k1: items to a block of the first convolution.
        causal: no item sees a later one.
        feedforward_size: channels between the two feed-forward layers; None means four times `hidden_size`.
        dropout: of the attention weights, between the feed-forward layers and of what each adds.
        channel_reduction: see `DownConv`.
        position: see `SegmentAttention`.
        local_window: see `SegmentAttention`.
        discipline: see `DownConv`.

    >>> import torch
    >>> encoder = SegmentEncoder(64, num_heads=2, num_layers=2, seq_len=200, m_segments=20, k1=5, causal=True)
    >>> encoder(torch.zeros(3, 200, 64)).shape
    torch.Size([3, 200, 64])
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_layers: int,
        seq_len: int,
        m_segments: int,
        k1: int,
        causal: bool = False,
        *,
        feedforward_size: int | None = None,
        dropout: float = 0.0,
        channel_reduction: int = 16,
        position: Literal["segments", "items"] | None = "segments",
        local_window: int = 0,
        discipline: Literal["disjoint", "overlap", "published"] | None = None,
    ) -> None:
        super().__init__()
        self.hidden_size = whole("hidden_size", hidden_size, at_least=1)
        self.seq_len = whole("seq_len", seq_len, at_least=1)
        wide = 4 * self.hidden_size if feedforward_size is None else whole("feedforward_size", feedforward_size, at_least=1)
        layers = []
        for _ in range(whole("num_layers", num_layers, at_least=1)):
            attention = SegmentAttention(
                hidden_size,
                num_heads,
                seq_len,
                m_segments,
                k1,
                causal,
                channel_reduction=channel_reduction,
                dropout=dropout,
                position=position,
                local_window=local_window,
                discipline=discipline,
            )
            layers.append(SegmentEncoderLayer(self.hidden_size, attention, wide, dropout))
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Items `(batch, length, hidden_size)` to items; masked ones (False in `mask` `(batch, length)`) get zeros."""
        check_items(x, mask, self.seq_len, self.hidden_size)
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0.0)
        for layer in self.layers:
            x = layer(x, mask)
        y: Tensor = self.norm(x)
        return y if mask is None else y.masked_fill(~mask.unsqueeze(-1), 0.0)
