"""What forward reads out of its own parameters while it is traced: `if self.alpha:`, `float(self.scale)`, `self.gamma.item()`.

Tracing knows the shapes of parameters and not their values, so such a read ends it. In eval the numbers are those that the network holds,
which is what is folded; unless forward writes to them, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

TENSOR = torch.Tensor
IN_PLACE = ("__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__", "__ipow__", "__iand__", "__ior__", "__ixor__")
FREE = (torch.SymInt, torch.SymFloat, torch.SymBool)
"""Sizes and what is worked out from them, which hang on the input."""
READS = (TENSOR.__bool__, TENSOR.__float__, TENSOR.__int__, TENSOR.__index__, TENSOR.item, TENSOR.tolist)


@dataclass(frozen=True, eq=False, slots=True)
class Known:
    """A tensor of the tracing, its value, and the names of the parameters and buffers that it was worked out from."""

    tensor: torch.Tensor
    value: torch.Tensor
    roots: frozenset[str]


class KnownNumbers(TorchFunctionMode):
    """While it is active, parameters and buffers of one number, and what forward works out from them alone, can be read.

    `changing` are those that forward both reads and writes to: what it does with them is another function at each call.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._model = model
        self._values = {name: tensor.detach().clone() for name, tensor in _tensors(model) if _is_single(tensor)}
        self._known: dict[int, Known] = {}
        self._held: dict[str, torch.Tensor] = {}
        self._read: set[str] = set()
        self._written: set[str] = set()
        self._hooks: list[Any] = []

    @property
    def changing(self) -> list[str]:
        """Names of what is read and written to."""
        return sorted(self._read & self._written)

    def __enter__(self) -> KnownNumbers:
        if self._values:
            self._hooks = [self._model.register_forward_pre_hook(self._begin), self._model.register_forward_hook(self._end)]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()

    def _begin(self, *_: Any) -> None:
        """Tracing has put stand-ins in the places of parameters: these are the ones."""
        self._held = {name: tensor for name, tensor in _tensors(self._model) if name in self._values}
        self._known = {id(tensor): Known(tensor, self._values[name], frozenset({name})) for name, tensor in self._held.items()}

    def _end(self, *_: Any) -> None:
        """A buffer that is another tensor now was written to."""
        self._written.update(name for name, tensor in _tensors(self._model) if self._held.get(name, tensor) is not tensor)
        self._known, self._held = {}, {}

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and note what it gives where that is known."""
        given = (args, kwargs or {})
        known = self._known_in(given)
        real = _replaced(given, known)
        if real is None:
            if known and _writes(func, kwargs):
                self._note_written(known.values())
            return func(*args, **(kwargs or {}))
        versions = {one: one.value._version for one in known.values()}
        value = _outside(func, real)
        self._note_written(one for one, version in versions.items() if one.value._version != version)
        if func in READS:
            self._read.update(*(one.roots for one in known.values()))
            return value
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and _is_single(result):
            if isinstance(value, torch.Tensor):
                self._known[id(result)] = Known(result, value, frozenset().union(*(one.roots for one in known.values())))
            else:
                self._known.pop(id(result), None)
        return result

    def _note_written(self, written: Iterable[Known]) -> None:
        """The parameters and buffers that share the storage of what was written to."""
        for one in written:
            place = one.value.untyped_storage().data_ptr()
            self._written.update(name for name, value in self._values.items() if value.untyped_storage().data_ptr() == place)

    def _known_in(self, given: Any) -> dict[int, Known]:
        if not self._known:
            return {}
        return {id(leaf): self._known[id(leaf)] for leaf in pytree.tree_leaves(given) if id(leaf) in self._known}


def _replaced(given: Any, known: dict[int, Known]) -> Any:
    """The same arguments with the values of their tensors, or None where one is not known."""
    if not known:
        return None
    leaves, spec = pytree.tree_flatten(given)
    if any(isinstance(leaf, (torch.Tensor, *FREE)) and id(leaf) not in known for leaf in leaves):
        return None
    return pytree.tree_unflatten([known[id(leaf)].value if id(leaf) in known else leaf for leaf in leaves], spec)


def _writes(func: Callable[..., Any], kwargs: Any) -> bool:
    """Whether an operation that cannot be run on values writes to what it is given, by its name as PyTorch gives them."""
    name = getattr(func, "__name__", "").partition(".")[0]
    named_so = name.endswith("_") and not name.endswith("__")
    return named_so or name in (*IN_PLACE, "__setitem__", "__set__") or bool({"out", "inplace"} & set(kwargs or {}))


def _is_single(tensor: torch.Tensor) -> bool:
    """Whether it holds one number at every size."""
    return all(isinstance(size, int) and size == 1 for size in tensor.shape)


def _outside(func: Callable[..., Any], given: Any) -> Any:
    """Run an operation on values, out of sight of the tracing; None where it draws at random, which is no value of the network."""
    with _disable_current_modes(), torch.random.fork_rng(devices=[]):
        before = torch.random.get_rng_state()
        result = func(*given[0], **given[1])
        return result if torch.equal(before, torch.random.get_rng_state()) else None


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
