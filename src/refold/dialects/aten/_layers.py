"""From an affine convolution to the PyTorch layer that computes it, and back to what torch cannot say in one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from refold.algebra import AffineConv, Formula, Stencil, transposed_geometry, transposed_kernel

ATEN = torch.ops.aten
CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
PADDING_MODES = {"constant": "zeros", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


class AtenTarget:
    """What a map takes when it is written with PyTorch's own layers."""

    def operators(self, formula: Formula, dimensions: int) -> int | None:
        """One for a layer, one more where its padding has to stand in front of it, None where torch has no layer for it."""
        stencil = formula.stencil
        if stencil.is_diagonal or stencil.rank == 0:
            return 1 if stencil.is_diagonal or stencil.groups == 1 else None
        if stencil.rank > 3 or dimensions not in (stencil.rank + 1, stencil.rank + 2):
            return None
        if stencil.is_upsampled:
            return 1 if formula.fill is None and transposed_geometry(stencil, symmetric=True) is not None else None
        if formula.fill is not None and not bool((formula.fill == formula.fill[0]).all()):
            return None
        return 1 if formula.fill is None and stencil.mode == "constant" and _is_symmetric(stencil) else 2


@dataclass(frozen=True, slots=True)
class Pad:
    """A padding in front of a layer, in the order of `torch.nn.functional.pad`."""

    pads: tuple[int, ...]
    mode: str
    value: float | None


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer, the padding that stands in front of it, and whether it is a mere scale and shift (then its parameters are read as such)."""

    module: nn.Module
    pad: Pad | None = None
    is_scale: bool = False

    def emit(self, graph: fx.Graph, path: str, x: fx.Node) -> list[fx.Node]:
        """Write the call of the layer that stands under `path`; the last node is the result."""
        if self.is_scale:
            weight = graph.get_attr(f"{path}.weight")
            if getattr(self.module, "bias", None) is None:
                return [weight, graph.call_function(ATEN.mul.Tensor, (x, weight))]
            bias = graph.get_attr(f"{path}.bias")
            return [weight, bias, graph.call_function(ATEN.addcmul.default, (bias, x, weight))]
        before = (
            [] if self.pad is None else [graph.call_function(ATEN.pad.default, (x, list(self.pad.pads), self.pad.mode, self.pad.value))]
        )
        return [*before, graph.call_module(path, ((before or [x])[-1],))]


def make_layer(value: AffineConv, *, trainable: bool, channels_last: bool) -> Layer:
    """The layer for a map whose numbers are already rounded to the dtype of the layer.

    Requires what `AtenTarget.operators` accepted.
    """
    stencil = value.stencil
    if stencil.is_diagonal:
        return _scale_layer(value, trainable)
    bias = value.bias if bool((value.bias != 0).any()) else None
    options: dict[str, Any] = {"bias": bias is not None, "device": "meta"}
    pad: Pad | None = None
    kernel = value.kernel
    if stencil.rank == 0:
        module: nn.Module = nn.Linear(stencil.in_channels, stencil.out_channels, **options)
    elif stencil.is_upsampled:
        geometry = transposed_geometry(stencil, symmetric=True)
        assert geometry is not None
        kernel = transposed_kernel(value)
        module = TRANSPOSED[stencil.rank](
            stencil.in_channels,
            stencil.out_channels,
            stencil.taps,
            stride=tuple(window.upsample for window in stencil.windows),
            padding=tuple(before for before, _ in geometry[0]),
            output_padding=tuple(geometry[1]),
            groups=stencil.groups,
            dilation=tuple(window.dilation for window in stencil.windows),
            **options,
        )
    else:
        symmetric = value.fill is None and _is_symmetric(stencil)
        if not symmetric:
            pad = _pad_in_front(value)
        module = CONVOLUTIONS[stencil.rank](
            stencil.in_channels,
            stencil.out_channels,
            stencil.taps,
            stride=tuple(window.stride for window in stencil.windows),
            padding=tuple(window.before for window in stencil.windows) if symmetric else 0,
            dilation=tuple(window.dilation for window in stencil.windows),
            groups=stencil.groups,
            padding_mode=PADDING_MODES[stencil.mode] if symmetric else "zeros",
            **options,
        )
    if channels_last and kernel.ndim in (4, 5):
        kernel = kernel.contiguous(memory_format=torch.channels_last if kernel.ndim == 4 else torch.channels_last_3d)
    module.weight = nn.Parameter(kernel, trainable)
    if bias is not None:
        module.bias = nn.Parameter(bias, trainable)
    return Layer(module, pad)


def _scale_layer(value: AffineConv, trainable: bool) -> Layer:
    module = nn.Module()
    shape = (-1, *([1] * value.stencil.rank))
    module.weight = nn.Parameter(value.kernel.reshape(shape), trainable)
    if bool((value.bias != 0).any()):
        module.bias = nn.Parameter(value.bias.reshape(shape), trainable)
    return Layer(module, is_scale=True)


def _pad_in_front(value: AffineConv) -> Pad:
    pads: Sequence[int] = [side for window in reversed(value.windows) for side in (window.before, window.after)]
    level = float(value.fill[0]) if value.fill is not None else None
    return Pad(tuple(pads), value.mode, level)


def _is_symmetric(stencil: Stencil) -> bool:
    return all(window.before == window.after >= 0 for window in stencil.windows)
