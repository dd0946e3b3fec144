"""Attention in which items ask and segments answer, at a cost linear in the length.

out = W_o softmax((W_q x + p) (K(x) + s)ᵀ / sqrt(d)) V(x), where K and V are `DownConv`s of the items and p, s learned positions.

Published as progressive self-attention (Zhu et al., SIGIR 2022, 10.1145/3477495.3531800), which normalizes over the items that ask; here
the weights are a distribution over the segments.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refold.errors import GeometryError
from refold.geometry import whole
from refold.nn.down_conv import DownConv, check_finite, check_items


class SegmentAttention(nn.Module):
    """Multi-head attention of up to `seq_len` items to the `m_segments` segments of the same sequence.

    Args:
        hidden_size: channels of the items, in and out.
        num_heads: heads, which share the channels evenly.
        seq_len: the longest sequence; shorter ones are aligned to the newest item.
        m_segments: segments to attend to.
        k1: items to a block of the first convolution.
        causal: an item sees the segments that end at or before it, and a learned null segment, so that there is always one to see.
        channel_reduction: of the `DownConv`s.
        dropout: of the attention weights, in training.
        position: how positions enter, beside what the items themselves carry. `"segments"` adds a learned position to each query and
            another to each segment's key, which is linear in the length. `"items"` is the published term: a second attention, of items
            with positions to items with positions, quadratic in the length. None leaves them out.
        local_window: where positive an item also attends, in a second softmax whose result is added, to its own chunk of so many items
            and to the chunk before (not causal: and behind). It fills the gap that a causal item has between the last finished segment
            and itself; the cost stays linear.
        discipline: how to cut, see `DownConv`.

    Raises:
        GeometryError: sizes that do not go together.

    >>> attention = SegmentAttention(64, num_heads=4, seq_len=200, m_segments=20, k1=5, causal=True)
    >>> attention(torch.zeros(2, 150, 64)).shape
    torch.Size([2, 150, 64])
    """

    visible: Tensor

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        seq_len: int,
        m_segments: int,
        k1: int,
        causal: bool = False,
        *,
        channel_reduction: int = 16,
        dropout: float = 0.0,
        position: Literal["segments", "items"] | None = "segments",
        local_window: int = 0,
        discipline: Literal["disjoint", "overlap", "published"] | None = None,
    ) -> None:
        super().__init__()
        self.key = DownConv(seq_len, hidden_size, m_segments, k1, channel_reduction, discipline=discipline)
        self.value = DownConv(seq_len, hidden_size, m_segments, k1, channel_reduction, discipline=discipline)
        self.hidden_size, self.seq_len, self.m_segments = self.key.hidden_size, self.key.seq_len, self.key.m_segments
        self.num_heads = whole("num_heads", num_heads, at_least=1)
        if self.hidden_size % self.num_heads:
            raise GeometryError(f"`hidden_size` (={hidden_size}) must be divisible by `num_heads` (={num_heads})")
        if not 0.0 <= dropout < 1.0:
            raise GeometryError(f"`dropout` (={dropout}) must be at least 0 and below 1")
        if position not in ("segments", "items", None):
            raise GeometryError(f"`position` (={position!r}) must be 'segments', 'items' or None")
        self.causal, self.dropout, self.position = bool(causal), float(dropout), position
        self.local_window = whole("local_window", local_window, at_least=0)
        self.query = nn.Linear(self.hidden_size, self.hidden_size)
        self.out = nn.Linear(self.hidden_size, self.hidden_size)

        head_size = self.hidden_size // self.num_heads
        seen = self.m_segments + self.causal
        if self.causal:
            self.null_key = nn.Parameter(torch.randn(self.num_heads, 1, head_size) * head_size**-0.5)
            self.null_value = nn.Parameter(torch.zeros(self.num_heads, 1, head_size))
            ends = torch.tensor([0, *(stop for _, stop in self.key.plan.ranges)])
            self.register_buffer("visible", ends <= torch.arange(1, self.seq_len + 1).unsqueeze(1), persistent=False)
        if position == "segments":
            self.segment_position = nn.Parameter(torch.randn(self.num_heads, seen, head_size) * 0.02)
        if position is not None:
            self.item_position = nn.Parameter(torch.randn(self.seq_len, self.hidden_size) * 0.02)
        if position == "items":
            self.position_norm = nn.LayerNorm(self.hidden_size)
            self.position_query = nn.Linear(self.hidden_size, self.hidden_size)
            self.position_key = nn.Linear(self.hidden_size, self.hidden_size)
        if position == "items" or self.local_window:
            self.item_value = nn.Linear(self.hidden_size, self.hidden_size)
        if self.local_window:
            self.item_key = nn.Linear(self.hidden_size, self.hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from items `(batch, length, hidden_size)`; the result has the same shape.

        Masked items (False in `mask` `(batch, length)`) are seen by none and get zeros, and so does a row of masked items alone.

        Raises:
            ValueError: `x` or `mask` has a wrong shape or dtype, or (in eager mode) a real item is NaN.
        """
        check_items(x, mask, self.seq_len, self.hidden_size)
        check_finite(x, mask)
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0.0)
        keys, real = self.key.segment(x, mask)
        values, _ = self.value.segment(x, mask)
        key, value = self._heads(keys), self._heads(values)
        query = self.query(x)
        if self.causal:
            key = torch.cat([self.null_key.to(key.dtype).expand(x.shape[0], -1, -1, -1), key], 2)
            value = torch.cat([self.null_value.to(value.dtype).expand(x.shape[0], -1, -1, -1), value], 2)
        placed = query
        if self.position == "segments":
            placed = query + self.item_position[self.seq_len - x.shape[1] :].to(query.dtype)
            key = key + self.segment_position.to(key.dtype)
        attended = self._attend(self._heads(placed), key, value, self._visible(x.shape[1], real))
        if self.position == "items":
            attended = attended + self._attend_to_positions(x, mask)
        if self.local_window:
            attended = attended + self._attend_nearby(self._heads(query), x, mask)
        y: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return y if mask is None else y.masked_fill(~mask.unsqueeze(-1), 0.0)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, scores: Tensor | None) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, scores, dropout_p=self.dropout if self.training else 0.0)

    def _heads(self, x: Tensor) -> Tensor:
        """`(batch, length, hidden)` as `(batch, heads, length, hidden / heads)`."""
        heads: Tensor = x.unflatten(2, (self.num_heads, self.hidden_size // self.num_heads))
        return heads.transpose(1, 2)

    def _visible(self, length: int, real: Tensor | None) -> Tensor | None:
        """Which segments each item sees, or None where all see all; there is always one to see."""
        finished = self.visible[self.seq_len - length :] if self.causal else None
        if real is None:
            return finished
        if finished is not None:
            return F.pad(real, (1, 0), value=True)[:, None, None] & finished
        return (real | ~real.any(-1, keepdim=True))[:, None, None]  # a row of nothing sees anything: it gets zeros in the end

    def _attend_to_positions(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The published positional term: items with positions added, against one another."""
        length = x.shape[1]
        placed = self.position_norm(x + self.item_position[self.seq_len - length :])
        visible = None
        if self.causal:
            visible = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        if mask is not None:
            own = torch.eye(length, dtype=torch.bool, device=x.device)  # padding sees itself, so that there is always something to see
            visible = (mask[:, None, None] if visible is None else mask[:, None, None] & visible) | own
        query, key = self._heads(self.position_query(placed)), self._heads(self.position_key(placed))
        return self._attend(query, key, self._heads(self.item_value(x)), visible)

    def _attend_nearby(self, query: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attention within chunks of `local_window` items and to the chunk before, and where not causal the chunk behind."""
        width, length = self.local_window, x.shape[1]
        longest = self.seq_len if torch.compiler.is_compiling() else length  # in a graph of free length the number of chunks is fixed
        chunks = -(-longest // width)
        missing = chunks * width - length

        def chunked(items: Tensor) -> Tensor:
            """`(batch, heads, length, d)` as `(batch, chunks, heads, width, d)`, padded in front."""
            chunks_of_items: Tensor = F.pad(items, (0, 0, missing, 0)).unflatten(2, (chunks, width))
            return chunks_of_items.transpose(1, 2)

        def with_neighbours(items: Tensor, axis: int) -> Tensor:
            """Each chunk behind its predecessor, and in front of its successor where not causal, along `axis`."""
            none = items.new_zeros(1).expand_as(items[:, :1])
            around = [torch.cat([none, items[:, :-1]], 1), items]
            if not self.causal:
                around.append(torch.cat([items[:, 1:], none], 1))
            return torch.cat(around, axis)

        real = x.new_ones(x.shape[0], length, dtype=torch.bool) if mask is None else mask
        near = with_neighbours(F.pad(real, (missing, 0)).unflatten(1, (chunks, width)), 2)[:, :, None, None]
        places = torch.arange(near.shape[-1], device=x.device)
        own = places[width : 2 * width, None]
        if self.causal:
            near = near & (places <= own)
        near = near | (places == own)  # padding sees itself, so that there is always something to see
        key = with_neighbours(chunked(self._heads(self.item_key(x))), 3)
        value = with_neighbours(chunked(self._heads(self.item_value(x))), 3)
        attended = self._attend(chunked(query).flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), near.flatten(0, 1))
        joined: Tensor = attended.unflatten(0, (x.shape[0], chunks)).transpose(1, 2).flatten(2, 3)
        return F.pad(joined, (0, 0, -missing, 0))

    def extra_repr(self) -> str:
        """What was asked for, in one line."""
        return f"num_heads={self.num_heads}, causal={self.causal}, position={self.position!r}, local_window={self.local_window}"
