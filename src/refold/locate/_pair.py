"""Two networks walked on the same inputs, each in its own dialect."""

from __future__ import annotations

import inspect
import os
from collections.abc import Collection, Mapping
from typing import Any

from refold.dialects import is_onnx
from refold.errors import FoldError
from refold.walk import Array, Walk


def walk_both(original: Any, folded: Any, example: Any, kwargs: Mapping[str, Any] | None) -> tuple[Walk, Walk]:
    """Run both on the same inputs: those that are given, that came with a program, or that an ONNX model states."""
    if example is None and kwargs is None:
        came_with = (getattr(one, "example_inputs", None) for one in (original, folded))
        args, kwargs = next((one for one in came_with if one is not None), (None, None))
        example = args or None
    if not is_onnx(original) and not is_onnx(folded):
        return _in_torch(original, example, kwargs), _in_torch(folded, example, kwargs)
    first = _in_onnx(original, example, kwargs) if is_onnx(original) else _in_torch(original, example, kwargs)
    if is_onnx(folded):
        return first, _onnx_beside(first.inputs, folded)
    return first, _torch_beside(first.inputs, folded)


def paired(mine: Collection[str], theirs: Collection[str]) -> dict[str, str]:
    """Which input of the first network each input of the second is: that of its name where all names are the same, that of its place."""
    by_name = set(mine) == set(theirs)
    return {name: name if by_name else other for name, other in zip(theirs, mine, strict=False)}


def _in_torch(model: Any, example: Any, kwargs: Mapping[str, Any] | None) -> Walk:
    from refold.dialects import aten

    return aten.walk(model, example, kwargs)


def _in_onnx(model: Any, example: Any, kwargs: Mapping[str, Any] | None) -> Walk:
    from refold.dialects import onnx

    if isinstance(example, Mapping) or (example is None and kwargs):
        given: Any = {name: _array(one) for name, one in {**(example or {}), **(kwargs or {})}.items()}
    elif isinstance(example, (str, os.PathLike)) or example is None:
        given = example
    else:
        positional = list(example) if isinstance(example, (tuple, list)) else [example]
        given = [_array(one) for one in [*positional, *(kwargs or {}).values()]]
    return onnx.walk(model, onnx.feeds_for(model, given))


def _array(given: Any) -> Any:
    """A tensor of PyTorch as an array."""
    if not hasattr(given, "detach"):
        return given
    plain = given.detach().cpu()
    return (plain.float() if str(plain.dtype) == "torch.bfloat16" else plain).numpy()


def _onnx_beside(inputs: Mapping[str, Array], model: Any) -> Walk:
    """An ONNX model on the inputs of another: by name where the names are the same, by position where they are not."""
    from refold.dialects import onnx

    stated = onnx.stated_inputs(model)
    told = f"the first model takes {_told(inputs)} and the second {_told_stated(stated)}"
    if len(stated) != len(inputs):
        raise FoldError(f"{told}; compare models that take the same inputs")
    given = {theirs: inputs[mine] for theirs, mine in paired(inputs, stated).items()}
    if not all(_fits(array, stated[name]) for name, array in given.items()):
        raise FoldError(f"{told}; compare models that take inputs of the same shapes")
    return onnx.walk(model, onnx.as_inputs(model, given))


def _torch_beside(inputs: Mapping[str, Array], model: Any) -> Walk:
    """A PyTorch model on the inputs of an ONNX model: by name where it takes such names, by position where it does not."""
    from refold.dialects import aten

    signature = getattr(model, "graph_signature", None)
    if signature is not None:
        names = [str(name) for name in signature.user_inputs]
        given: Any = [inputs[name] for name in names] if set(names) == set(inputs) else list(inputs.values())
    else:
        takes_names = set(inputs) <= set(inspect.signature(model.forward).parameters)
        given = dict(inputs) if takes_names else list(inputs.values())
    try:
        return aten.walk(model, aten.as_inputs(model, given))
    except FoldError as error:
        raise FoldError(
            f"the first model takes {_told(inputs)}, which the second, a {type(model).__name__}, does not run on: {error}; "
            "compare models that take the same inputs"
        ) from error


def _fits(array: Array, sizes: tuple[int | None, ...] | None) -> bool:
    return sizes is None or (len(sizes) == array.ndim and all(size in (None, own) for size, own in zip(sizes, array.shape, strict=True)))


def _told(inputs: Mapping[str, Array]) -> str:
    return _told_stated({name: array.shape for name, array in inputs.items()})


def _told_stated(shapes: Mapping[str, tuple[int | None, ...] | None]) -> str:
    """`x` (1 x 3 x 224 x 224), `mask` (1 x any)."""
    told = []
    for name, sizes in shapes.items():
        shape = "any" if sizes is None else " x ".join("any" if size is None else str(size) for size in sizes) or "scalar"
        told.append(f"`{name}` ({shape})")
    return ", ".join(told) or "no inputs"
