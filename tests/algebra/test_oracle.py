"""The two oracles against each other, and each against wrong answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from refold.algebra import AffineConv, Mode
from refold.geometry import Window
from tests.algebra.drawn import values, windows
from tests.algebra.oracle import MODES, apply, brute, fits, numbers, probe


@given(st.data())
def test_torch_computes_the_definition(data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, 2))
    shape = tuple(data.draw(windows(upsample=3, kernel=3)) for _ in range(rank))
    value = data.draw(values(shape, 4, data.draw(st.sampled_from((2, 4, 8)))))
    sizes = tuple(data.draw(st.integers(1, 6)) for _ in range(rank))
    assume(fits(value, sizes))
    x = probe(3, 4, sizes)
    assert torch.equal(apply(value, x), brute(value, x))


def test_torch_computes_the_definition_in_three_dimensions() -> None:
    shape = (Window(2, before=1), Window(3, 2, before=1, after=1), Window(1, after=1))
    value = AffineConv(numbers(1, 2, 1, 2, 3, 1), numbers(2, 2), shape, 2, fill=numbers(3, 2))
    x = probe(4, 2, (2, 5, 2))
    assert torch.equal(apply(value, x), brute(value, x))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("oracle", [apply, brute])
def test_the_oracles_can_fail(oracle: Callable[[AffineConv, torch.Tensor], torch.Tensor], mode: Mode) -> None:
    value = AffineConv(numbers(1, 4, 2, 3), numbers(2, 4), (Window(3, 2, before=1, after=1),), 2, mode)
    x = probe(3, 4, (7,))
    right = apply(value, x)
    other: Mode = "replicate" if mode != "replicate" else "reflect"
    wrong = [
        replace(value, kernel=value.kernel + np.eye(3)[1]),
        replace(value, kernel=value.kernel[:, ::-1]),
        replace(value, kernel=value.kernel[..., ::-1]),
        replace(value, bias=value.bias + 1),
        replace(value, mode=other),
        replace(value, windows=(Window(3, 2, before=2, after=0),)),
    ]
    if mode == "constant":
        wrong.append(replace(value, fill=np.ones(4)))
    assert torch.equal(oracle(value, x), right)
    assert not any(torch.equal(oracle(one, x), right) for one in wrong)
