"""Example inputs for a model: of shapes given as text, from a file, or those that came with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refold.errors import FoldError
from refold.models._named import NamedModel
from refold.models._words import described, existing_file, one_line, torch_or_error
from refold.verification import SEED

if TYPE_CHECKING:
    import numpy as np

DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")


def make_inputs(named: NamedModel, shapes: Sequence[str] = (), file: Path | None = None, dtype: str | None = None) -> Any:
    """Example inputs: drawn at random for `shapes` such as `1,3,224,224` or `1,16:int64`, read from an `.npz`, or those of the model.

    `dtype` is that of shapes that name none; without it the model's own is taken. Arrays of an `.npz` that are called `arr_0`, `arr_1`
    … (as `numpy.savez` calls them) are given in that order, others by name.

    Raises `FoldError` where a shape or a dtype cannot be read, the file holds no arrays, or there are no inputs at all.
    """
    if shapes and file is not None:
        raise FoldError("inputs are given by --input or by --inputs, not by both; leave one out")
    if dtype is not None and dtype not in DTYPES:
        raise FoldError(f"`{dtype}` is not a dtype for inputs; choose one of {', '.join(DTYPES)}")
    if file is None and not shapes and dtype is None and getattr(named.model, "example_inputs", None) is not None:
        return None  # an exported program has its own at hand, be they positional, named or both
    if file is not None:
        inputs = _inputs_from_file(named, existing_file(file))
    elif shapes:
        inputs = _random_inputs(named, [_parse_shape(text) for text in shapes], dtype)
    elif named.example_inputs is None and not named.is_onnx:
        raise FoldError(
            f"{named.name} says nothing of its inputs; give a shape for each, as in --input 1,3,224,224 (or --input 1,16:int64 for "
            "whole numbers), or arrays as in --inputs examples.npz"
        )
    elif named.example_inputs is None or dtype is None:
        return named.example_inputs
    else:
        inputs = _cast(named.example_inputs, dtype)
    if not named.is_onnx:
        _try_program(named, inputs)
    return inputs


def _parse_shape(text: str) -> tuple[tuple[int, ...], str | None]:
    sizes, colon, dtype = text.partition(":")
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        shape = (0,)
    if min(shape) < 1:
        raise FoldError(f"`{text}` is not a shape; write sizes of at least 1 with commas between them, as in 1,3,224,224 or 1,16:int64")
    if colon and dtype not in DTYPES:
        raise FoldError(f"`{dtype}` in `{text}` is not a dtype for inputs; choose one of {', '.join(DTYPES)}")
    return shape, dtype or None


def _random_inputs(named: NamedModel, shapes: Sequence[tuple[tuple[int, ...], str | None]], dtype: str | None) -> tuple[Any, ...]:
    import numpy as np

    generator = np.random.default_rng(SEED)
    default = dtype or ("float32" if named.is_onnx else _own_dtype(named.model))
    ids = 2 if named.is_onnx else _smallest_vocabulary(named.model)
    arrays = [(_draw(generator, shape, own or default, ids), own or default) for shape, own in shapes]
    if named.is_onnx:
        import ml_dtypes

        return tuple(array.astype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind) for array, kind in arrays)
    torch = torch_or_error()
    return tuple(torch.from_numpy(array).to(getattr(torch, kind)) for array, kind in arrays)


def _draw(generator: np.random.Generator, shape: tuple[int, ...], dtype: str, ids: int) -> Any:
    if "float" in dtype:
        return generator.standard_normal(shape)
    return generator.integers(0, 2 if dtype == "bool" else min(ids, 100), shape)


def _own_dtype(model: Any) -> str:
    for tensor in model.state_dict.values() if isinstance(model.state_dict, Mapping) else model.state_dict().values():
        if hasattr(tensor, "is_floating_point") and tensor.is_floating_point():
            return str(tensor.dtype).removeprefix("torch.")
    return "float32"


def _smallest_vocabulary(model: Any) -> int:
    """Whole numbers below this are ids that every embedding of the model knows."""
    torch = torch_or_error()
    modules = model.modules() if isinstance(model, torch.nn.Module) else ()
    return min((one.num_embeddings for one in modules if isinstance(one, torch.nn.Embedding)), default=2)


def _inputs_from_file(named: NamedModel, path: Path) -> Any:
    import zipfile

    import numpy as np

    try:
        with path.open("rb") as opened:
            archive = np.load(opened, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")
            arrays = dict(archive)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FoldError(f"{path} cannot be read as an .npz of arrays: {one_line(error)}; write it with numpy.savez") from error
    if not arrays:
        raise FoldError(f"{path} holds no arrays; write one for each input with numpy.savez")
    if not named.is_onnx:
        torch = torch_or_error()
        try:
            arrays = {name: torch.from_numpy(array) for name, array in arrays.items()}
        except TypeError as error:
            raise FoldError(f"{path} holds an array that PyTorch cannot take: {one_line(error)}; write numbers") from error
    in_order = [f"arr_{position}" for position in range(len(arrays))]
    return tuple(arrays[name] for name in in_order) if set(arrays) == set(in_order) else arrays


def _cast(inputs: Any, dtype: str) -> Any:
    torch = torch_or_error()
    wanted = getattr(torch, dtype)
    return torch.utils._pytree.tree_map(
        lambda leaf: leaf.to(wanted) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf, inputs
    )


def _try_program(named: NamedModel, inputs: Any) -> None:
    """An exported program checks what it is given with assertions of its own; say which inputs it takes instead."""
    torch = torch_or_error()
    if not isinstance(named.model, torch.export.ExportedProgram):
        return
    args, kwargs = ((), inputs) if isinstance(inputs, Mapping) else (inputs, {})
    try:
        with torch.no_grad():
            named.model.module()(*args, **kwargs)
    except Exception as error:
        given = ", ".join(map(described, torch.utils._pytree.tree_leaves(inputs)))
        program = named.model
        nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in program.graph_signature.user_inputs]
        takes = ", ".join(f"`{node.name}` {described(node.meta['val'])}" for node in nodes if hasattr(node.meta.get("val"), "shape"))
        raise FoldError(f"{named.name} does not run on the inputs ({given}): {one_line(error)}; it takes {takes}") from error
