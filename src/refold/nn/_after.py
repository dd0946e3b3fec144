"""What may stand after the linear part of a block: an activation, and squeeze-excite."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from refold.errors import RefoldError
from refold.geometry import whole
from refold.nn._layers import CONVOLUTIONS

Act: TypeAlias = str | Mapping[str, Any] | Callable[[Tensor], Tensor] | None
"""A name, a dict of a name ("type" or "name") and its arguments, a module or a function, or None."""

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "celu": nn.CELU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "hard_sigmoid": nn.Hardsigmoid,
    "hard_swish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "identity": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    "mish": nn.Mish,
    "prelu": nn.PReLU,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
}


class Apply(nn.Module):
    """A plain function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """The function of a feature map."""
        return self.function(x)

    def extra_repr(self) -> str:
        """The name of the function."""
        return getattr(self.function, "__name__", repr(self.function))


def make_activation(act: Act) -> nn.Module:
    """The module that `act` asks for.

    Raises `RefoldError` for a name that is not known, arguments that it does not take, and anything that cannot be called.

    >>> make_activation({"type": "leaky_relu", "negative_slope": 0.1})
    LeakyReLU(negative_slope=0.1)
    """
    match act:
        case None:
            return nn.Identity()
        case str():
            return _named(act, {})
        case Mapping():
            arguments = dict(act)
            names = [arguments.pop(key) for key in ("type", "name") if key in arguments]
            if len(names) != 1 or not isinstance(names[0], str):
                raise RefoldError(f"`act` (={dict(act)}) must name the activation once, under 'type' or 'name'")
            return _named(names[0], arguments)
        case nn.Module():
            return act
        case type() if issubclass(act, nn.Module):
            return act()
        case _ if callable(act):
            return Apply(cast("Callable[[Tensor], Tensor]", act))
    raise RefoldError(f"`act` (={act!r}) must be a name, a dict, a module, a function or None, not {type(act).__name__}")


def _named(name: str, arguments: dict[str, Any]) -> nn.Module:
    found = ACTIVATIONS.get(name.lower())
    if found is None:
        near = difflib.get_close_matches(name.lower(), ACTIVATIONS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"take one of {', '.join(ACTIVATIONS)}, or give a module"
        raise RefoldError(f"no activation is called {name!r}; {hint}")
    try:
        return found(**arguments)
    except TypeError as error:
        raise RefoldError(f"the activation {name!r} does not take {arguments}: {error}") from None


class SqueezeExcite(nn.Module):
    """Channels weighed by a small network of their means: x * sigmoid(up(relu(down(mean of x)))) (Hu et al. 2018, arXiv 1709.01507).

    Feature maps (batch, channels, *sizes) to the same shape; `reduction` is how many times fewer channels there are between the two layers.
    """

    def __init__(self, channels: int, reduction: int = 16, *, dimensions: int = 2) -> None:
        super().__init__()
        inner = max(1, channels // whole("squeeze_excite", reduction, at_least=1))
        layer: Any = CONVOLUTIONS[dimensions - 1]
        self.down: _ConvNd = layer(channels, inner, 1)
        self.up: _ConvNd = layer(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the channels."""
        means = x.mean(tuple(range(2, x.ndim)), keepdim=True)
        weights: Tensor = torch.sigmoid(self.up(torch.relu(self.down(means))))
        return x * weights
