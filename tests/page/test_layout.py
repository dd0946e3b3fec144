"""Where boxes stand and arrows run."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold.drawing import Box

pytest.importorskip("fast_sugiyama")
from refold.page._layout import ACROSS, DOWN, HEIGHT, MARGIN, WIDTH, Layout, lay_out


def boxes(**reads: str) -> tuple[Box, ...]:
    """One box for each keyword, which reads the boxes whose letters it is given."""
    return tuple(Box(name, "op", tuple(given)) for name, given in reads.items())


def overlapping(layout: Layout) -> list[tuple[str, str]]:
    pairs = itertools.combinations(layout.places.items(), 2)
    return [(one, other) for (one, (x, y)), (other, (u, v)) in pairs if abs(x - u) < WIDTH and abs(y - v) < HEIGHT]


def outside(layout: Layout) -> list[str]:
    across, down = MARGIN + WIDTH // 2, MARGIN + HEIGHT // 2
    return [
        name for name, (x, y) in layout.places.items() if not (across <= x <= layout.width - across and down <= y <= layout.height - down)
    ]


def complaints(drawn: tuple[Box, ...], layout: Layout) -> list[str]:
    """All that is wrong with a layout, in words."""
    found = [f"{one} overlaps {other}" for one, other in overlapping(layout)]
    found += [f"{name} is outside" for name in outside(layout)]
    if set(layout.places) != {box.name for box in drawn}:
        found.append("boxes are lost")
    wanted = sorted((read, box.name) for box in drawn for read in set(box.reads) & set(layout.places))
    if sorted((source, target) for source, target, _ in layout.arrows) != wanted:
        found.append("arrows are lost, or there are too many")
    for source, target, points in layout.arrows:
        if (points[0], points[-1]) != (layout.places[source], layout.places[target]):
            found.append(f"the arrow from {source} to {target} has other ends")
        if not all(upper < lower for (_, upper), (_, lower) in itertools.pairwise(points)):
            found.append(f"the arrow from {source} to {target} does not run down")
        for x, y in points[1:-1]:
            if any(abs(x - u) < WIDTH // 2 and abs(y - v) < HEIGHT // 2 for u, v in layout.places.values()):
                found.append(f"the arrow from {source} to {target} bends inside a box")
    return found


def test_a_chain_stands_in_a_column() -> None:
    layout = lay_out(boxes(x="", y="x", z="y"))
    assert [layout.places[name] for name in "xyz"] == [(MARGIN + WIDTH // 2, MARGIN + HEIGHT // 2 + DOWN * row) for row in range(3)]
    assert (layout.width, layout.height) == (WIDTH + 2 * MARGIN, HEIGHT + 2 * DOWN + 2 * MARGIN)


def test_branches_stand_side_by_side() -> None:
    layout = lay_out(boxes(x="", a="x", b="x", c="ab"))
    (left, high), (right, low) = sorted(layout.places[name] for name in "ab")
    assert high == low
    assert right - left == ACROSS


def test_an_arrow_past_a_layer_bends_beside_it() -> None:
    drawn = boxes(x="", a="x", b="xa")
    layout = lay_out(drawn)
    lengths = {(source, target): len(points) for source, target, points in layout.arrows}
    assert lengths == {("x", "a"): 2, ("a", "b"): 2, ("x", "b"): 3}
    assert complaints(drawn, layout) == []


def test_parts_that_nothing_joins_and_lone_boxes_stand_side_by_side() -> None:
    drawn = boxes(x="", a="x", b="xa", y="", c="y", d="yc", alone="", also="")
    layout = lay_out(drawn)
    assert complaints(drawn, layout) == []
    rightmost = max(layout.places[name][0] for name in "xab")
    assert rightmost < min(layout.places[name][0] for name in "ycd") or rightmost > max(layout.places[name][0] for name in "ycd")
    assert layout.places["alone"][1] == layout.places["also"][1] == MARGIN + HEIGHT // 2


def test_a_value_that_has_no_box_gives_no_arrow() -> None:
    assert lay_out((Box("y", "conv", ("elsewhere",)),)).arrows == ()


def test_nothing() -> None:
    assert lay_out(()) == Layout({}, (), WIDTH // 2 + MARGIN, HEIGHT // 2 + MARGIN)


def test_long_arrows_of_many_parts_are_told_apart() -> None:
    """The points between are counted anew in each part, here more of them than there are boxes."""
    drawn: list[Box] = []
    for part in range(3):
        names = [f"{part}.{number}" for number in range(30)]
        drawn += [Box(name, "op", tuple(names[:number])) for number, name in enumerate(names)]
    assert complaints(tuple(drawn), lay_out(drawn)) == []


@st.composite
def networks(draw: st.DrawFn) -> tuple[Box, ...]:
    names = [f"v{number}" for number in range(draw(st.integers(0, 16)))]
    return tuple(
        Box(name, "op", tuple(draw(st.lists(st.sampled_from(names[:number]), max_size=3, unique=True))) if number else ())
        for number, name in enumerate(names)
    )


@given(networks())
def test_any_network_is_laid_out(drawn: tuple[Box, ...]) -> None:
    assert complaints(drawn, lay_out(drawn)) == []


@pytest.mark.parametrize(
    ("layout", "complaint"),
    [
        (Layout({"x": (82, 34), "y": (90, 40)}, (("x", "y", ((82, 34), (90, 40))),), 300, 300), "x overlaps y"),
        (Layout({"x": (82, 34), "y": (82, 96)}, (), 300, 300), "arrows are lost, or there are too many"),
        (Layout({"x": (82, 34), "y": (82, 96)}, (("x", "y", ((82, 34), (82, 90))),), 300, 300), "the arrow from x to y has other ends"),
        (Layout({"x": (82, 96), "y": (82, 34)}, (("x", "y", ((82, 96), (82, 34))),), 300, 300), "the arrow from x to y does not run down"),
        (Layout({"x": (82, 34), "y": (82, 96)}, (("x", "y", ((82, 34), (82, 96))),), 300, 100), "y is outside"),
        (Layout({"x": (82, 34), "y": (9, 96)}, (("x", "y", ((82, 34), (82, 40), (9, 96))),), 300, 300), "bends inside a box"),
    ],
)  # fmt: skip
def test_the_check_can_fail(layout: Layout, complaint: str) -> None:
    assert any(complaint in one for one in complaints(boxes(x="", y="x"), layout))
