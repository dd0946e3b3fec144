"""From an affine convolution to the ONNX operators that compute it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from onnx import NodeProto, TensorProto, helper

from refold.algebra import Formula, Stencil, transposed_geometry
from refold.dialects.onnx._tensors import Array, Folded, Tensors, tensor_of
from refold.maps import Scalar

END = 2**63 - 1
"""Where a slice ends that leaves nothing out."""
PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class OnnxTarget:
    """What a map takes when it is written with the standard operators."""

    def operators(self, formula: Formula, dimensions: int) -> int | None:
        """One for most, more where a shift, a crop or a padding stands by itself, None where no operators say it."""
        stencil = formula.stencil
        if stencil.is_diagonal:
            scale = formula.evaluate().kernel
            return max(1, int(bool((scale != 1).any())) + int(_has_bias(formula)))
        if stencil.rank == 0:
            if stencil.groups != 1 or dimensions < 2:
                return None
            return 1 if dimensions == 2 or not _has_bias(formula) else 2
        if dimensions != stencil.rank + 2:
            return None
        if stencil.is_upsampled:
            return 1 if formula.fill is None and stencil.mode == "constant" and transposed_geometry(stencil) is not None else None
        if formula.fill is not None and not bool((formula.fill == formula.fill[0]).all()):
            return None
        if stencil.mode != "constant" and _crops(stencil):
            return None
        if _only_moves(formula):
            return int(_crops(stencil)) + int(_pads(stencil))
        return 1 + int(_crops(stencil)) + int(_needs_pad(formula))


@dataclass(slots=True)
class Layers:
    """Makes the nodes of maps, and the initializers that they need: one for equal maps of one type.

    `fresh` gives a name that no value has, near the one that is asked for.
    """

    tensors: Tensors
    opset: int
    fresh: Callable[[str], str]
    initializers: list[TensorProto] = field(default_factory=list)
    made: dict[object, str] = field(default_factory=dict)

    def overflows(self, mapped: Scalar | Formula, elem_type: int) -> bool:
        """Whether a folded number leaves the range of its type."""
        dtype = _dtype(elem_type)
        largest = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
        if isinstance(mapped, Scalar):
            return max(abs(mapped.scale), abs(mapped.shift)) > largest
        with np.errstate(over="ignore"):
            if not bool(np.isfinite(mapped.level(None).astype(dtype)).all()):
                return True
            if mapped.peak < largest / 2:
                return False
            return not bool(np.isfinite(mapped.evaluate(dtype).kernel).all())

    def emit(self, mapped: Scalar | Formula, x: str, dimensions: int, elem_type: int, value: str) -> list[NodeProto]:
        """The nodes of one map, in order, without a scalar's shift; the last one's output is the result. None for the identity."""
        if isinstance(mapped, Scalar):
            return [] if mapped.scale == 1.0 else [self._node("Mul", [x, self.number(mapped.scale, elem_type, value)], value)]
        stencil = mapped.stencil
        if stencil.is_diagonal:
            return self._scale(mapped, x, elem_type, value)
        if stencil.rank == 0:
            return self._linear(mapped, x, dimensions, elem_type, value)
        if stencil.is_upsampled:
            return [self._transposed(mapped, x, elem_type, value)]
        if _only_moves(mapped):
            return self._window(mapped, x, elem_type, value)
        return self._convolution(mapped, x, elem_type, value)

    def convolves(self, mapped: Scalar | Formula) -> bool:
        """Whether a map is written as a convolution."""
        if isinstance(mapped, Scalar) or mapped.stencil.is_diagonal or mapped.stencil.rank == 0:
            return False
        return mapped.stencil.is_upsampled or not _only_moves(mapped)

    def number(self, number: float, elem_type: int, value: str) -> str:
        """The name of a tensor that holds one number."""
        return self._small(np.asarray(number, np.float64), elem_type, f"{value}.scalar", ("number", number))

    def shape(self, value: str, sizes: Array) -> str:
        """The name of a tensor that holds a stated shape."""
        return self._store(sizes, TensorProto.INT64, f"{value}.shape", ("shape", tuple(sizes.tolist())))

    def _scale(self, formula: Formula, x: str, elem_type: int, value: str) -> list[NodeProto]:
        whole = formula.evaluate()
        shape = (-1, *([1] * formula.stencil.rank))
        base, nodes = _base(formula, value), list[NodeProto]()
        if bool((whole.kernel != 1).any()):
            scale = self._small(whole.kernel.reshape(shape), elem_type, f"{base}.weight", ("scale", formula.key))
            x = self._put(nodes, self._node("Mul", [x, scale], value))
        if bool((whole.bias != 0).any()) or not nodes:
            shift = self._small(whole.bias.reshape(shape), elem_type, f"{base}.bias", ("shift", formula.key))
            self._put(nodes, self._node("Add", [x, shift], value))
        return nodes

    def _linear(self, formula: Formula, x: str, dimensions: int, elem_type: int, value: str) -> list[NodeProto]:
        if dimensions == 2:
            inputs = [x, self._kernel(formula, elem_type, "gemm", value), self._bias(formula, elem_type, value, always=self.opset < 11)]
            return [self._node("Gemm", inputs, value, alpha=1.0, beta=1.0, transA=0, transB=1)]
        nodes: list[NodeProto] = []
        x = self._put(nodes, self._node("MatMul", [x, self._kernel(formula, elem_type, "matmul", value)], value))
        if _has_bias(formula):
            self._put(nodes, self._node("Add", [x, self._bias(formula, elem_type, value)], value))
        return nodes

    def _convolution(self, formula: Formula, x: str, elem_type: int, value: str) -> list[NodeProto]:
        stencil = formula.stencil
        pads = _padding(stencil)
        nodes: list[NodeProto] = []
        if _crops(stencil):
            x = self._put(nodes, self._crop(stencil, x, value))
        if _needs_pad(formula):
            x = self._put(nodes, self._pad(formula, pads, x, elem_type, value))
            pads = [(0, 0)] * len(pads)
        inputs = [x, self._kernel(formula, elem_type, "conv", value), self._bias(formula, elem_type, value)]
        strides = [window.stride for window in stencil.windows]
        self._put(nodes, self._node("Conv", inputs, value, strides=strides, pads=_flat(pads), **_geometry(stencil)))
        return nodes

    def _window(self, formula: Formula, x: str, elem_type: int, value: str) -> list[NodeProto]:
        nodes: list[NodeProto] = []
        if _crops(formula.stencil):
            x = self._put(nodes, self._crop(formula.stencil, x, value))
        if _pads(formula.stencil):
            self._put(nodes, self._pad(formula, _padding(formula.stencil), x, elem_type, value))
        return nodes

    def _crop(self, stencil: Stencil, x: str, value: str) -> NodeProto:
        cut = [axis for axis, window in enumerate(stencil.windows) if min(window.before, window.after) < 0]
        windows = [stencil.windows[axis] for axis in cut]
        bounds = {
            "starts": [max(0, -window.before) for window in windows],
            "ends": [window.after if window.after < 0 else END for window in windows],
            "axes": [axis + 2 for axis in cut],
        }
        if self.opset < 10:
            return self._node("Slice", [x], value, **bounds)
        names = [
            self._store(np.asarray(given, np.int64), TensorProto.INT64, f"{value}.{name}", (name, tuple(given)))
            for name, given in bounds.items()
        ]
        return self._node("Slice", [x, *names], value)

    def _transposed(self, formula: Formula, x: str, elem_type: int, value: str) -> NodeProto:
        geometry = transposed_geometry(formula.stencil)
        assert geometry is not None
        pads, extra = geometry
        inputs = [x, self._kernel(formula, elem_type, "transposed", value), self._bias(formula, elem_type, value)]
        strides = [window.upsample for window in formula.stencil.windows]
        more: dict[str, Any] = {"output_padding": extra} if any(extra) else {}
        return self._node("ConvTranspose", inputs, value, strides=strides, pads=_flat(pads), **_geometry(formula.stencil), **more)

    def _pad(self, formula: Formula, pads: Sequence[tuple[int, int]], x: str, elem_type: int, value: str) -> NodeProto:
        level = 0.0 if formula.fill is None else float(formula.fill[0])
        flat, mode = _flat([(0, 0), (0, 0), *pads]), PAD_MODES[formula.stencil.mode]
        if self.opset < 11:
            return self._node("Pad", [x], value, pads=flat, mode=mode, value=level)
        amounts = self._store(np.asarray(flat, np.int64), TensorProto.INT64, f"{value}.pads", ("pads", tuple(flat)))
        inputs = [x, amounts] if level == 0.0 else [x, amounts, self.number(level, elem_type, value)]
        return self._node("Pad", inputs, value, mode=mode)

    def _kernel(self, formula: Formula, elem_type: int, layout: str, value: str) -> str:
        key = (layout, formula.key, elem_type)
        if key not in self.made:
            stencil = formula.stencil
            shape: tuple[int, ...] = (stencil.out_channels, stencil.in_channels // stencil.groups, *stencil.taps)
            if layout == "transposed":
                shape = (stencil.in_channels, stencil.out_channels // stencil.groups, *stencil.taps)
            elif layout == "matmul":
                shape = shape[::-1]
            name = self.made[key] = self.fresh(f"{_base(formula, value)}.weight")
            tensor = TensorProto(name=name, data_type=elem_type, dims=shape)
            self.tensors.put(tensor, Folded(formula, _dtype(elem_type), layout, shape))
            self.initializers.append(tensor)
        return self.made[key]

    def _bias(self, formula: Formula, elem_type: int, value: str, *, always: bool = False) -> str:
        if not always and not _has_bias(formula):
            return ""
        return self._small(formula.level(None), elem_type, f"{_base(formula, value)}.bias", ("bias", formula.key))

    def _small(self, array: Array, elem_type: int, wish: str, key: object) -> str:
        return self._store(array.astype(_dtype(elem_type)), elem_type, wish, key)

    def _store(self, array: Array, elem_type: int, wish: str, key: object) -> str:
        if (key, elem_type) not in self.made:
            name = self.made[key, elem_type] = self.fresh(wish)
            self.initializers.append(tensor_of(name, array, elem_type))
        return self.made[key, elem_type]

    def _put(self, nodes: list[NodeProto], node: NodeProto) -> str:
        """Put a node behind others; the name of what it gives."""
        nodes.append(node)
        (output,) = node.output
        return str(output)

    def _node(self, operation: str, inputs: Sequence[str], value: str, /, **attributes: Any) -> NodeProto:
        given = list(inputs)
        while given and not given[-1]:
            given.pop()
        return helper.make_node(operation, given, [self.fresh(f"{value}.{operation.lower()}")], **attributes)


def _base(formula: Formula, value: str) -> str:
    """A name near the origin: the kernel's own, or what all that went into it have in common."""
    names = [name for leaf in formula.leaves() if not leaf.stencil.is_diagonal for name in leaf.names[:1]]
    if not names:
        names = [name for leaf in formula.leaves() for name in leaf.names[:1]]
    owners = [name.rpartition(".")[0] or name for name in dict.fromkeys(names)]
    if not owners:
        return value
    if len(owners) == 1:
        return f"{owners[0]}.folded"
    levels = zip(*(owner.split(".") for owner in owners), strict=False)
    shared = [level[0] for level in itertools.takewhile(lambda level: len(set(level)) == 1, levels)]
    return ".".join([*shared, "folded"]) if shared else f"{value}.folded"


def _geometry(stencil: Stencil) -> dict[str, Any]:
    return {"kernel_shape": list(stencil.taps), "dilations": [window.dilation for window in stencil.windows], "group": stencil.groups}


def _needs_pad(formula: Formula) -> bool:
    """Whether a padding stands in front of the convolution, which itself pads with zeros."""
    return formula.fill is not None or formula.stencil.mode != "constant"


def _only_moves(formula: Formula) -> bool:
    """Whether it crops and pads and changes no number, of those that put no zeros between items."""
    stencil = formula.stencil
    if not stencil.moves_channels_alone or any(window.stride > 1 for window in stencil.windows):
        return False
    return bool((formula.evaluate().kernel == 1).all()) and not _has_bias(formula)


def _crops(stencil: Stencil) -> bool:
    return any(min(window.before, window.after) < 0 for window in stencil.windows)


def _pads(stencil: Stencil) -> bool:
    return any(max(window.before, window.after) > 0 for window in stencil.windows)


def _padding(stencil: Stencil) -> list[tuple[int, int]]:
    return [(max(0, window.before), max(0, window.after)) for window in stencil.windows]


def _has_bias(formula: Formula) -> bool:
    return bool((formula.level(None) != 0).any())


def _flat(pairs: Sequence[tuple[int, int]]) -> list[int]:
    return [before for before, _ in pairs] + [after for _, after in pairs]


def _dtype(elem_type: int) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(elem_type))
