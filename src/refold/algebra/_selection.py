"""Maps that only rearrange channels: concatenation, splitting, reordering. Kept as indices until something is multiplied with them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from array_api_compat import array_namespace, device

from refold.algebra._affine import AffineConv, Array, Stencil
from refold.algebra._formula import UNIT, Formula, Leaf, Memo
from refold.errors import AlgebraError
from refold.geometry import Window


@dataclass(frozen=True, eq=False)
class Selection(Formula):
    """Output channel i is input channel `sources[i]`, or zero where that is None; `like` says where its numbers would live.

    A concatenation is a sum of selections, one for each part. Written out, a selection would be a dense kernel of ones and zeros: it pays
    only joined with a map in front of it or behind it.

    >>> import numpy as np
    >>> Selection((None, 0, 1), 2, 0, np.zeros(0)).block(None, {}).kernel
    array([[0., 0.],
           [1., 0.],
           [0., 1.]])
    """

    sources: tuple[int | None, ...]
    channels: int
    rank: int
    like: Array

    @classmethod
    def side_by_side(cls, widths: Sequence[int], rank: int, like: Array) -> tuple[Selection, ...]:
        """What a concatenation of so many channels each makes of its parts, one after another.

        >>> import numpy as np
        >>> [part.sources for part in Selection.side_by_side([1, 2], 0, np.zeros(0))]
        [(0, None, None), (None, 0, 1)]
        """
        ends = list(accumulate(widths))
        return tuple(
            cls((*[None] * (end - width), *range(width), *[None] * (ends[-1] - end)), width, rank, like)
            for width, end in zip(widths, ends, strict=True)
        )

    def __post_init__(self) -> None:
        wrong = [source for source in self.sources if source is not None and not 0 <= source < self.channels]
        if wrong:
            raise AlgebraError(f"a selection among {self.channels} channels cannot take channel {wrong[0]}")

    @cached_property
    def stencil(self) -> Stencil:  # type: ignore[override]
        return Stencil(self.channels, len(self.sources), 1, (Window(1),) * self.rank)

    fill = None

    @property
    def anywhere(self) -> Array:
        return self.like

    @property
    def peak(self) -> float:
        return 1.0

    @property
    def rounding(self) -> float:
        return UNIT

    def gain(self, level: Array) -> Array:
        return self._level(level)

    @property
    def key(self) -> Hashable:
        return ("selection", self.sources, self.channels, self.rank)

    def leaves(self) -> Iterator[Leaf]:
        yield from ()

    def _linear_part(self) -> Formula:
        return self

    def _level(self, constant: Array | None) -> Array:
        xp = array_namespace(self.like)
        zero = xp.zeros((1,), dtype=xp.float64, device=device(self.like))
        if constant is None:
            return xp.zeros((len(self.sources),), dtype=xp.float64, device=device(self.like))
        return xp.take(xp.concat([constant, zero]), self._indices(range(len(self.sources))), axis=0)

    def block(self, rows: range | None, memo: Memo) -> AffineConv:
        xp = array_namespace(self.like)
        rows = range(len(self.sources)) if rows is None else rows
        place = {"device": device(self.like)}
        chosen = self._indices(rows)[:, None] == xp.arange(self.channels, **place)[None, :]
        kernel = xp.reshape(xp.astype(chosen, xp.float64), (len(rows), self.channels, *([1] * self.rank)))
        return AffineConv(kernel, xp.zeros((len(rows),), dtype=xp.float64, **place), self.stencil.windows)

    def _indices(self, rows: range) -> Array:
        """The sources of some output channels, one past the last channel for zeros."""
        xp = array_namespace(self.like)
        chosen = [self.channels if self.sources[row] is None else self.sources[row] for row in rows]
        return xp.asarray(chosen, dtype=xp.int64, device=device(self.like))
