"""What forward reads out of its own parameters while it is traced: `if self.alpha:`, `float(self.scale)`, `self.gamma.item()`.

Tracing knows the shapes of parameters and not their values, so such a read ends it. In eval the numbers are those that the network holds,
which is what is folded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

TENSOR = torch.Tensor
READS = (TENSOR.__bool__, TENSOR.__float__, TENSOR.__int__, TENSOR.__index__, TENSOR.item, TENSOR.tolist)


class KnownNumbers(TorchFunctionMode):
    """While it is active, parameters and buffers of one number, and what is worked out from them alone, can be read.

    Which tensors these are is asked of the model anew at each step, since tracing puts stand-ins in their place.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._model = model
        self._values = {name: tensor.detach().clone() for name, tensor in _tensors(model) if _is_single(tensor)}
        self._derived: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and note what it gives where that is known."""
        given = (args, kwargs or {})
        real = self._real(given)
        if real is not None and func in READS:
            return _outside(func, real)
        result = func(*args, **(kwargs or {}))
        if real is not None and isinstance(result, torch.Tensor) and _is_single(result):
            self._derived[id(result)] = (result, _outside(func, real))
        return result

    def _real(self, given: Any) -> Any:
        """The same arguments with the values of their tensors, or None where one is not known."""
        leaves, spec = pytree.tree_flatten(given)
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if not self._values or not tensors or not all(map(_is_single, tensors)):
            return None
        known = {id(tensor): self._values[name] for name, tensor in _tensors(self._model) if name in self._values}
        known |= {key: value for key, (_, value) in self._derived.items()}
        if not all(id(tensor) in known for tensor in tensors):
            return None
        return pytree.tree_unflatten([known[id(leaf)] if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], spec)


def _is_single(tensor: torch.Tensor) -> bool:
    """Whether it holds one number at every size."""
    return all(isinstance(size, int) and size == 1 for size in tensor.shape)


def _outside(func: Callable[..., Any], given: Any) -> Any:
    """Run an operation on values, out of sight of the tracing."""
    with _disable_current_modes():
        return func(*given[0], **given[1])


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
