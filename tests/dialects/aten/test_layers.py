"""Which map becomes which torch layer, and which none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from refold import algebra
from refold.algebra import AffineConv, Leaf
from refold.dialects.aten._layers import AtenTarget, make_layer
from refold.geometry import Window
from tests.dialects.aten.nets import noise


def convolved(rank: int, **options: Any) -> AffineConv:
    return algebra.convolution(noise(6, 4, *(3,) * rank), noise(6, seed=5), **options)


def upward(rank: int, **options: Any) -> AffineConv:
    return algebra.transposed_convolution(noise(4, 6, *(3,) * rank), noise(6, seed=5), stride=2, **options)


def windowed(rank: int, before: int, after: int, **options: Any) -> AffineConv:
    shifted = algebra.window(4, [Window(1, before=before, after=after)] * rank, noise(1), **options)
    return algebra.compose(algebra.convolution(noise(6, 4, *(3,) * rank), noise(6, seed=5)), shifted)


LAYERS: dict[str, tuple[Callable[[int], AffineConv], tuple[str, ...], int]] = {
    "plain": (lambda rank: convolved(rank, padding=1, stride=2, dilation=2), ("Conv",), 1),
    "reflect": (lambda rank: windowed(rank, 1, 1, mode="reflect"), ("Conv",), 2),
    "circular": (lambda rank: windowed(rank, 1, 1, mode="circular"), ("Conv",), 2),
    "sided": (lambda rank: windowed(rank, 1, 0), ("pad", "Conv"), 2),
    "cropped": (lambda rank: windowed(rank, -1, -1), ("pad", "Conv"), 2),
    "a number around": (lambda rank: windowed(rank, 1, 1, fill=torch.full((4,), 0.5, dtype=torch.float64)), ("pad", "Conv"), 2),
    "replicate sided": (lambda rank: windowed(rank, 2, 0, mode="replicate"), ("pad", "Conv"), 2),
    "scale": (lambda rank: algebra.scale_and_shift(noise(4), torch.zeros(4, dtype=torch.float64), rank), ("scale",), 1),
    "scale and shift": (lambda rank: algebra.scale_and_shift(noise(4), noise(4, seed=8), rank), ("scale",), 1),
    "transposed": (lambda rank: upward(rank), ("ConvTranspose",), 1),
    "transposed, padded": (lambda rank: upward(rank, padding=1, output_padding=1, dilation=2), ("ConvTranspose",), 1),
}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("make", "kinds", "operators"), LAYERS.values(), ids=LAYERS)
def test_a_layer_computes_its_map(make: Callable[[int], AffineConv], kinds: tuple[str, ...], operators: int, rank: int) -> None:
    value = make(rank)
    assert AtenTarget().operators(Leaf(value), rank + 2) == operators
    layer = make_layer(value, trainable=True, channels_last=False)
    root, graph = nn.Module(), fx.Graph()
    root.add_module("layer", layer.module)
    *_, end = layer.emit(graph, "layer", graph.placeholder("x"))
    graph.output(end)
    x = noise(2, 4, *(7,) * rank)
    assert torch.allclose(fx.GraphModule(root, graph)(x), by_hand(value, x), rtol=1e-12, atol=1e-12)
    found = ["pad"] * (layer.pad is not None) + (["scale"] if layer.is_scale else [type(layer.module).__name__.rstrip("123d")])
    assert tuple(found) == kinds


def by_hand(value: AffineConv, x: Tensor) -> Tensor:
    """y[o, p] = bias[o] + sum of kernel[o, c, t] * x~[c, stride p + dilation t - before], by a dense convolution of the continued input."""
    rank = value.stencil.rank
    windows = value.windows
    if any(window.upsample > 1 for window in windows):
        wide = x.new_zeros(*x.shape[:2], *((n - 1) * window.upsample + 1 for n, window in zip(x.shape[2:], windows, strict=True)))
        wide[(slice(None), slice(None), *(slice(None, None, window.upsample) for window in windows))] = x
        x = wide
    pads = [side for window in reversed(windows) for side in (window.before, window.after)]
    crops = [min(0, side) for side in pads]
    grows = [max(0, side) for side in pads]
    x = nn.functional.pad(x, crops)
    if value.fill is not None:
        level = float(value.fill[0])
        x = nn.functional.pad(x, grows, value=level)
    else:
        x = nn.functional.pad(x, grows, mode=value.mode)
    convolve: Any = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}[rank]
    steps = {name: tuple(getattr(window, name) for window in windows) for name in ("stride", "dilation")}
    y: Tensor = convolve(x, value.kernel, value.bias, groups=value.stencil.groups, **steps)
    return y


@pytest.mark.parametrize(
    ("value", "dimensions"),
    [
        (algebra.convolution(noise(6, 4, 1, 1, 1, 1)), 6),
        (convolved(2), 2),
        (windowed(2, 1, 1, fill=torch.arange(4.0, dtype=torch.float64)), 4),
        (algebra.compose(algebra.convolution(noise(5, 6, 1, 1), stride=2), upward(2)), 4),
    ],
    ids=["four axes", "a matrix", "a fill a channel", "strided after it went up"],
)
def test_what_torch_has_no_layer_for(value: AffineConv, dimensions: int) -> None:
    assert AtenTarget().operators(Leaf(value), dimensions) is None


def test_a_linear_layer() -> None:
    value = algebra.linear(noise(6, 4))
    layer = make_layer(value, trainable=False, channels_last=False)
    assert isinstance(layer.module, nn.Linear)
    assert [name for name, _ in layer.module.named_parameters()] == ["weight"]
    assert not layer.module.weight.requires_grad
    assert torch.equal(layer.module(noise(2, 4)), noise(2, 4) @ noise(6, 4).T)
