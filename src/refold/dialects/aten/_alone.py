"""The convolutions and linear layers of a network alone: met by running it, and run again with nothing between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from refold.dialects.aten._layers import ATEN
from refold.dialects.aten._trace import run
from refold.verification import SEED


@dataclass(frozen=True, slots=True)
class CalledLayer:
    """One call of a convolution (`options` are its stride, padding, dilation and so on) or of a linear layer (None)."""

    takes: tuple[int, ...]
    gives: tuple[int, ...]
    kernel: tuple[int, ...]
    has_bias: bool
    dtype: torch.dtype
    channels_last: bool
    options: tuple[Any, ...] | None


def called_layers(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[CalledLayer]:
    """Every convolution that the model runs on these inputs, in order, and every product with a matrix of its parameters.

    Raises `FoldError` where it does not run on them.
    """
    owned = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    found: list[CalledLayer] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            match function, args:
                case ATEN.convolution.default, (x, kernel, bias, *options):
                    found.append(_called(x, result, kernel, bias is not None, tuple(options)))
                case ATEN.addmm.default, (_, x, matrix, *_) if matrix.untyped_storage().data_ptr() in owned:
                    found.append(_called(x, result, matrix.t(), True, None))
                case ATEN.mm.default, (x, matrix) if matrix.untyped_storage().data_ptr() in owned:
                    found.append(_called(x, result, matrix.t(), False, None))
            return result

    watch = Watch()  # type: ignore[no-untyped-call]
    with torch.inference_mode(False), watch:  # in inference mode, composite operators would be seen whole
        run(model, args, kwargs)
    return found


def layers_alone(layers: Sequence[CalledLayer], sources: Sequence[int | None]) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A module that runs the layers in order with weights drawn at random, and its inputs.

    `sources` says for each whose output it reads, reshaped if need be; where that is None it gets an input of its own. The module gives
    what none of them reads.
    """
    random = torch.Generator().manual_seed(SEED)
    inputs = [_drawn(layer.takes, layer, random) for layer, source in zip(layers, sources, strict=True) if source is None]
    return _Alone(layers, sources, random).eval(), tuple(inputs)


class _Alone(nn.Module):
    def __init__(self, layers: Sequence[CalledLayer], sources: Sequence[int | None], random: torch.Generator) -> None:
        super().__init__()
        self.kernels = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.steps: list[tuple[CalledLayer, int | None, bool]] = []
        last = {source: reader for reader, source in enumerate(sources) if source is not None}
        self.read = set(last)
        for position, (layer, source) in enumerate(zip(layers, sources, strict=True)):
            fan_in = max(1, math.prod(layer.kernel[1:]))
            self.kernels.append(nn.Parameter(_drawn(layer.kernel, layer, random) / fan_in**0.5, requires_grad=False))
            channels = layer.gives[1] if layer.options is not None and len(layer.gives) > 1 else layer.gives[-1]
            self.biases.append(nn.Parameter(torch.zeros(channels, dtype=layer.dtype), requires_grad=False))
            self.steps.append((layer, source, source is not None and last[source] == position))

    def forward(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        fresh = iter(inputs)
        outputs: list[torch.Tensor | None] = []
        for (layer, source, is_last), kernel, bias in zip(self.steps, self.kernels, self.biases, strict=True):
            x = next(fresh) if source is None else outputs[source]
            assert x is not None
            if is_last and source is not None:
                outputs[source] = None
            x, shift = x.reshape(layer.takes), bias if layer.has_bias else None
            if layer.options is None:
                outputs.append(nn.functional.linear(x, kernel, shift))
            else:
                outputs.append(torch.convolution(x, kernel, shift, *layer.options))
        return [one for position, one in enumerate(outputs) if one is not None and position not in self.read]


def _called(x: torch.Tensor, y: torch.Tensor, kernel: torch.Tensor, has_bias: bool, options: tuple[Any, ...] | None) -> CalledLayer:
    last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return CalledLayer(tuple(x.shape), tuple(y.shape), tuple(kernel.shape), has_bias, x.dtype, last, options)


def _drawn(shape: tuple[int, ...], layer: CalledLayer, random: torch.Generator) -> torch.Tensor:
    tensor = torch.randn(shape, generator=random).to(layer.dtype)
    return tensor.to(memory_format=torch.channels_last) if layer.channels_last and tensor.ndim == 4 else tensor
