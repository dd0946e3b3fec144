"""Each constructor against the layer of PyTorch that it stands for."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional as F

from refold.algebra import (
    AffineConv,
    Mode,
    Stencil,
    average_pool,
    batch_norm,
    convolution,
    identity,
    linear,
    scale_and_shift,
    transposed_convolution,
    transposed_geometry,
    transposed_kernel,
    window,
)
from refold.errors import AlgebraError
from refold.geometry import Window
from tests.algebra.drawn import divisors
from tests.algebra.oracle import CONVOLUTIONS, TRANSPOSED, apply, brute, numbers, probe, tensor

POOLS: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@given(st.data())
def test_convolution(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3))

    def each(low: int, high: int) -> list[int]:
        return [data.draw(st.integers(low, high)) for _ in range(rank)]

    taps, stride, dilation, padding = each(1, 3), each(1, 2), each(1, 2), each(0, 2)
    groups = data.draw(st.sampled_from(divisors(6, 12)))
    kernel, bias = numbers(1, 12, 6 // groups, *taps), numbers(2, 12)
    x = probe(3, 6, [6 + axis for axis in range(rank)])
    wanted = CONVOLUTIONS[rank](x, tensor(kernel), tensor(bias), stride=stride, padding=padding, dilation=dilation, groups=groups)
    value = convolution(kernel, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
    assert torch.equal(apply(value, x), wanted)
    assert value.stencil.output_sizes(x.shape[2:]) == tuple(wanted.shape[2:])


@given(st.data())
def test_transposed_convolution(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 2))

    def each(low: int, high: int) -> list[int]:
        return [data.draw(st.integers(low, high)) for _ in range(rank)]

    taps, stride, dilation, padding = each(1, 4), each(1, 3), each(1, 2), each(0, 2)
    extra = [data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
    groups = data.draw(st.sampled_from(divisors(4, 6)))
    kernel, bias = numbers(1, 4, 6 // groups, *taps), numbers(2, 6)
    x = probe(3, 4, [4 + axis for axis in range(rank)])
    sizes = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(x.shape[2:], stride, padding, dilation, taps, extra, strict=True)
    ]
    assume(min(sizes) > 0)
    options = {"stride": stride, "padding": padding, "output_padding": extra, "dilation": dilation, "groups": groups}
    wanted = TRANSPOSED[rank](x, tensor(kernel), tensor(bias), **options)
    value = transposed_convolution(kernel, bias, **options)  # type: ignore[arg-type]
    assert value.stencil.output_sizes(x.shape[2:]) == tuple(wanted.shape[2:]) == tuple(sizes)
    assert torch.equal(brute(value, x), wanted)
    assert torch.equal(apply(value, x), wanted)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("kernel", "dilation", "upsample"), list(itertools.product((1, 2, 3), (1, 2), (1, 2, 3))))
def test_the_geometry_of_a_transposed_convolution_goes_round(kernel: int, dilation: int, upsample: int, symmetric: bool) -> None:
    """Of all windows those have a geometry that some padding of a layer makes, and what is found makes them."""

    def made(pair: tuple[int, int], extra: int) -> Window:
        options = {"stride": upsample, "dilation": dilation, "output_padding": extra}
        return transposed_convolution(np.zeros((1, 1, kernel)), padding=[pair], **options).windows[0]

    def is_taken(pair: tuple[int, int], extra: int) -> bool:
        return min(*pair, extra) >= 0 and extra < max(upsample, dilation) and (not symmetric or pair[0] == pair[1])

    layers = [((one, two), extra) for one in range(9) for two in range(9) for extra in range(max(upsample, dilation))]
    possible = {made(*layer) for layer in layers if is_taken(*layer)}
    for stride, before, after in itertools.product((1, 2, 3), range(-2, 6), range(-2, 6)):
        window = Window(kernel, stride, dilation, before, after, upsample)
        geometry = transposed_geometry(Stencil(2, 2, 1, (window,)), symmetric=symmetric)
        assert (geometry is not None) == (window in possible), window
        if geometry is not None:
            ((pair,), (extra,)) = geometry
            assert is_taken(pair, extra), window
            assert made(pair, extra) == window


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_kernel_goes_round(rank: int, groups: int) -> None:
    kernel = numbers(1, 4, 3, *range(2, 2 + rank))
    for array in (kernel, tensor(kernel)):
        back = transposed_kernel(transposed_convolution(array, groups=groups))
        assert back.shape == array.shape
        assert bool((back == array).all())
    if rank:
        flipped = transposed_kernel(transposed_convolution(kernel[:, :, ::-1].copy(), groups=groups))
        assert not (flipped == kernel).all()


@pytest.mark.parametrize("bias", [None, numbers(2, 3)])
def test_linear(bias: Any) -> None:
    weight, x = numbers(1, 3, 5), probe(3, 5, ())
    assert torch.equal(apply(linear(weight, bias), x), F.linear(x, tensor(weight), None if bias is None else tensor(bias)))


@given(st.integers(0, 3), st.booleans(), st.booleans(), st.sampled_from((1e-5, 1e-3)))
def test_batch_norm(rank: int, has_weight: bool, has_bias: bool, eps: float) -> None:
    mean, variance = tensor(numbers(1, 6)), tensor(numbers(2, 6)).abs()
    weight = tensor(numbers(3, 6)) if has_weight else None
    bias = tensor(numbers(4, 6)) if has_bias else None
    x = probe(5, 6, (3,) * rank)
    value = batch_norm(mean, variance, weight, bias, eps=eps, rank=rank)
    assert value.stencil.is_diagonal
    assert torch.allclose(apply(value, x), F.batch_norm(x, mean, variance, weight, bias, eps=eps), rtol=2.0**-48, atol=2.0**-48)


def test_batch_norm_is_worked_out_in_float64() -> None:
    mean, variance = torch.tensor([0.1], dtype=torch.float16), torch.tensor([0.3], dtype=torch.float16)
    value = batch_norm(mean, variance, eps=1e-5)
    assert value.bias.dtype == torch.float64
    assert value.bias.item() == -(1 / (variance.double() + 1e-5).sqrt() * mean.double()).item()


@given(st.data())
def test_average_pool(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3))
    taps = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    stride = data.draw(st.one_of(st.none(), st.tuples(*[st.integers(1, 3)] * rank)))
    padding = [data.draw(st.integers(0, k // 2)) for k in taps]
    divisor = data.draw(st.sampled_from((None, 3))) if rank > 1 else None
    x = probe(1, 4, [5 + axis for axis in range(rank)])
    value = average_pool(4, taps, np.zeros(1), stride=stride, padding=padding, divisor=divisor)
    options = {"divisor_override": divisor} if divisor else {}
    wanted = POOLS[rank](x, taps, stride, padding, **options)
    assert value.groups == 4
    assert torch.allclose(apply(value, x), wanted, rtol=2.0**-48, atol=2.0**-48)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_identity(rank: int) -> None:
    x = probe(1, 3, (4,) * rank)
    for like in (np.zeros(1), torch.zeros(1)):
        value = identity(3, rank, like)
        assert type(value.kernel) is type(like)
        assert value.stencil.is_diagonal
        assert torch.equal(apply(value, x), x)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_scale_and_shift(rank: int) -> None:
    scale, shift, x = numbers(1, 3), numbers(2, 3), probe(3, 3, (4,) * rank)
    shape = (-1, *[1] * rank)
    assert torch.equal(apply(scale_and_shift(scale, shift, rank), x), x * tensor(scale).reshape(shape) + tensor(shift).reshape(shape))


@pytest.mark.parametrize(
    ("windows", "change"),
    [
        ([Window(1, before=1, after=2), Window(1, before=-1)], lambda x: F.pad(x, [-1, 0, 1, 2])),
        ([Window(1, before=-1, after=-2), Window(1)], lambda x: x[:, :, 1:-2]),
        ([Window(1, stride=2), Window(1, stride=3, before=-1)], lambda x: x[:, :, ::2, 1::3]),
        ([Window(1, stride=2, before=-1, after=-1), Window(1)], lambda x: x[:, :, 1:-1:2]),
    ],
    ids=["pad", "crop", "strided slice", "strided crop"],
)
def test_window(windows: list[Window], change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    value = window(2, windows, np.zeros(1))
    for sizes in ((6, 7), (7, 8), (5, 6)):
        x = probe(1, 2, sizes)
        assert torch.equal(apply(value, x), change(x))
        assert value.stencil.output_sizes(sizes) == tuple(change(x).shape[2:])


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_window_in_every_mode(mode: Mode) -> None:
    x = probe(1, 2, (5, 6))
    value = window(2, [Window(1, before=2, after=1), Window(1, after=3)], np.zeros(1), mode=mode)
    assert torch.equal(brute(value, x), F.pad(x, [0, 3, 2, 1], mode=mode))


def test_window_with_a_fill() -> None:
    x = probe(1, 2, (5,))
    value = window(2, [Window(1, before=2, after=1)], np.zeros(1), fill=np.full(2, 7.0))
    assert torch.equal(brute(value, x), F.pad(x, [2, 1], value=7.0))


def test_one_number_stands_for_every_axis() -> None:
    kernel = numbers(1, 2, 2, 3, 3)
    wanted = convolution(kernel, stride=(2, 2), padding=[(1, 1), (1, 1)], dilation=(1, 1)).windows
    assert convolution(kernel, stride=2, padding=1).windows == wanted
    assert convolution(kernel, stride=[2], padding=[1]).windows == wanted
    assert convolution(kernel, stride=2, padding=(1, 1)).windows == wanted
    assert convolution(kernel, stride=2, padding=[(1, 0), (0, 1)]).windows == (Window(3, 2, before=1), Window(3, 2, after=1))


def test_what_the_constructors_refuse() -> None:
    kernel = numbers(1, 2, 2, 3, 3)
    with pytest.raises(AlgebraError, match=r"\[1, 2, 3\] must hold one number for each of the 2 spatial axes"):
        convolution(kernel, stride=(1, 2, 3))
    with pytest.raises(AlgebraError, match=r"padding \[\(1, 1\)\] must hold one \(before, after\) pair for each of the 2 spatial axes"):
        convolution(kernel, padding=[(1, 1)])
    with pytest.raises(AlgebraError, match=r"padding \[\(1, 1\), \(1, 1, 1\)\] must hold"):
        convolution(kernel, padding=[(1, 1), (1, 1, 1)])  # type: ignore[arg-type]
    with pytest.raises(AlgebraError, match=r"padding \[\(1, 1\), 1\] must hold one \(before, after\) pair for each of the 2 spatial axes"):
        convolution(kernel, padding=[(1, 1), 1])  # type: ignore[arg-type]
    with pytest.raises(AlgebraError, match=r"a crop or a padding reads one tap, not 2 \(axis 1\); use `convolution` or `average_pool`"):
        window(2, [Window(1), Window(2)], np.zeros(1))


def test_constructors_keep_the_library_and_the_device() -> None:
    for like in (np.ones((2, 2, 1)), torch.ones(2, 2, 1)):
        made: list[AffineConv] = [convolution(like), linear(like[..., 0]), transposed_convolution(like), average_pool(2, [1], like)]
        assert all(type(value.kernel) is type(value.bias) is type(like) for value in made)


def test_what_is_not_given_is_what_pytorch_takes() -> None:
    x, kernel, back = probe(1, 2, (5,)), numbers(2, 3, 2, 2), numbers(3, 2, 3, 2)
    assert torch.equal(apply(convolution(kernel), x), F.conv1d(x, tensor(kernel)))
    assert torch.equal(apply(transposed_convolution(back), x), F.conv_transpose1d(x, tensor(back)))
    assert torch.equal(apply(average_pool(2, [2], kernel), x), F.avg_pool1d(x, 2))
    norm = batch_norm(tensor(numbers(4, 2)), tensor(numbers(5, 2)).abs())
    wanted = F.batch_norm(x[..., None], tensor(numbers(4, 2)), tensor(numbers(5, 2)).abs())
    assert torch.allclose(apply(norm, x[..., None]), wanted, rtol=2.0**-48, atol=2.0**-48)
