"""Runs whole models in ONNX Runtime, its optimizations off so that its fusing hides nothing, and in float64 where that is affordable."""

from __future__ import annotations

import math
import os
import shutil
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from refold.dialects.onnx._constants import LARGEST, RANDOM, evaluate, widened
from refold.dialects.onnx._load import Source, every_node, first_line, graphs_of
from refold.dialects.onnx._save import save, size_of
from refold.dialects.onnx._scopes import GUESSES, Scope, free_sizes, set_sizes
from refold.dialects.onnx._tensors import FLOATS, Array, Tensors, type_name
from refold.errors import FoldError
from refold.runtime import OpenSession, RuntimeRefused, cannot_write, scratch_file

Feeds = dict[str, Array]

AFFORDABLE = 1_000_000_000
"""Multiply-adds up to which the reference evaluator is asked for the float64 truth."""
SLOW = ("MaxPool", "LpPool", "Resize", "Upsample", "LSTM", "GRU", "RNN", "RoiAlign", "GridSample",
        "DeformConv", "NonMaxSuppression", "DFT", "STFT", "MaxUnpool", "MaxRoiPool")  # fmt: skip
"""Operators that the reference evaluator works out item by item."""
PATIENCE = 400_000
"""Items of theirs up to which it is asked all the same."""
TURNS = 16
"""Turns of a loop up to which it is asked for what a graph in it gives."""

GENEROUS = 1 << 20
"""Items of all inputs up to which free sizes are made up; a volume of 224 along each axis would be ten times as large."""


class Session:
    """A model ready to run, in a process of its own; `names` are its outputs, `files` those that it lies in as it is."""

    def __init__(self, skeleton: ModelProto, tensors: Tensors, files: tuple[Path, ...] = (), *, optimized: bool = False) -> None:
        self.names = [output.name for output in skeleton.graph.output]
        self._draft = None if files else Draft(skeleton, tensors)
        path = files[0] if self._draft is None else self._draft.path
        try:
            self._session = OpenSession(path, level="ORT_ENABLE_EXTENDED" if optimized else "ORT_DISABLE_ALL")
        except RuntimeRefused as error:
            is_invalid = not error.is_missing and not any(reason in str(error).lower() for reason in OTHER_REASONS)
            kind = DoesNotLoad if is_invalid else FoldError
            raise kind(f"ONNX Runtime does not load the model: {first_line(error)}; mend the model, or fold with verify=False") from error

    def run(self, feeds: Mapping[str, Array]) -> list[Any]:
        """The outputs. Raises `FoldError` with the runtime's own message where it does not run, `RuntimeDied` where it dies of it."""
        try:
            return self._session.run(self.names, feeds)
        except RuntimeRefused as error:
            shapes = ", ".join(f"{name} {'x'.join(map(str, array.shape)) or 'scalar'} {array.dtype}" for name, array in feeds.items())
            kind = FoldError if error.is_missing else DoesNotRun
            raise kind(f"the model does not run on {shapes}: {first_line(error)}; give inputs that it takes") from error


class Draft:
    """A model written to a scratch file, with its weights beside it where they are many; gone with this object."""

    def __init__(self, skeleton: ModelProto, tensors: Tensors) -> None:
        self.path = _written(skeleton, tensors)
        self._gone = weakref.finalize(self, _remove, self.path)

    @property
    def is_one_file(self) -> bool:
        """Whether all of it lies in one file that still stands."""
        return self.path.exists() and not self.path.with_name(f"{self.path.name}.data").exists()

    def move(self, place: Path) -> None:
        """Let the one file be at another place instead."""
        try:
            self.path.rename(place)
        except OSError:  # on another file system
            shutil.copyfile(self.path, place)
        self._gone()


class DoesNotLoad(FoldError):
    """A model that ONNX Runtime takes for invalid, rather than for one that it has no kernels for."""


class DoesNotRun(FoldError):
    """A model that ONNX Runtime has all kernels for and that does not run all the same."""


OTHER_REASONS = ("opset", "ir version", "ir_version", "registered", "not supported", "unsupported")
"""What a runtime says that refuses a model for its age or for operators of others; it is no witness against the model then."""


def _written(skeleton: ModelProto, tensors: Tensors) -> Path:
    path = scratch_file(".onnx")
    try:
        save(skeleton, tensors, path, external=size_of(skeleton, tensors) > 1 << 29)
    except OSError as error:
        _remove(path)
        raise cannot_write(error) from error
    return path


def _remove(path: Path) -> None:
    for one in (path, path.with_name(f"{path.name}.data")):
        with suppress(OSError):  # where a mapped file cannot be removed, it goes with the folder
            one.unlink(missing_ok=True)


def given_feeds(skeleton: ModelProto, given: Any) -> list[Feeds]:
    """Inputs that the caller gave: a `.npz`, arrays by name, or a sequence in the order of the inputs.

    Raises `FoldError` where one is missing or is no input.
    """
    names = [value.name for value in _required(skeleton)]
    known = [value.name for value in skeleton.graph.input]
    if isinstance(given, (str, os.PathLike)):
        try:
            with np.load(Path(given), allow_pickle=False) as archive:
                given = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, AttributeError) as error:
            raise FoldError(
                f"cannot read inputs from {os.fspath(given)}: {first_line(error)}; save them with numpy.savez by input name"
            ) from error
    if not isinstance(given, Mapping):
        arrays = list(given) if isinstance(given, (tuple, list)) else [given]
        if len(arrays) > len(names):
            raise FoldError(f"{len(arrays)} inputs were given, the model takes {len(names)}: {', '.join(names)}")
        given = dict(zip(names, arrays, strict=False))
    unknown, missing = [name for name in given if name not in known], [name for name in names if name not in given]
    if unknown or missing:
        fact = f"no input is called {unknown[0]!r}" if unknown else f"input {missing[0]!r} is not given"
        raise FoldError(f"{fact}; the model takes {', '.join(names) or 'none'}")
    return [{name: np.asarray(array) for name, array in given.items()}]


def generated_feeds(skeleton: ModelProto, seed: int) -> Iterator[Feeds]:
    """Random inputs of the shapes and types that the model states; several sizes for what is free, for the caller to take two that run.

    Raises `FoldError` where an input is not a tensor of numbers.
    """
    free = any(True for _ in free_sizes(skeleton))
    for number, guess in enumerate(GUESSES if free else GUESSES[:1]):
        sized = ModelProto()
        sized.CopyFrom(skeleton)
        shapes = set_sizes(sized, guess, batch=1 + number % 2)
        if guess != GUESSES[-1] and free and sum(math.prod(shape) for shape in shapes.values()) > GENEROUS:
            continue
        yield random_feeds(skeleton, shapes, np.random.default_rng(seed + number))


def random_feeds(skeleton: ModelProto, shapes: Mapping[str, tuple[int, ...]], random: np.random.Generator) -> Feeds:
    """Random inputs of these shapes. Raises `FoldError` where an input is no tensor of numbers, or holds more than `LARGEST`."""
    return {value.name: _random(value, shapes, random) for value in _required(skeleton)}


def truths(source: Source, top: Scope, feeds: Feeds, multiply_adds: int, ratio: float, *, wide: bool = True) -> list[Any] | None:
    """The outputs by the reference evaluator, in float64 or else in the model's types; None where that is too much work or does not run.

    `ratio` is how much larger these inputs are than the example that the types of the scope tell of.
    """
    graph = source.skeleton.graph
    nodes = list(graph.node)
    slow = sum(_items(name, top) for node in nodes if node.op_type in SLOW for name in node.output[:1])
    if multiply_adds * ratio > AFFORDABLE or slow * ratio > PATIENCE or len(nodes) > 2000 or graph.sparse_initializer:
        return None
    if not all(_is_quick(node, source, top) for node in nodes if any(True for _ in graphs_of(node))):
        return None
    if any(node.domain not in ("", "ai.onnx") for node in every_node(source.skeleton)):
        return None
    if any(node.op_type == "BatchNormalization" and any(node.output[1:]) for node in nodes):
        return None
    try:
        given = {tensor.name: source.tensors.array(tensor) for tensor in graph.initializer} | feeds
        if wide:
            given = {name: widened(array) for name, array in given.items()}
        return evaluate(nodes, given, [output.name for output in graph.output], source.skeleton, wide=wide)
    except Exception:  # the evaluator's operators raise what they like
        return None


def _is_quick(node: NodeProto, source: Source, top: Scope) -> bool:
    """Whether the evaluator gets through the graphs that a node holds: each runs once, or a few times that are stored as a number."""
    if node.op_type == "If":
        return _holds_little(node, source)
    return node.op_type == "Loop" and _turns(node, source, top) <= TURNS and _holds_little(node, source)


def _turns(loop: NodeProto, source: Source, top: Scope) -> float:
    """Times that a loop turns at the most; without end where no stored number says so."""
    name = loop.input[0]
    stored = next((one for one in source.skeleton.graph.initializer if one.name == name), None)
    made = top.producers.get(name)
    if stored is None and made is not None and made.op_type == "Constant":
        stored = next((one.t for one in made.attribute if one.name == "value"), None)
    return math.inf if stored is None else int(source.tensors.array(stored).reshape(-1)[0])


def _holds_little(node: NodeProto, source: Source) -> bool:
    """Whether the graphs that a node holds have no slow operators, further loops, sparse weights or weights outside the skeleton."""
    stack = [graph for _, graph in graphs_of(node)]
    while stack:
        graph = stack.pop()
        held = [*graph.initializer, *(one.t for inner in graph.node for one in inner.attribute if one.type == AttributeProto.TENSOR)]
        if any(source.tensors.payload(tensor) is not None for tensor in held) or graph.sparse_initializer:
            return False
        if any(inner.op_type in (*SLOW, "Loop", "Scan") for inner in graph.node):
            return False
        stack.extend(one for inner in graph.node for _, one in graphs_of(inner))
    return True


def _items(name: str, top: Scope) -> int:
    typed = top.types.get(name)
    return PATIENCE + 1 if typed is None else math.prod(typed.example)


def must_run(skeleton: ModelProto) -> bool:
    """Whether random inputs are ones that the model takes: all of them floats, of sizes that it states."""
    kinds = [value.type.tensor_type.elem_type for value in _required(skeleton)]
    return all(kind in FLOATS for kind in kinds) and not any(True for _ in free_sizes(skeleton))


def draws_at_random(skeleton: ModelProto) -> bool:
    """Whether two runs of the model may differ."""
    return any(node.op_type in RANDOM and node.op_type != "Dropout" for node in every_node(skeleton)) or any(
        node.op_type == "Dropout" and len(node.input) > 2 for node in every_node(skeleton)
    )


def _required(skeleton: ModelProto) -> list[ValueInfoProto]:
    defaults = {tensor.name for tensor in skeleton.graph.initializer}
    return [value for value in skeleton.graph.input if value.name not in defaults]


def _random(value: ValueInfoProto, shapes: Mapping[str, tuple[int, ...]], random: np.random.Generator) -> Array:
    elem_type = value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else 0
    if value.name not in shapes or elem_type in (0, TensorProto.STRING):
        raise FoldError(f"no input can be made up for `{value.name}`, which is not a tensor of numbers with a shape; give inputs")
    shape = shapes[value.name]
    if math.prod(shape) > LARGEST:
        raise FoldError(
            f"input `{value.name}` of shape {' x '.join(map(str, shape))} holds {math.prod(shape):,} numbers, and inputs are made up to "
            f"{LARGEST:,}; state the sizes that the model is meant for, or give inputs"
        )
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(elem_type))
    if elem_type in FLOATS:
        return random.standard_normal(shape).astype(dtype)
    if dtype.kind not in "iub":
        raise FoldError(f"no input can be made up for `{value.name}` of type {type_name(elem_type)}; give inputs")
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    # Never 0, by which a runtime that divides integers dies; wider types hold indices and masks more often than not.
    return random.integers(1, 128 if dtype.itemsize == 1 else 2, shape).astype(dtype)
