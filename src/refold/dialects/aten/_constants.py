"""Values of the graph that hang on parameters alone: found, named, and worked out in float64 when a map needs them."""

from __future__ import annotations

import math
import operator
from collections.abc import Container, Hashable, Iterable, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

LOW_PRECISION = (torch.float32, torch.float16, torch.bfloat16)


class Constants:
    """The constant nodes of a program.

    A parameter or buffer is constant unless the program writes to it; an operator is constant where all it reads is and it draws nothing
    at random.
    """

    def __init__(self, program: ExportedProgram) -> None:
        signature = program.graph_signature
        changed = {
            spec.target
            for spec in signature.output_specs
            if spec.kind in (OutputKind.BUFFER_MUTATION, getattr(OutputKind, "PARAMETER_MUTATION", OutputKind.BUFFER_MUTATION))
        }
        self._given: dict[str, tuple[str, torch.Tensor]] = {}
        for spec in signature.input_specs:
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR) and spec.target not in changed:
                self._given[spec.arg.name] = (spec.target, _stored(program, spec.target))
        self._constant: set[str] = set()
        self._computed: dict[str, tuple[Any, Any]] = {}
        self._keys: dict[Hashable, int] = {}
        self._numbers: dict[str, int] = {}
        for node in program.graph.nodes:
            if self._is_constant(node):
                self._constant.add(node.name)

    def __contains__(self, node: object) -> bool:
        return isinstance(node, torch.fx.Node) and node.name in self._constant

    def is_computed(self, node: object) -> bool:
        """Whether operators of the graph make it, as against a parameter that is just read."""
        return node in self and isinstance(node, torch.fx.Node) and node.op != "placeholder"

    def value(self, node: torch.fx.Node) -> Any:
        """The tensor: a parameter as it is stored, or what is computed from parameters, in float64.

        Where float64 gives more than fewer rounding errors (a cast to few bits, a threshold that a weight lies on), it is what the model
        itself computes.
        """
        for one in self._made_of(node, self._computed):
            if one.op != "placeholder":
                self._computed[one.name] = self._evaluated(one)
        return self._at_hand(node)

    def _evaluated(self, node: torch.fx.Node) -> tuple[Any, Any]:
        """What a node gives in float64, and in the dtypes of the model."""
        own = evaluate(
            node, lambda below: self._given[below.name][1] if below.op == "placeholder" else self._computed[below.name][1], wide=False
        )
        try:
            wide = evaluate(node, lambda below: widened(self._at_hand(below)))
        except RuntimeError:  # an operator that looks at bits, or takes no float64
            wide = None
        pairs = zip(_leaves(own), _leaves(wide), strict=False)
        is_finer = wide is not None and all(_is_rounded(*pair) for pair in pairs)
        return wide if is_finer else torch.utils._pytree.tree_map(widened, own), own

    def _at_hand(self, node: torch.fx.Node) -> Any:
        return self._given[node.name][1] if node.op == "placeholder" else self._computed[node.name][0]

    def forget(self) -> None:
        """Let go of what was computed."""
        self._computed.clear()

    def sources(self, node: object) -> tuple[str, ...]:
        """Names of the parameters and buffers that it hangs on."""
        return tuple(dict.fromkeys(self._given[one.name][0] for one in self._made_of(node) if one.op == "placeholder"))

    def operators(self, node: object) -> int:
        """Operators of the graph that work it out."""
        return sum(one.op != "placeholder" for one in self._made_of(node))

    def key(self, value: object) -> Hashable:
        """Equal for arguments that stand for the same numbers."""
        if isinstance(value, torch.fx.Node):
            for one in self._made_of(value, self._numbers):
                key: Hashable = (
                    ("tensor", id(self._given[one.name][1]))
                    if one.op == "placeholder"
                    else (str(one.target), self.key(one.args), self.key(one.kwargs))
                )
                self._numbers[one.name] = self._keys.setdefault(key, len(self._keys))
            return ("constant", self._numbers[value.name])
        if isinstance(value, Mapping):
            return tuple((name, self.key(one)) for name, one in value.items())
        if isinstance(value, (list, tuple)):
            return tuple(self.key(one) for one in value)
        return repr(value)

    def _made_of(self, node: object, known: Container[str] = ()) -> list[torch.fx.Node]:
        """The constant nodes that a constant hangs on, itself the last, each once and behind those that it reads; none that are `known`.

        A loop, since computed weights may hang on one another deeper than calls may go.
        """
        found: dict[torch.fx.Node, None] = {}
        stack = [node] if isinstance(node, torch.fx.Node) and node in self else []
        while stack:
            one = stack[-1]
            missing = (
                [] if one.name in known else [below for below in one.all_input_nodes if below not in found and below.name not in known]
            )
            if missing:
                stack.extend(reversed(missing))
                continue
            stack.pop()
            if one.name not in known:
                found[one] = None
        return list(found)

    def _is_constant(self, node: torch.fx.Node) -> bool:
        if node.op == "placeholder":
            return node.name in self._given
        if node.op != "call_function" or not isinstance(node.target, (torch._ops.OpOverload, type(operator.getitem))):
            return False
        if draws_at_random(node) or (isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable):
            return False
        if not all(one.name in self._constant for one in node.all_input_nodes):
            return False
        return all(isinstance(leaf, torch.Tensor) for leaf in _leaves(node.meta.get("val")))


def draws_at_random(node: torch.fx.Node) -> bool:
    """Whether an operator gives other numbers at every call."""
    if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in node.target.tags:
        return False
    return not any(name in str(node.target) for name in ("dropout", "scaled_dot_product")) or _drops(node)


def _drops(node: torch.fx.Node) -> bool:
    """Whether a dropout, or an attention with one, is active."""
    values = dict(zip((argument.name for argument in node.target._schema.arguments), node.args, strict=False)) | dict(node.kwargs)  # type: ignore[union-attr]
    return bool(values.get("train", values.get("dropout_p", 0.0)))


def _is_rounded(own: Any, wide: Any) -> bool:
    """Whether two results of one operator, in its own dtype and in float64, differ by a few roundings of the largest number at most."""
    if not isinstance(own, torch.Tensor) or not (own.is_floating_point() or own.is_complex()):
        return bool(torch.equal(own, wide)) if isinstance(own, torch.Tensor) else bool(own == wide)
    if own.shape != wide.shape:
        return False
    scale = own.abs().nan_to_num(posinf=0.0).max().item() if own.numel() else 0.0
    return torch.allclose(own.to(wide.dtype), wide, rtol=0.0, atol=2.0**8 * torch.finfo(own.dtype).eps * scale, equal_nan=True)


def widened(value: Any) -> Any:
    """A tensor of low precision in float64, anything else as it is."""
    return value.double() if isinstance(value, torch.Tensor) and value.dtype in LOW_PRECISION else value


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no number is NaN or infinite. A finite sum says so in one quick pass; only a sum that overflows needs a look at each."""
    return math.isfinite(tensor.sum(dtype=torch.float64 if tensor.numel() < 1 << 16 else None)) or bool(torch.isfinite(tensor).all())


def evaluate(node: torch.fx.Node, read: Any, *, wide: bool = True) -> Any:
    """Run one node on what `read` gives for the nodes it reads; `wide` with float64 in the place of every narrower float that it names."""

    def renamed(value: Any) -> Any:
        return torch.float64 if wide and isinstance(value, torch.dtype) and value in LOW_PRECISION else value

    args = torch.fx.node.map_aggregate(torch.fx.node.map_arg(node.args, read), renamed)
    kwargs = torch.fx.node.map_aggregate(torch.fx.node.map_arg(node.kwargs, read), renamed)
    with torch.no_grad():
        result = node.target(*args, **kwargs)  # type: ignore[operator]
    return torch.utils._pytree.tree_map(widened, result) if wide else result


def _stored(program: ExportedProgram, name: str) -> torch.Tensor:
    tensor = program.state_dict[name] if name in program.state_dict else program.constants[name]
    assert isinstance(tensor, torch.Tensor)
    return tensor


def _leaves(value: Any) -> Iterable[Any]:
    return torch.utils._pytree.tree_leaves(value)
