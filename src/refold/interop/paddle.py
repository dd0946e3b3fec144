"""PaddlePaddle weights into PyTorch modules: `.pdparams` files read without Paddle, and the few differences between the two layouts.

| PaddlePaddle | PyTorch |
| --- | --- |
| `_mean`, `_variance` of a batch norm | `running_mean`, `running_var` |
| `weight` of a Linear, (in, out) | `weight`, (out, in) |
| `_weight` of a PReLU | `weight` |
| a scalar parameter, (1,) | (), such as the alpha of `RepVggBlock` |
| bfloat16, stored as its bits in uint16 | bfloat16 |
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from refold.errors import FoldError
from refold.interop._pickle import read_arrays
from refold.nn._foldable import FoldableBlock

Array = NDArray[Any]

NAMES = "StructuredToParameterName@@"
"""The entry under which Paddle notes its own names of the parameters."""
PARTS = "UnpackBigParamInfor@@"
"""The entry under which Paddle notes what it cut into parts, because pickles before protocol 4 end at 4 GB."""
SHOWN = 3
"""So many names of a long list are said."""

RENAMED: tuple[tuple[type[nn.Module], dict[str, str]], ...] = (
    (_BatchNorm, {"running_mean": "_mean", "running_var": "_variance"}),
    (nn.PReLU, {"weight": "_weight"}),
)
ALIKE = (_ConvNd, _BatchNorm, nn.Linear, nn.PReLU, nn.Embedding, nn.LayerNorm, nn.GroupNorm)
"""The layers of PyTorch that keep their parameters as Paddle does, but for their names and a Linear's axes."""
UNKNOWN_TO_PADDLE = ("num_batches_tracked",)


class Unmatched(NamedTuple):
    """What `load_into` left: names that the module wants and the state has not, and names of the state that the module does not want."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def load_state(source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Array]:
    """The arrays of a PaddlePaddle state by name: of a `.pdparams` file, or of a mapping of arrays, such as an open `.npz`.

    The file is a pickle. It is read without Paddle and without running anything in it: arrays of numbers and plain containers are
    admitted, anything else is refused.

    Raises `FoldError` where the file cannot be read, names another class, or an entry is not an array of numbers.

    >>> state = load_state({"conv1.bn._mean": [0.0, 1.0], "StructuredToParameterName@@": {}})
    >>> {name: array.shape for name, array in state.items()}
    {'conv1.bn._mean': (2,)}
    """
    entries = dict(source) if isinstance(source, Mapping) else read_arrays(source)
    entries.pop(NAMES, None)
    parts = entries.pop(PARTS, {})
    state = {name: _array(name, entry) for name, entry in entries.items()}
    for name, how in parts.items():
        state[name] = np.concatenate([state.pop(part).ravel() for part in how["slices"]]).reshape(how["OriginShape"])
    return state


def load_into(module: nn.Module, state: Mapping[str, Any], *, strict: bool = True) -> Unmatched:
    """Put a PaddlePaddle state into a module whose parameters are called as Paddle's, such as `RepVggBlock` and `CSPResNet`.

    `state` is what `load_state` takes apart from a path. What a parameter becomes is decided by the layer that owns it, never by its shape,
    so the square matrix of a Linear is transposed too. Numbers take on the dtype and the device of the module. Either everything that
    matches is loaded or, with an error, nothing.

    Returns the names that did not match, which are none unless `strict` is False.

    Raises `FoldError` where a shape is another, a layer keeps its parameters in an order that is not known here, or, with `strict`, a name
    is missing or unexpected.

    >>> from refold.nn import RepVggBlock
    >>> state = {f"conv{i}.conv.weight": np.ones((2, 2, 5 - 2 * i, 5 - 2 * i), "f4") for i in (1, 2)}
    >>> state |= {f"conv{i}.bn.{name}": np.full(2, 0.5, "f4") for i in (1, 2) for name in ("weight", "bias", "_mean", "_variance")}
    >>> block = RepVggBlock(2, 2, alpha=True)
    >>> load_into(block, state | {"alpha": np.array([0.25], "f4")})
    Unmatched(missing=(), unexpected=())
    >>> block.conv2.bn.running_var, block.alpha.item()
    (tensor([0.5000, 0.5000]), 0.25)
    """
    arrays = load_state(state)
    slots = {slot.name: slot for slot in _slots(module)}
    missing = tuple(name for name in slots if name not in arrays)
    unexpected = tuple(name for name in arrays if name not in slots)
    misshaped = [
        f"{name} {arrays[name].shape} for {slot.shape}"
        for name, slot in slots.items()
        if name in arrays and not slot.takes(arrays[name].shape)
    ]
    faults = [f"{len(misshaped)} of another shape than wanted: {_first(misshaped)}"] if misshaped else []
    if strict and missing:
        faults.append(f"{len(missing)} missing: {_first(missing)}")
    if strict and unexpected:
        faults.append(f"{len(unexpected)} unexpected: {_first(unexpected)}")
    if faults:
        raise FoldError(f"the state does not fit {type(module).__name__}; {'; '.join(faults)}{_remedy(module, missing, unexpected)}")
    with torch.no_grad():
        for name, slot in slots.items():
            if name in arrays:
                slot.fill(arrays[name])
    return Unmatched(missing, unexpected)


@dataclass(frozen=True, slots=True)
class _Slot:
    """A tensor of a module, the name under which Paddle keeps it, and whether Paddle keeps it transposed."""

    name: str
    tensor: Tensor
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in Paddle."""
        sizes = tuple(self.tensor.shape)
        return sizes[::-1] if self.transposed else sizes

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape belongs here; a scalar may come as a vector of one."""
        return shape == self.shape or (self.shape == () and shape == (1,))

    def fill(self, array: Array) -> None:
        """Copy Paddle's numbers."""
        bits = array.dtype == np.uint16
        numbers = torch.from_numpy(np.array(array.view(np.int16) if bits else array, order="C"))
        if bits:
            numbers = numbers.view(torch.bfloat16)
        self.tensor.copy_(numbers.mT if self.transposed else numbers.reshape(self.tensor.shape))


def _slots(module: nn.Module) -> Iterator[_Slot]:
    for path, layer in module.named_modules(remove_duplicate=False):
        buffers = {name: one for name, one in layer._buffers.items() if name not in layer._non_persistent_buffers_set}
        own = {name: one for name, one in {**layer._parameters, **buffers}.items() if one is not None and name not in UNKNOWN_TO_PADDLE}
        if own and type(layer).__module__.startswith("torch.") and not isinstance(layer, ALIKE):
            raise FoldError(
                f"{path or 'the module'} is a {type(layer).__name__}, whose parameters Paddle may keep in another order; "
                f"load it by hand, and the other layers one by one with load_into"
            )
        renamed = next((names for kind, names in RENAMED if isinstance(layer, kind)), {})
        for name, tensor in own.items():
            full = ".".join(filter(None, (path, renamed.get(name, name))))
            yield _Slot(full, tensor, transposed=isinstance(layer, nn.Linear) and name == "weight")


def _array(name: Any, entry: Any) -> Array:
    if not isinstance(name, str):
        raise FoldError(f"the state has the key {name!r}, and names were expected; pass what layer.state_dict() gives")
    try:
        array = np.asarray(entry)
    except (TypeError, ValueError):  # lists of uneven lengths
        array = np.asarray(None)
    if array.dtype.kind not in "biufc":
        raise FoldError(
            f"the entry {name!r} of the state is a {type(entry).__name__}, not an array of numbers; pass layer.state_dict() alone"
        )
    return array


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _remedy(module: nn.Module, missing: tuple[str, ...], unexpected: tuple[str, ...]) -> str:
    """What to do where the state is of the other form than a block of the module."""
    for path, block in module.named_modules():
        if isinstance(block, FoldableBlock):
            conv = f"{path}.conv.weight".removeprefix(".")
            if block.deployed and conv in missing:
                return "; it is of the train form and the module in deploy form: load it with deploy=False, then call convert_to_deploy()"
            if not block.deployed and conv in unexpected:
                return "; it is of the deploy form and the module in train form: build the module with deploy=True"
    return ""
