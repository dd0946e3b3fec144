"""One axis of a convolution or a pooling layer, and how such windows follow and join one another."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from refold.errors import GeometryError
from refold.geometry._numbers import whole


@dataclass(frozen=True, slots=True)
class Window:
    """One axis of a convolution or a pooling layer.

    `kernel` taps lie `dilation` places apart and move `stride` places at a time over an input that is continued by `before` and
    `after` places; a negative value crops. The items of the input lie `upsample` places apart with zeros between them, which is what
    makes a transposed convolution a window like any other (a = upsample, Dumoulin and Visin 2016, section 4).
    """

    kernel: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0
    upsample: int = 1

    def __post_init__(self) -> None:
        for name in ("kernel", "stride", "dilation", "upsample"):
            given = getattr(self, name)
            if type(given) is not int or given < 1:
                object.__setattr__(self, name, whole(name, given, at_least=1))
        for name in ("before", "after"):
            given = getattr(self, name)
            if type(given) is not int:
                object.__setattr__(self, name, whole(name, given))

    @property
    def span(self) -> int:
        """Places from the first tap to the last, both counted."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def excess(self) -> int:
        """Padding beyond what the span uses up: over `n` places the window takes `(n + excess) // stride + 1` positions."""
        return self.before + self.after - self.span

    @property
    def is_point(self) -> bool:
        """Whether the window reads each item by itself and keeps the size."""
        return self.kernel == self.stride == self.upsample == 1 and self.before == self.after == 0

    def places(self, n: int) -> int:
        """Places that `n` items take up, the zeros between them counted."""
        return (n - 1) * self.upsample + 1

    def output_size(self, n: int) -> int:
        """Positions that the window takes over `n` items.

        >>> Window(kernel=3, stride=2, before=1, after=1).output_size(224)
        112
        """
        room = self.places(whole("n", n, at_least=0)) + self.excess
        if room < 0:
            raise GeometryError(
                f"a window spanning {self.span} items does not fit {n} items padded by {self.before} and {self.after}; "
                f"pad by {-room} more or shorten the kernel"
            )
        return room // self.stride + 1

    def reads_before(self) -> bool:
        """Whether the first position reads in front of the input."""
        return self.before > 0

    def reads_after(self, n: int | None = None) -> bool:
        """Whether the last position reads behind the input: for `n` items, or for some size where `n` is None.

        What the last position leaves unread is `places + excess` modulo the stride; sizes change that by multiples of the upsampling.
        """
        if n is None:
            return self.after > (1 + self.excess) % math.gcd(self.upsample, self.stride)
        last = self.stride * (self.output_size(n) - 1) + self.span - 1 - self.before
        return last >= self.places(n)

    def then(self, second: Window) -> Window:
        """The one window that reads what `second` reads of this window's output.

        Sizes agree for every input: floor((floor((n + e) / s) + 1 + e') / s') + 1 = floor((n + e + s (1 + e')) / (s s')) + 1.

        >>> Window(3, stride=2, before=1, after=1).then(Window(3, before=1, after=1))
        Window(kernel=7, stride=2, dilation=1, before=3, after=3, upsample=1)
        """
        if second.upsample > 1:
            if not self.is_point:
                raise GeometryError(
                    f"an upsampling window (upsample {second.upsample}) can follow a point only, not {self}; keep the two apart"
                )
            return second
        steps = [step for step, kernel in ((self.stride * second.dilation, second.kernel), (self.dilation, self.kernel)) if kernel > 1]
        dilation = math.gcd(*steps) if steps else 1
        span = self.stride * (second.span - 1) + self.span
        return Window(
            kernel=(span - 1) // dilation + 1,
            stride=self.stride * second.stride,
            dilation=dilation,
            before=self.before + self.stride * second.before,
            after=self.after + self.stride * second.after,
            upsample=self.upsample,
        )

    def aligned(self, other: Window, n: int | None = None) -> bool:
        """Whether both windows move alike and take equally many positions: over `n` items, or over any number where `n` is None."""
        if self.stride != other.stride or self.upsample != other.upsample:
            return False
        if n is None:
            return self.excess == other.excess
        return self.output_size(n) == other.output_size(n)

    def union(self, other: Window, n: int | None = None) -> Window:
        """The smallest window that has every tap of two aligned windows.

        >>> Window(3, before=1, after=1).union(Window(1))
        Window(kernel=3, stride=1, dilation=1, before=1, after=1, upsample=1)
        """
        if not self.aligned(other, n):
            raise GeometryError(f"{self} and {other} do not take the same positions; only windows that do can be joined")
        first = min(-self.before, -other.before)
        last = max(self.span - self.before, other.span - other.before) - 1
        steps = [window.dilation for window in (self, other) if window.kernel > 1]
        dilation = math.gcd(*steps, self.before - other.before) or 1
        joined = Window(kernel=(last - first) // dilation + 1, stride=self.stride, dilation=dilation, before=-first, upsample=self.upsample)
        if self.excess == other.excess:
            return replace(joined, after=self.excess + joined.span - joined.before)
        assert n is not None  # windows of unequal excess are aligned at a known size only
        needed = self.stride * (self.output_size(n) - 1) + joined.span - joined.before - self.places(n)
        symmetric = replace(joined, after=joined.before)
        fits = needed <= symmetric.after < needed + self.stride
        return symmetric if fits else replace(joined, after=needed)

    def taps_within(self, outer: Window) -> slice:
        """Where this window's taps lie among those of a `union` that holds them.

        >>> Window(1).taps_within(Window(3, before=1, after=1))
        slice(1, 2, 1)
        """
        start, off_grid = divmod(outer.before - self.before, outer.dilation)
        step = self.dilation // outer.dilation if self.kernel > 1 else 1
        stop = start + step * (self.kernel - 1) + 1
        if off_grid or start < 0 or stop > outer.kernel or (self.kernel > 1 and self.dilation % outer.dilation):
            raise GeometryError(f"the taps of {self} do not all lie among those of {outer}")
        return slice(start, stop, step)
