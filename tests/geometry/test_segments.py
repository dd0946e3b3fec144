"""Segment plans against oracles that try every cut and read every place."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold.errors import GeometryError
from refold.geometry import SegmentPlan, Window, plan_segments
from refold.geometry._segments import Discipline

LENGTHS, COUNTS, KERNELS = 512, 32, 32
SAMPLE = sorted({*range(1, 66), *range(67, LENGTHS, 29), LENGTHS})


def reads(plan: SegmentPlan) -> list[set[int]]:
    """The items that each segment reads, found by following every tap of both stages."""
    first, second = plan.stages

    def items(block: int) -> set[int]:
        places = {first.stride * block + tap - first.before for tap in range(first.kernel)}
        return places & set(range(plan.length))

    blocks = range(plan.blocks)
    return [
        set().union(*(items(block) for tap in range(second.kernel) if (block := second.stride * segment + tap - second.before) in blocks))
        for segment in range(second.output_size(plan.blocks))
    ]


def faults(segments: list[set[int]], length: int, count: int) -> list[str]:
    """Which of the guarantees that hold for every discipline a list of segments breaks."""
    broken = []
    if len(segments) != count:
        broken.append("count")
    if set().union(*segments) != set(range(length)):
        broken.append("cover")
    if not all(segments):
        broken.append("empty")
    if any(len(segment) != max(segment) - min(segment) + 1 for segment in segments if segment):
        broken.append("holes")
    return broken


def test_stages_make_a_plan_where_every_item_is_read_and_no_segment_is_empty() -> None:
    """All small stages, by following every tap."""
    stages = [Window(kernel, stride, before=before) for kernel, stride, before in itertools.product((1, 2, 3), (1, 2, 3), (0, 1, 3))]
    taken = 0
    for first, second, length in itertools.product(stages, stages, (1, 4, 6)):
        try:
            count = second.output_size(first.output_size(length))
        except GeometryError:
            continue
        raw: Any = SimpleNamespace(length=length, stages=(first, second), blocks=first.output_size(length))
        is_right = not faults(reads(raw), length, count) and first.kernel >= first.stride
        for segments in (count, count + 1):
            if is_right and segments == count:
                taken += SegmentPlan(length, segments, "disjoint", (first, second)).segments == count
            else:
                with pytest.raises(GeometryError, match="that hold every item and are never empty"):
                    SegmentPlan(length, segments, "disjoint", (first, second))
    assert taken > 50


def disjoint_cuts(length: int, count: int, first_kernel: int) -> list[int]:
    """Every second kernel that cuts `length` items, counted from the newest back, into `count` balanced segments."""
    found = []
    for second_kernel in range(1, length // first_kernel + 2):
        size = first_kernel * second_kernel
        sizes = [len(range(max(0, length - size * (back + 1)), length - size * back)) for back in range(count)]
        if sum(sizes) == length and min(sizes) >= 1 and max(sizes) - min(sizes) <= first_kernel:
            found.append(second_kernel)
    return found


def published_is_right(length: int, count: int, first_kernel: int) -> bool:
    """The published arithmetic (see the module docstring of `refold.nn.down_conv`), run place by place."""
    blocks = length / first_kernel
    kernel = -(-length // (first_kernel * count))
    padding = -int(-(kernel * count - blocks) / 2 // 1)
    whole_blocks = length // first_kernel
    places = [None] * padding + list(range(whole_blocks)) + [None] * padding
    segments = [
        {
            item
            for block in places[at : at + kernel]
            if block is not None
            for item in range(block * first_kernel, (block + 1) * first_kernel)
        }
        for at in range(0, len(places) - kernel + 1, kernel)
    ]
    return not faults(segments, length, count)


def combinations(lengths: list[int]) -> list[tuple[int, int, int]]:
    return [(n, m, k) for n in lengths for m in range(1, min(n, COUNTS) + 1) for k in range(1, min(n, KERNELS) + 1)]


def plan_or_none(n: int, m: int, k: int, discipline: Discipline) -> SegmentPlan | None:
    try:
        return plan_segments(n, m, k, discipline)
    except GeometryError:
        return None


@pytest.mark.parametrize("discipline", ["disjoint", "overlap", "published"])
def test_every_plan_keeps_the_guarantees(discipline: Discipline) -> None:
    for n in (*range(1, 34), 50, 97, 128, 200, 509):
        for _, m, k in combinations([n])[:: 1 if n < 20 else 7]:
            plan = plan_or_none(n, m, k, discipline)
            if plan is None:
                assert discipline != "overlap"
                continue
            segments = reads(plan)
            assert not faults(segments, n, m)
            assert [(min(segment), max(segment) + 1) for segment in segments] == list(plan.ranges)
            sizes = [len(segment) for segment in segments]
            assert plan.kernels[0] == k
            if discipline == "disjoint":
                assert plan.kernels == plan.strides
                assert sum(sizes) == n
            if discipline == "overlap":
                assert plan.strides[0] * plan.strides[1] == n // m
            if discipline != "published":
                assert max(sizes) - min(sizes) <= k
                assert [after for _, after in plan.paddings] == [0, 0]


def test_ranges_are_right_for_every_combination() -> None:
    """The same by ranges alone, which is fast enough for a closer net; benchmarks/segments.py runs all of them."""
    for n, m, k in combinations(SAMPLE[::2]):
        for discipline in ("disjoint", "overlap", "published"):
            plan = plan_or_none(n, m, k, discipline)
            if plan is not None:
                starts, stops = zip(*plan.ranges, strict=True)
                assert len(starts) == m
                assert starts[0] == 0
                assert stops[-1] == n
                assert all(start < stop for start, stop in plan.ranges)
                assert all(start <= stop for start, stop in zip(starts[1:], stops, strict=False))


def test_disjoint_takes_what_can_be_had() -> None:
    for n, m, k in combinations([*range(1, 40), 64, 101, 200]):
        plan = plan_or_none(n, m, k, "disjoint")
        cuts = disjoint_cuts(n, m, k)
        assert (plan is not None) == bool(cuts)
        assert plan is None or plan.kernels[1] == min(cuts)


def test_published_takes_what_the_published_module_gets_right() -> None:
    for n, m, k in combinations(SAMPLE[::3]):
        plan = plan_or_none(n, m, k, "published")
        assert (plan is not None) == published_is_right(n, m, k)
        other = plan_or_none(n, m, k, "disjoint")
        assert plan is None or other is None or plan.stages == other.stages


def test_oracles_can_fail() -> None:
    assert faults([{0, 1}, {2}], 3, 2) == []
    assert faults([{0}, {2}], 3, 3) == ["count", "cover"]
    assert faults([{0, 1, 2}, set()], 3, 2) == ["empty"]
    assert faults([{0, 2}, {1}], 3, 2) == ["holes"]
    assert disjoint_cuts(200, 4, 10) == [5]
    assert disjoint_cuts(50, 4, 10) == []
    assert published_is_right(200, 4, 10)
    assert not published_is_right(50, 4, 10)


def test_the_best_first_kernel() -> None:
    assert plan_segments(200, 4).kernels == (10, 5)
    assert plan_segments(50, 3).ranges == ((0, 16), (16, 33), (33, 50))
    for n in range(1, 80):
        for m in range(1, n + 1):
            possible = [plan for k in range(1, n + 1) if (plan := plan_or_none(n, m, k, "disjoint"))]
            if not possible:
                with pytest.raises(GeometryError, match=f"no first kernel cuts {n} items into {m} disjoint segments"):
                    plan_segments(n, m)
                continue
            padding = min(sum(p.stages[0].stride ** i * w.before for i, w in enumerate(p.stages)) for p in possible)
            first, second = plan_segments(n, m).stages
            assert first.before + first.stride * second.before == padding


@given(st.integers(1, 3000), st.data())
def test_overlap_cuts_any_length(n: int, data: st.DataObject) -> None:
    m = data.draw(st.integers(1, n))
    k = data.draw(st.none() | st.integers(1, n))
    plan = plan_segments(n, m, k, "overlap")
    starts = [start for start, _ in plan.ranges]
    sizes = [stop - start for start, stop in plan.ranges]
    assert plan.strides[0] * plan.strides[1] == n // m
    assert max(sizes) - min(sizes) <= plan.kernels[0]
    assert (starts[0], plan.ranges[-1][1]) == (0, n)
    if k is None:
        assert plan.paddings == ((0, 0), (0, 0))
        assert len(set(sizes)) == 1


@given(st.integers(2, 300), st.integers(1, 40), st.integers(1, 40), st.sampled_from(["disjoint", "published"]))
def test_a_refusal_names_the_nearest_that_work(n: int, m: int, k: int, discipline: Discipline) -> None:
    if m > n or k > n:
        return
    try:
        plan_segments(n, m, k, discipline)
    except GeometryError as error:
        text = str(error)
        assert text.startswith(f"{n} items do not make {m} {discipline} segment")
        assert text.endswith("or discipline 'overlap'")
        for name, others in (
            (f"with first kernel {k} take ", [x for x in range(1, n + 1) if plan_or_none(n, x, k, discipline)]),
            (f"with {m} segments? first kernel ", [x for x in range(1, n + 1) if plan_or_none(n, m, x, discipline)]),
        ):
            target = k if "segments?" in name else m
            nearest = [*[x for x in others if x < target][-1:], *[x for x in others if x > target][:1]]
            said = re.search(name + r"(\d+)(?: or (\d+))?", text)
            assert [int(x) for x in (said.groups() if said else ()) if x] == nearest


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            (50, 4, 10),
            r"50 items do not make 4 disjoint segments with first kernel 10: 4 segments of 2 blocks would hold 80 items, and the 30 "
            r"missing would leave a segment of padding alone; with first kernel 10 take 3 or 5 segments, "
            r"with 4 segments first kernel 7 or 13, "
            r"or discipline 'overlap'",
        ),
        ((4, 3, 2), r"3 segments of 1 block would hold 6 items, and the 2 missing would leave a segment of padding alone"),
        ((20, 4, 2), r"4 segments of 3 blocks would hold 24 items, and the 4 missing are more than the one block \(of 2\) by which"),
        ((21, 4, 10, "published"), r"2 blocks leave out the newest 1 item; with 4 segments first kernel 3, or discipline 'overlap'"),
        ((33, 32), r"no first kernel cuts 33 items into 32 disjoint segments of nearly one size; take 17 or 33 segments, or discipline"),
        ((3, 5), r"`segments` \(=5\) must be at most `length` \(=3\)"),
        ((3, 2, 4), r"`first_kernel` \(=4\) must be at most `length` \(=3\)"),
        ((0, 1), r"`length` \(=0\) must be at least 1"),
        ((5, -1), r"`segments` \(=-1\) must be at least 1"),
        ((5, 1, 0), r"`first_kernel` \(=0\) must be at least 1"),
        ((5.5, 1), r"`length` \(=5.5\) must be a whole number"),
        ((5, True), r"`segments` \(=True\) is a truth value"),
        ((5, 1, 1, "even"), r"`discipline` \(='even'\) must be one of 'disjoint', 'overlap', 'published'"),
    ],
)
def test_what_cannot_be_had(arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(GeometryError, match=text):
        plan_segments(*arguments)


def test_a_plan_is_checked_at_birth() -> None:
    with pytest.raises(GeometryError, match=r"make 2 segments of 9 items.*not 2 that hold every item and are never empty"):
        SegmentPlan(9, 2, "disjoint", (Window(2, 2), Window(2, 2)))
    with pytest.raises(GeometryError, match="make 5 segments of 50 items"):
        SegmentPlan(50, 4, "disjoint", (Window(10, 10), Window(1, 1)))


def test_the_drawing_shows_every_item() -> None:
    plan = plan_segments(10, 4, discipline="overlap")
    assert plan.draw().splitlines()[-4:] == [
        "0        0..3  4  |####......|",
        "1        2..5  4  |..####....|",
        "2        4..7  4  |....####..|",
        "3        6..9  4  |......####|",
    ]
    assert plan_segments(200, 4, 10).draw().splitlines()[:2] == [
        "200 items in 4 segments, disjoint",
        "stage 1: kernel 10, stride 10, padding 0 before and 0 after: 200 items to 20 blocks",
    ]
    bars = [line.split("|")[1] for line in plan_segments(512, 32, 16).draw().splitlines()[5:]]
    assert len(bars) == 32
    assert {len(bar) for bar in bars} == {48}
    assert all("#" in bar for bar in bars)
    assert Counter("".join(bars))["#"] < 4 * 48
