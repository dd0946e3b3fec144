"""The value: what it refuses to be, and what it says of itself."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from refold.algebra import AffineConv, Obstruction, Stencil, convolution, scale_and_shift, transposed_convolution, window
from refold.errors import AlgebraError
from refold.geometry import Window


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kernel": np.ones(4)}, r"kernel of shape \(4,\) must be \(out, in / groups\) and then \[3\]"),
        ({"kernel": np.ones(4), "windows": ()}, r"kernel of shape \(4,\) must be \(out, in / groups\) and then \[\]"),
        (
            {"kernel": np.ones((4, 2, 5))},
            r"kernel of shape \(4, 2, 5\) must be .* and then \[3\], the taps of its windows",
        ),
        ({"kernel": np.ones((4, 2, 3, 3))}, r"kernel of shape \(4, 2, 3, 3\)"),
        ({"bias": np.ones(3)}, r"bias of shape \(3,\) must have one number for each of the 4 output channels"),
        ({"groups": 3}, r"`groups` \(=3\) must divide the output channels \(=4\)"),
        ({"groups": 0}, r"`groups` \(=0\) must divide"),
        ({"fill": np.ones(2)}, r"fill of shape \(2,\) must have one number for each of the 4 input channels"),
        ({"fill": np.ones(4), "mode": "reflect"}, r"a fill goes with mode 'constant', not 'reflect'"),
        ({"mode": "mirror"}, r"`mode` \(='mirror'\) must be one of 'constant', 'reflect', 'replicate', 'circular'"),
    ],
)
def test_shapes_that_do_not_belong_together(changes: dict[str, Any], says: str) -> None:
    fields: dict[str, Any] = {"kernel": np.ones((4, 2, 3)), "bias": np.ones(4), "windows": (Window(3),), "groups": 2}
    AffineConv(**fields)
    with pytest.raises(AlgebraError, match=says):
        AffineConv(**fields | changes)


@pytest.mark.parametrize(("channels", "says"), [((5, 4), "`in_channels` (=5)"), ((4, 6), "`out_channels` (=6)"), ((0, 4), "(=0)")])
def test_stencils_of_channels_that_groups_do_not_divide(channels: tuple[int, int], says: str) -> None:
    with pytest.raises(AlgebraError, match=r"must be a positive multiple of `groups` \(=4\)") as caught:
        Stencil(*channels, 4, ())
    assert says in str(caught.value)


@pytest.mark.parametrize("groups", [0, -2])
def test_stencils_of_no_groups(groups: int) -> None:
    with pytest.raises(AlgebraError, match=rf"`groups` \(={groups}\) must be at least 1"):
        Stencil(4, 4, groups, ())


def test_a_value_is_frozen() -> None:
    value = convolution(np.ones((2, 2, 3)))
    with pytest.raises(FrozenInstanceError):
        value.groups = 2  # type: ignore[misc]


def test_what_a_stencil_says() -> None:
    dense = convolution(np.ones((8, 4, 3, 5)), stride=2, padding=(1, 2), groups=2).stencil
    assert (dense.in_channels, dense.out_channels, dense.groups, dense.rank, dense.taps) == (8, 8, 2, 2, (3, 5))
    assert (dense.weights, dense.fan_in) == (8 * 4 * 15, 4 * 15)
    diagonal = scale_and_shift(np.ones(4), np.ones(4), 2).stencil
    crop = window(4, [Window(1, before=-1)], np.ones(1)).stencil
    pointwise = convolution(np.ones((8, 4, 1, 1))).stencil
    kinds = [(one.is_pointwise, one.moves_channels_alone, one.is_diagonal) for one in (dense, diagonal, crop, pointwise)]
    assert kinds == [(False, False, False), (True, True, True), (False, True, False), (True, False, False)]


def test_sizes_and_borders_of_a_stencil() -> None:
    stencil = convolution(np.ones((2, 2, 3, 1)), stride=(2, 1), padding=[(0, 1), (0, 0)]).stencil
    assert stencil.output_sizes((8, None)) == (4, None)
    assert stencil.reads_outside((None, None))
    assert stencil.reads_outside((8, 5))
    assert not stencil.reads_outside((7, 5))
    assert transposed_convolution(np.ones((2, 2, 2)), stride=2).stencil.output_sizes((5,)) == (10,)


def test_an_obstruction_is_a_sentence() -> None:
    assert str(Obstruction("sum", "two differ", "make them alike")) == "sum: two differ; make them alike"
