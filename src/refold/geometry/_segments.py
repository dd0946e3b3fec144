"""Plans that cut a sequence into exactly m segments with two convolutions, one after the other."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from refold.errors import GeometryError
from refold.geometry._numbers import whole
from refold.geometry._window import Window

Discipline: TypeAlias = Literal["disjoint", "overlap", "published"]

_Stages: TypeAlias = tuple[Window, Window]


@dataclass(frozen=True, slots=True)
class SegmentPlan:
    """Two windows that turn `length` items, the oldest first, into `segments` segments.

    The first window makes blocks of items, the second one segments of blocks. Every item lies in a segment and every segment holds an item.
    """

    length: int
    segments: int
    discipline: Discipline
    stages: tuple[Window, Window]

    def __post_init__(self) -> None:
        first, second = self.stages
        made = second.output_size(first.output_size(self.length))
        ranges = self.ranges
        end, gaps = 0, False
        for start, stop in ranges:
            gaps = gaps or start > end or stop <= start
            end = max(end, stop)
        if made != self.segments or gaps or end < self.length or first.kernel < first.stride:
            raise GeometryError(
                f"{first} and {second} make {made} segments of {self.length} items, {ranges}; "
                f"not {self.segments} that hold every item and are never empty; use plan_segments()"
            )

    @property
    def kernels(self) -> tuple[int, int]:
        """Items to a block and blocks to a segment."""
        return self.stages[0].kernel, self.stages[1].kernel

    @property
    def strides(self) -> tuple[int, int]:
        """Items from one block to the next and blocks from one segment to the next."""
        return self.stages[0].stride, self.stages[1].stride

    @property
    def paddings(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Items in front of the oldest and behind the newest, and blocks likewise."""
        first, second = self.stages
        return (first.before, first.after), (second.before, second.after)

    @property
    def blocks(self) -> int:
        """Blocks that the first stage makes, padding left out."""
        return self.stages[0].output_size(self.length)

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The items of each segment, from the first to the one behind the last.

        >>> plan_segments(11, 3, first_kernel=2).ranges
        ((0, 3), (3, 7), (7, 11))
        """
        first, second = self.stages
        blocks, found = self.blocks, []
        for at in range(-second.before, second.stride * self.segments - second.before, second.stride):
            start, stop = max(at, 0), min(at + second.kernel, blocks)  # of blocks; those beyond hold nothing
            begin = max(first.stride * start - first.before, 0)
            end = min(first.stride * (stop - 1) - first.before + first.kernel, self.length)
            found.append((begin, end if start < stop else begin))
        return tuple(found)

    def draw(self, width: int = 48) -> str:
        """The plan as text: both stages, then one line for each segment with the items it holds.

        >>> print(plan_segments(11, 3, first_kernel=2).draw(width=11))
        11 items in 3 segments, disjoint
        stage 1: kernel 2, stride 2, padding 1 before and 0 after: 11 items to 6 blocks
        stage 2: kernel 2, stride 2, padding 0 before and 0 after: 6 blocks to 3 segments
        <BLANKLINE>
        segment  items      oldest ... newest
        0         0..2   3  |###........|
        1         3..6   4  |...####....|
        2         7..10  4  |.......####|
        """
        lines = [f"{_count(self.length, 'item')} in {_count(self.segments, 'segment')}, {self.discipline}"]
        inputs = (_count(self.length, "item"), _count(self.blocks, "block"), _count(self.segments, "segment"))
        for index, window in enumerate(self.stages):
            padding = f"padding {window.before} before and {window.after} after"
            change = f"{inputs[index]} to {inputs[index + 1]}"
            lines.append(f"stage {index + 1}: kernel {window.kernel}, stride {window.stride}, {padding}: {change}")
        digits = len(str(self.length - 1))
        counts = len(str(max(stop - start for start, stop in self.ranges)))
        cells = min(width, self.length)
        head = f"{'segment':<9}{'items':<{2 * digits + counts + 6}}"
        lines += ["", f"{head}{'oldest ... newest'}"]
        for index, (start, stop) in enumerate(self.ranges):
            left, right = start * cells // self.length, -(-stop * cells // self.length)
            bar = "." * left + "#" * (right - left) + "." * (cells - right)
            items = f"{start:>{digits}}..{stop - 1:<{digits}}  {stop - start:>{counts}}"
            lines.append(f"{index:<9}{items}  |{bar}|")
        return "\n".join(lines)


def plan_segments(length: int, segments: int, first_kernel: int | None = None, discipline: Discipline = "disjoint") -> SegmentPlan:
    """Cut `length` items into exactly `segments` segments, each read by blocks of `first_kernel` items.

    Every item lies in a segment, no segment is padding alone, the newest item closes the last segment, and segments differ in size by one
    block at the most.

    - `disjoint`: kernel = stride in both stages; what the last block or segment lacks is padded in front of the oldest item. It takes the
      combinations that lack at most one block, and less than a segment.
    - `overlap`: segments begin `floor(length / segments)` items apart and share items where that leaves a remainder. It takes every
      combination.
    - `published`: as the module of Zhu et al. (SIGIR 2022, 10.1145/3477495.3531800) cuts, with padding at both ends. It takes the
      combinations where that module neither loses items nor leaves a segment empty; the newest segment may then hold padding, and sizes
      may differ by more than a block.

    Where `disjoint` and `published` both take a combination their plans are equal. Without `first_kernel` the plan with the least padding
    is taken, and among those the one whose two kernels have the fewest taps together.

    Raises:
        GeometryError: the combination cannot be had; the message names the nearest ones that can.

    >>> plan = plan_segments(200, 4, first_kernel=10)
    >>> plan.kernels, plan.paddings
    ((10, 5), ((0, 0), (0, 0)))
    >>> plan_segments(10, 4, discipline="overlap").ranges
    ((0, 4), (2, 6), (4, 8), (6, 10))
    """
    length = whole("length", length, at_least=1)
    segments = whole("segments", segments, at_least=1)
    if discipline not in _RULES:
        raise GeometryError(f"`discipline` (={discipline!r}) must be one of {', '.join(map(repr, _RULES))}")
    if segments > length:
        raise GeometryError(f"`segments` (={segments}) must be at most `length` (={length}): a segment holds an item or more")
    rule = _RULES[discipline]
    if first_kernel is None:
        stages = _best(rule, length, segments)
    else:
        first_kernel = whole("first_kernel", first_kernel, at_least=1)
        if first_kernel > length:
            raise GeometryError(f"`first_kernel` (={first_kernel}) must be at most `length` (={length})")
        stages = rule(length, segments, first_kernel)
    if stages is None:
        raise GeometryError(_refusal(length, segments, first_kernel, discipline))
    return SegmentPlan(length, segments, discipline, stages)


def _disjoint(length: int, segments: int, first_kernel: int) -> _Stages | None:
    """kernel1 * kernel2 * segments = length + missing, where missing <= kernel1 and missing < kernel1 * kernel2."""
    second_kernel = -(-length // (first_kernel * segments))
    missing = first_kernel * second_kernel * segments - length
    if missing > first_kernel or missing >= first_kernel * second_kernel:
        return None
    blocks, items = divmod(missing, first_kernel)
    return Window(first_kernel, first_kernel, before=items), Window(second_kernel, second_kernel, before=blocks)


def _published(length: int, segments: int, first_kernel: int) -> _Stages | None:
    """kernel2 = ceil(blocks / segments), padding = ceil((kernel2 * segments - blocks) / 2) blocks, which must be less than a segment."""
    blocks, lost = divmod(length, first_kernel)
    second_kernel = -(-blocks // segments)
    missing = second_kernel * segments - blocks
    before = -(-missing // 2)
    if lost or before >= second_kernel:
        return None
    return Window(first_kernel, first_kernel), Window(second_kernel, second_kernel, before=before, after=missing - before)


def _overlap(length: int, segments: int, first_kernel: int) -> _Stages:
    """Segment j is [j s, j s + length - (segments - 1) s) with s = floor(length / segments), padded in front up to whole blocks.

    The first stage's stride must divide s and may not exceed its kernel, or items would fall between blocks; the largest is cheapest.
    """
    apart = length // segments
    span = length - (segments - 1) * apart
    first_stride = _largest_divisor(apart, first_kernel)
    second_kernel = max(0, -(-(span - first_kernel) // first_stride)) + 1
    padding = first_stride * (second_kernel - 1) + first_kernel - span
    return Window(first_kernel, first_stride, before=padding), Window(second_kernel, apart // first_stride)


_RULES: dict[str, Callable[[int, int, int], _Stages | None]] = {"disjoint": _disjoint, "overlap": _overlap, "published": _published}


def _largest_divisor(number: int, limit: int) -> int:
    small = [divisor for divisor in range(1, int(number**0.5) + 1) if number % divisor == 0]
    divisors = sorted({*small, *(number // divisor for divisor in small)})
    return divisors[bisect.bisect_right(divisors, limit) - 1]


def _best(rule: Callable[[int, int, int], _Stages | None], length: int, segments: int) -> _Stages | None:
    """The stages of least padding, then of fewest taps, then of fewest multiply-adds."""
    longest = length - (segments - 1) * (length // segments)  # a longer first kernel would only be padded
    options = (rule(length, segments, kernel) for kernel in range(1, longest + 1))

    def cost(stages: _Stages) -> tuple[int, int, int]:
        first, second = stages
        padding = first.before + first.stride * (second.before + second.after)
        work = first.output_size(length) * first.kernel + segments * second.kernel
        return padding, first.kernel + second.kernel, work

    return min((stages for stages in options if stages is not None), key=cost, default=None)


def _refusal(length: int, segments: int, first_kernel: int | None, discipline: Discipline) -> str:
    rule = _RULES[discipline]
    if first_kernel is None:
        other = _nearest(lambda count: _best(rule, length, count) is not None, segments, length)
        return (
            f"no first kernel cuts {length} items into {segments} {discipline} segments of nearly one size; "
            f"take {_choices(other, 'segment')}, or discipline 'overlap', which cuts any length"
        )
    counts = _nearest(lambda count: rule(length, count, first_kernel) is not None, segments, length)
    kernels = _nearest(lambda kernel: rule(length, segments, kernel) is not None, first_kernel, length)
    remedies = []
    if counts:
        remedies.append(f"with first kernel {first_kernel} take {_choices(counts, 'segment')}")
    if kernels:
        remedies.append(f"with {_count(segments, 'segment')} first kernel {_either(kernels)}")
    return (
        f"{length} items do not make {_count(segments, f'{discipline} segment')} with first kernel {first_kernel}: "
        f"{_fault(length, segments, first_kernel, discipline)}; {', '.join([*remedies, 'or'])} discipline 'overlap'"
    )


def _fault(length: int, segments: int, first_kernel: int, discipline: Discipline) -> str:
    if discipline == "published" and length % first_kernel:
        return f"{_count(length // first_kernel, 'block')} leave out the newest {_count(length % first_kernel, 'item')}"
    each = -(-length // (first_kernel * segments))
    held = first_kernel * each * segments
    if discipline == "published" or held - length >= first_kernel * each:
        harm = "would leave a segment of padding alone"
    else:
        harm = f"are more than the one block (of {first_kernel}) by which segments may differ"
    return f"{_count(segments, 'segment')} of {_count(each, 'block')} would hold {held} items, and the {held - length} missing {harm}"


def _nearest(works: Callable[[int], bool], target: int, highest: int) -> list[int]:
    """The values next to `target` on either side that work."""
    below = next((value for value in range(target - 1, 0, -1) if works(value)), None)
    above = next((value for value in range(target + 1, highest + 1) if works(value)), None)
    return [value for value in (below, above) if value is not None]


def _either(values: list[int]) -> str:
    return " or ".join(map(str, values))


def _choices(values: list[int], noun: str) -> str:
    return f"{_either(values)} {noun}{'' if values == [1] else 's'}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
