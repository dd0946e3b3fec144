"""What an affine convolution means, twice: by PyTorch's own operators, and letter by letter from its definition.

Numbers are drawn from small integers, on which float64 is exact, so that results are compared for equality.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from refold.algebra import AffineConv, Array, Chain, Formula, Leaf, Mode, Sizes, Sum

CONVOLUTIONS: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MODES: tuple[Mode, ...] = ("constant", "reflect", "replicate", "circular")


def tensor(array: Array) -> torch.Tensor:
    """Any array as a float64 tensor."""
    return array.double() if isinstance(array, torch.Tensor) else torch.from_numpy(np.array(array, dtype=np.float64))


def apply(value: AffineConv, x: torch.Tensor) -> torch.Tensor:
    """The map of `x` (batch, channels, *sizes), by PyTorch's convolution, transposed convolution and padding."""
    kernel, bias = tensor(value.kernel), tensor(value.bias)
    rank = len(value.windows)
    if rank == 0:
        blocks = x.reshape(len(x), value.groups, -1)
        return torch.einsum("ngi,goi->ngo", blocks, kernel.reshape(value.groups, -1, kernel.shape[1])).reshape(len(x), -1) + bias
    column = (slice(None), *([None] * rank))
    strided = (slice(None), slice(None), *(slice(None, None, window.stride) for window in value.windows))
    dilations = [window.dilation for window in value.windows]
    if any(window.upsample > 1 for window in value.windows):
        assert value.mode == "constant"
        assert value.fill is None
        full = TRANSPOSED[rank](
            x,
            transposed(kernel, value.groups),
            stride=[window.upsample for window in value.windows],
            dilation=dilations,
            groups=value.groups,
        )
        reach = [(window.before - window.span + 1, window.after - window.span + 1) for window in value.windows]
        grown, cropped = grown_and_cropped(reach)
        return F.pad(F.pad(full, grown), cropped)[strided] + bias[column]
    grown, cropped = grown_and_cropped([(window.before, window.after) for window in value.windows])
    if value.mode == "constant":
        level = torch.zeros(value.in_channels, dtype=x.dtype) if value.fill is None else tensor(value.fill)
        outside = 1 - F.pad(torch.ones_like(x), grown)
        continued = F.pad(x, grown) + outside * level[column]
    else:
        continued = F.pad(x, grown, mode=value.mode) if any(grown) else x
    strides = [window.stride for window in value.windows]
    result: torch.Tensor = CONVOLUTIONS[rank](
        F.pad(continued, cropped), kernel, bias, stride=strides, dilation=dilations, groups=value.groups
    )
    return result


def brute(value: AffineConv, x: torch.Tensor) -> torch.Tensor:
    """`y[o, p] = bias[o] + sum over c, t of kernel[o, c, t] * x~[c, stride * p + dilation * t - before]`, one number at a time."""
    kernel, bias, data = tensor(value.kernel).numpy(), tensor(value.bias).numpy(), x.numpy()
    fill = None if value.fill is None else tensor(value.fill).numpy()
    sizes = [window.output_size(n) for window, n in zip(value.windows, data.shape[2:], strict=True)]
    y = np.zeros((len(data), value.out_channels, *sizes))
    per_group = value.out_channels // value.groups
    for item, o in itertools.product(range(len(data)), range(value.out_channels)):
        for p in itertools.product(*map(range, sizes)):
            total = bias[o]
            for c in range(kernel.shape[1]):
                channel = o // per_group * kernel.shape[1] + c
                for t in itertools.product(*(range(window.kernel) for window in value.windows)):
                    places = [w.stride * at + w.dilation * tap - w.before for w, at, tap in zip(value.windows, p, t, strict=True)]
                    total += kernel[(o, c, *t)] * continued_at(value, data[item, channel], places, 0.0 if fill is None else fill[channel])
            y[(item, o, *p)] = total
    return torch.from_numpy(y)


def continued_at(value: AffineConv, data: np.ndarray[Any, Any], places: Sequence[int], level: float) -> float:
    """x~ of one channel at one place, which may lie outside or between the items."""
    items = []
    for window, place, n in zip(value.windows, places, data.shape, strict=True):
        end = window.places(n)
        if not 0 <= place < end:
            match value.mode:
                case "constant":
                    return level
                case "replicate":
                    place = min(max(place, 0), end - 1)
                case "circular":
                    place %= end
                case "reflect":
                    place = -place if place < 0 else 2 * (end - 1) - place
        item, between = divmod(place, window.upsample)
        if between:
            return 0.0
        items.append(item)
    return float(data[tuple(items)])


def transposed(kernel: torch.Tensor, groups: int) -> torch.Tensor:
    """A kernel as PyTorch stores it for the transposed convolution: (in, out / groups, *taps), flipped."""
    out, fan = kernel.shape[:2]
    blocks = [kernel[g * (out // groups) : (g + 1) * (out // groups)].transpose(0, 1) for g in range(groups)]
    return torch.cat(blocks).flip(list(range(2, kernel.ndim))).reshape(groups * fan, out // groups, *kernel.shape[2:])


def grown_and_cropped(pairs: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """What to add and what to take away, in the order of `torch.nn.functional.pad`, last axis first."""
    sides = [side for pair in reversed(pairs) for side in pair]
    return [max(side, 0) for side in sides], [min(side, 0) for side in sides]


def numbers(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    """Small integers, none of them zero, as float64."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.integers(1, 5, shape) * rng.choice([-1, 1], shape), dtype=np.float64)


def probe(seed: int, channels: int, sizes: Sequence[int]) -> torch.Tensor:
    """An input of two items."""
    return torch.from_numpy(numbers(seed, 2, channels, *sizes))


def fits(value: AffineConv, sizes: Sequence[int]) -> bool:
    """Whether the map is defined on these sizes: each window fits, and PyTorch can continue so few items."""
    for window, n in zip(value.windows, sizes, strict=True):
        if n < 1 or window.places(n) + window.excess < 0:
            return False
        reach = max(window.before, window.after)
        limit = {"constant": math.inf, "replicate": math.inf, "circular": n, "reflect": n - 1}[value.mode]
        if reach > limit:
            return False
    return True


def trial_sizes(sizes: Sizes, *given: AffineConv) -> list[tuple[int, ...]]:
    """Concrete sizes for a law: static ones as they are, free ones from where the maps begin to fit, at every residue of the strides."""
    tried = []
    for shift in range(24):
        chosen = tuple(1 + (shift + 5 * axis) % 24 if n is None else n for axis, n in enumerate(sizes))
        if chosen not in tried and all(fits(value, chosen) for value in given):
            tried.append(chosen)
    return tried[:8] + tried[-2:]


def run(formula: Formula, x: torch.Tensor) -> torch.Tensor:
    """What a formula says, layer by layer and branch by branch."""
    match formula:
        case Leaf():
            return apply(formula.value, x)
        case Sum():
            return run(formula.left, x) + run(formula.right, x)
        case Chain():
            return run(formula.left, run(formula.right, x))
    raise TypeError(f"{formula} is no formula")


def runs(formula: Formula, x: torch.Tensor) -> bool:
    """Whether every layer fits what it is given."""
    if isinstance(formula, Leaf):
        return fits(formula.value, x.shape[2:])
    assert isinstance(formula, Sum | Chain)
    if isinstance(formula, Sum):
        return runs(formula.left, x) and runs(formula.right, x)
    return runs(formula.right, x) and runs(formula.left, run(formula.right, x))
