"""The recommender: item embeddings, a causal encoder, and scores for every item; full attention or segments inside."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refold.nn.segment_attention import SegmentAttention
from refold.nn.segment_encoder import SegmentEncoderLayer


@dataclass(frozen=True)
class Config:
    """What a run is made of; the same for both kinds of attention but for the last four."""

    attention: str = "full"
    seed: int = 0
    seq_len: int = 64
    hidden_size: int = 64
    num_heads: int = 2
    num_layers: int = 2
    dropout: float = 0.3
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    epochs: int = 30
    patience: int = 3
    m_segments: int = 16
    k1: int = 2
    channel_reduction: int = 4
    local_window: int = 8


class FullAttention(nn.Module):
    """Every item attends to itself and to all real items before it (SASRec, Kang and McAuley 2018)."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Items `(batch, length, hidden)` to items; padding sees itself alone."""
        length = x.shape[1]
        query, key, value = self.query_key_value(x).unflatten(2, (3 * self.num_heads, -1)).transpose(1, 2).chunk(3, 1)
        earlier = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        own = torch.eye(length, dtype=torch.bool, device=x.device)
        visible = mask[:, None, None] & earlier | own
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, visible, dropout_p=dropout)
        y: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return y


class Recommender(nn.Module):
    """Scores of every item for being the next one."""

    def __init__(self, num_items: int, config: Config) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items + 1, config.hidden_size, padding_idx=0)
        self.positions = nn.Parameter(torch.randn(config.seq_len, config.hidden_size) * 0.02)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            SegmentEncoderLayer(config.hidden_size, self._attention(config), 4 * config.hidden_size, config.dropout)
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size)
        nn.init.normal_(self.items.weight, std=0.02)

    @staticmethod
    def _attention(config: Config) -> nn.Module:
        if config.attention == "full":
            return FullAttention(config.hidden_size, config.num_heads, config.dropout)
        return SegmentAttention(
            config.hidden_size,
            config.num_heads,
            config.seq_len,
            config.m_segments,
            config.k1,
            causal=True,
            channel_reduction=config.channel_reduction,
            dropout=config.dropout,
            local_window=config.local_window,
        )

    def forward(self, history: Tensor) -> Tensor:
        """Hidden states `(batch, length, hidden)` of items `(batch, length)`, 0 being padding."""
        mask = history > 0
        x = self.dropout(self.items(history) + self.positions[len(self.positions) - history.shape[1] :])
        x = x.masked_fill(~mask.unsqueeze(-1), 0.0)
        for layer in self.layers:
            x = layer(x, mask)
        y: Tensor = self.norm(x)
        return y

    def scores(self, hidden: Tensor) -> Tensor:
        """The score of every item but the padding."""
        return hidden @ self.items.weight[1:].T
