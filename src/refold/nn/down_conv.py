"""Two strided convolutions that turn a sequence into exactly m segments.

segments = conv2a(relu(conv1a(x))): the first makes blocks of `k1` items and narrows the channels, the second makes segments of blocks.

The published module (progressive self-attention, Zhu et al., SIGIR 2022, 10.1145/3477495.3531800) takes k2 = ceil(length / k1 / m) and pads
the blocks by ceil((k2 m - length / k1) / 2) on both sides. Of the 524,288 combinations of length to 512, m to 32 and k1 to 32 that gives
m segments, reads every item and leaves no segment empty in 34,449. `DownConv` computes the same there, and elsewhere cuts as
`refold.geometry.plan_segments` does or says why it cannot.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refold.errors import GeometryError
from refold.geometry import SegmentPlan, Window, plan_segments, whole


class DownConv(nn.Module):
    """Exactly `m_segments` summaries of a sequence of up to `seq_len` items.

    Args:
        seq_len: the longest sequence; shorter ones are aligned to the newest item.
        hidden_size: channels of the items and of the segments.
        m_segments: segments to make.
        k1: items to a block, kernel of the first convolution; the second one's follows.
        channel_reduction: the blocks have `hidden_size // channel_reduction` channels.
        discipline: how to cut, see `refold.geometry.plan_segments`. None cuts as published where that is right, and else `disjoint`.

    `plan` holds the cut; `print(module.plan.draw())` shows it. `conv1a` and `conv2a` hold the parameters under their published names.

    Raises:
        GeometryError: a size is not a positive whole number, the reduction leaves no channel, or the combination cannot be had.

    >>> down = DownConv(seq_len=200, hidden_size=64, m_segments=4, k1=10)
    >>> down(torch.zeros(2, 200, 64)).shape
    torch.Size([2, 4, 64])
    >>> down.plan.ranges
    ((0, 50), (50, 100), (100, 150), (150, 200))
    """

    def __init__(
        self,
        seq_len: int = 200,
        hidden_size: int = 64,
        m_segments: int = 4,
        k1: int = 10,
        channel_reduction: int = 16,
        *,
        discipline: Literal["disjoint", "overlap", "published"] | None = None,
    ) -> None:
        super().__init__()
        self.seq_len = whole("seq_len", seq_len, at_least=1)
        self.hidden_size = whole("hidden_size", hidden_size, at_least=1)
        self.m_segments = whole("m_segments", m_segments, at_least=1)
        self.k1 = whole("k1", k1, at_least=1)
        self.channel_reduction = whole("channel_reduction", channel_reduction, at_least=1)
        for name, value in (("m_segments", self.m_segments), ("k1", self.k1)):
            if value > self.seq_len:
                raise GeometryError(f"`{name}` (={value}) must be at most `seq_len` (={self.seq_len})")
        if self.hidden_size < self.channel_reduction:
            raise GeometryError(
                f"`channel_reduction` (={self.channel_reduction}) leaves no channel of `hidden_size` (={self.hidden_size}); "
                f"take one of at most {self.hidden_size}"
            )
        self.plan = _plan(self.seq_len, self.m_segments, self.k1, discipline)
        narrow = self.hidden_size // self.channel_reduction
        first, second = self.plan.stages
        self.conv1a = nn.Conv1d(self.hidden_size, narrow, first.kernel, first.stride)
        self.conv2a = nn.Conv1d(narrow, self.hidden_size, second.kernel, second.stride)

    @overload
    def forward(self, x: Tensor, mask: Tensor | None = None, return_mask: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, x: Tensor, mask: Tensor | None = None, *, return_mask: Literal[True]) -> tuple[Tensor, Tensor]: ...

    def forward(self, x: Tensor, mask: Tensor | None = None, return_mask: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Segments `(batch, m_segments, hidden_size)` of items `(batch, length, hidden_size)`, the oldest first.

        Masked items (False in `mask` `(batch, length)`) add nothing, whatever they are: a block of masked items counts as padding, and a
        segment of them is zero. With `return_mask` also says which segments hold a real item, `(batch, m_segments)`.

        Raises:
            ValueError: `x` or `mask` has a wrong shape or dtype, or (in eager mode) a real item is NaN.
        """
        check_items(x, mask, self.seq_len, self.hidden_size)
        check_finite(x, mask)
        segments, real = self.segment(x, mask)
        if not return_mask:
            return segments
        return segments, real if real is not None else x.new_ones(x.shape[0], self.m_segments, dtype=torch.bool)

    def segment(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The work of `forward` on checked inputs; the mask is None where every segment holds a real item of every row."""
        first, second = self.plan.stages
        missing = self.seq_len - x.shape[1]
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0.0)
        elif _may_miss(missing):
            mask = x.new_ones(x.shape[0], x.shape[1], dtype=torch.bool)
        blocks = F.relu(_slide(_pad(x, missing + first.before, 0), first, self.conv1a))
        if mask is None:
            return _slide(_pad(blocks, second.before, second.after), second, self.conv2a), None
        real_blocks = _any(F.pad(mask, (missing + first.before, 0)), first)
        blocks = blocks.masked_fill(~real_blocks.unsqueeze(-1), 0.0)
        segments = _slide(_pad(blocks, second.before, second.after), second, self.conv2a)
        real_segments = _any(F.pad(real_blocks, (second.before, second.after)), second)
        return segments.masked_fill(~real_segments.unsqueeze(-1), 0.0), real_segments

    def extra_repr(self) -> str:
        """The cut in one line."""
        return f"seq_len={self.seq_len}, m_segments={self.m_segments}, discipline={self.plan.discipline!r}"


def check_items(x: Tensor, mask: Tensor | None, seq_len: int, hidden_size: int) -> None:
    """Hold items and their mask to `(batch, length, hidden_size)` and `(batch, length)` bool, or raise a ValueError."""
    if x.dim() != 3 or x.shape[2] != hidden_size:
        raise GeometryError(f"items must be (batch, length, hidden_size={hidden_size}), not {tuple(x.shape)}")
    if x.shape[1] > seq_len:
        raise GeometryError(
            f"{x.shape[1]} items are more than `seq_len` (={seq_len}); keep the newest, x[:, -{seq_len}:], or build the layer for more"
        )
    if not x.is_floating_point():
        raise GeometryError(f"items must be floating point, not {x.dtype}; embed them first")
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise GeometryError(f"`mask` must be torch.bool, True where an item is real, not {mask.dtype}; use mask.bool()")
    if mask.shape != x.shape[:2]:
        raise GeometryError(f"`mask` {tuple(mask.shape)} must be (batch, length), {tuple(x.shape[:2])} for these items")


def check_finite(x: Tensor, mask: Tensor | None) -> None:
    """Raise a ValueError where a real item is NaN. Traced, exported and compiled graphs do not ask: the answer depends on the data."""
    tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if tracing or x.is_meta or type(x) not in (Tensor, nn.Parameter):
        return
    total = x.detach().sum()
    if bool(total == total):
        return
    found = x.detach().isnan().any(-1)
    if mask is not None:
        found = found & mask
    if bool(found.any()):
        row, item = found.nonzero()[0].tolist()
        raise GeometryError(
            f"{int(found.sum())} items are NaN, the first is item {item} of row {row}; mask them, or mend the layer that made them"
        )


def _plan(seq_len: int, m_segments: int, k1: int, discipline: Literal["disjoint", "overlap", "published"] | None) -> SegmentPlan:
    if discipline is None:
        try:
            return plan_segments(seq_len, m_segments, k1, "published")
        except GeometryError:
            discipline = "disjoint"
    return plan_segments(seq_len, m_segments, k1, discipline)


def _may_miss(missing: int) -> bool:
    """Whether items may be missing; in a graph of free length always, so that the graph does not depend on it."""
    return torch.compiler.is_compiling() or missing > 0


def _pad(x: Tensor, before: int, after: int) -> Tensor:
    """`x` `(batch, length, channels)` with zeros in front and behind; not a copy where there are none."""
    if not torch.compiler.is_compiling() and before == after == 0:
        return x
    return F.pad(x, (0, 0, before, after))


def _slide(x: Tensor, window: Window, conv: nn.Conv1d) -> Tensor:
    """`conv` along the length of padded `x`; where windows do not overlap as one matrix product."""
    if window.kernel != window.stride:
        return F.conv1d(x.transpose(1, 2), conv.weight, conv.bias, conv.stride).transpose(1, 2)
    weight = conv.weight.transpose(1, 2).reshape(conv.out_channels, -1)
    positions = x.shape[1] // window.kernel
    return F.linear(x.reshape(x.shape[0], positions, window.kernel * x.shape[2]), weight, conv.bias)


def _any(mask: Tensor, window: Window) -> Tensor:
    """Whether each position of the window reads a True of the padded `mask`."""
    return mask.unfold(1, window.kernel, window.stride).any(-1)
