"""All values of a PyTorch network on given inputs, and what they become where operators of it are read otherwise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from refold.dialects.aten._constants import Constants, evaluate, widened
from refold.dialects.aten._read import operation
from refold.dialects.aten._trace import adopt, run, trace
from refold.geometry import same_padding
from refold.walk import Array, Change, Step, own_error, told_of_constant

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")

Read = Callable[[fx.Node], Any]


def walk(model: torch.nn.Module | ExportedProgram, example: Any, kwargs: Mapping[str, Any] | None = None) -> Walk:
    """Run a network on inputs as `refold.fold` takes them.

    Raises `FoldError` where it does not take them, or cannot be traced.
    """
    if isinstance(example, Mapping):
        return Walk(model, (), {**example, **(kwargs or {})})
    args = tuple(example) if isinstance(example, (tuple, list)) else () if example is None else (example,)
    return Walk(model, args, dict(kwargs or {}))


class Walk:
    """A network run once, as `refold.walk` has it."""

    def __init__(self, model: torch.nn.Module | ExportedProgram, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        traced = adopt(model) if isinstance(model, ExportedProgram) else trace(model, args, kwargs, run(model, args, kwargs))
        self._program = traced.program
        self._constants = Constants(self._program)
        self._nodes = {node.name: node for node in self._program.graph.nodes}
        self._specs = {spec.arg.name: spec for spec in self._program.graph_signature.input_specs}
        self._flat = pytree.tree_leaves((args, dict(kwargs)))
        self._values = {name: value for name, value in self._run(wide=True) if self._nodes[name] not in self._constants}
        self.outputs = self._outputs()
        self.steps: dict[str, Step] = {}
        for name, value in self._values.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                self.steps[name] = self._step(self._nodes[name], value)
        self._slacks: dict[str, float] = {}

    @property
    def inputs(self) -> dict[str, Array]:
        """What it ran on, in order."""
        names = [name for name, spec in self._specs.items() if spec.kind == InputKind.USER_INPUT]
        leaves = {name: leaf.detach().cpu() for name, leaf in zip(names, self._flat, strict=True) if isinstance(leaf, torch.Tensor)}
        return {name: (leaf.float() if leaf.dtype is torch.bfloat16 else leaf).numpy() for name, leaf in leaves.items()}

    def slack(self, name: str) -> float:
        """How far the network is off at a value in its own dtype, one rounding of the value's scale granted."""
        if not self._slacks:
            for one, own in self._run(wide=False):
                if one in self.steps:
                    eps = torch.finfo(own.dtype).eps
                    self._slacks[one] = own_error(self.steps[one].value, widened(own).detach().numpy(), eps)
        return self._slacks[name]

    def weights(self, name: str) -> Iterator[Array]:
        """The kernels and matrices that an operator reads."""
        for one in self._nodes[name].all_input_nodes:
            held = self._constants.value(one) if one in self._constants else None
            if isinstance(held, torch.Tensor) and held.is_floating_point() and held.ndim > 1:
                yield widened(held).detach().numpy()

    def again(self, region: Collection[str], changes: Mapping[str, Change]) -> dict[str, Array]:
        """The values of a region that come out otherwise; where an operator does not run, nor do those that read it."""
        values: dict[str, Any] = {}
        lost: set[str] = set()

        def read(one: fx.Node) -> Any:
            return values[one.name] if one.name in values else self._read(one)

        for node in self._with_sizes(region):
            reads = [one.name for one in node.all_input_nodes]
            if node.name not in changes and not any(name in values or name in lost for name in reads):
                continue
            try:
                if any(name in lost for name in reads):
                    raise ValueError("what it reads does not run")
                values[node.name] = _changed(node, read, changes[node.name], self._nodes) if node.name in changes else evaluate(node, read)
            except (RuntimeError, ValueError, TypeError):
                lost.add(node.name)
        return {name: value.numpy() for name, value in values.items() if name in self.steps}

    def _run(self, *, wide: bool) -> Iterator[tuple[str, Any]]:
        """Each value as it is worked out: in float64, or in the network's own dtypes, where none is kept past its last use."""
        inputs = iter(self._flat)
        values: dict[str, Any] = {}
        last = {one.name: node.name for node in self._nodes.values() for one in node.all_input_nodes}

        def read(one: fx.Node) -> Any:
            if wide and one in self._constants:
                return widened(self._constants.value(one))
            return values[one.name] if one.name in values else self._held(one)

        for node in self._nodes.values():
            if node.op == "placeholder":
                if self._specs[node.name].kind == InputKind.USER_INPUT:
                    given = next(inputs)
                    values[node.name] = widened(given) if wide else given
                elif node not in self._constants:
                    values[node.name] = widened(self._held(node)) if wide else self._held(node)
            elif node.op == "get_attr":
                values[node.name] = getattr(self._program.graph_module, str(node.target))
            elif node.op == "call_function" and not (wide and node in self._constants):
                values[node.name] = evaluate(node, read, wide=wide)
            if node.name in values:
                yield node.name, values[node.name]
            for one in node.all_input_nodes:
                if last[one.name] == node.name:
                    values.pop(one.name, None)

    def _held(self, node: fx.Node) -> Any:
        name = str(self._specs[node.name].target)
        state = self._program.state_dict
        return state[name].detach() if name in state else self._program.constants[name]

    def _outputs(self) -> list[str]:
        (results,) = self._nodes["output"].args
        assert isinstance(results, (tuple, list))
        kinds = [spec.kind for spec in self._program.graph_signature.output_specs]
        pairs = zip(results, kinds, strict=True)
        return [one.name for one, kind in pairs if kind == OutputKind.USER_OUTPUT and isinstance(one, fx.Node)]

    def _with_sizes(self, region: Collection[str]) -> list[fx.Node]:
        """The nodes of a region, and those between them that make no value of their own: tuples, sizes."""
        inside: dict[str, fx.Node] = {}
        for node in self._nodes.values():
            passes = node.op == "call_function" and node.name not in self.steps and any(one.name in inside for one in node.all_input_nodes)
            if node.name in region or passes:
                inside[node.name] = node
        return list(inside.values())

    def _reads(self, node: fx.Node) -> tuple[str, ...]:
        """The values that a node is made from, through tuples and sizes."""
        found: dict[str, None] = {}
        queue = list(node.all_input_nodes)
        while queue:
            one = queue.pop(0)
            if one.name in self.steps:
                found[one.name] = None
            elif one not in self._constants:
                queue.extend(one.all_input_nodes)
        return tuple(found)

    def _step(self, node: fx.Node, value: torch.Tensor) -> Step:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        name = "input" if node.op == "placeholder" else operation(node)
        kind, options = self._described(node, name)
        return Step(node.name, name, kind, str(stack[-1][0]) if stack else "", self._reads(node), value.numpy(), options)

    def _described(self, node: fx.Node, name: str) -> tuple[str, dict[str, Any]]:
        """The kind of a node and its options, in the words of `refold.walk`."""
        if name in CONVOLUTIONS:
            given = _arguments(node)
            kernel = self._shape(given["weight"])[2:]
            options = {option: _numbers(given[option], len(kernel)) for option in ("stride", "dilation")}
            padding = _padding(given["padding"], kernel, options["dilation"])
            return "convolution", {**options, "padding": padding, "groups": int(given["groups"]), "bias": given["bias"] is not None}
        if name == "linear" or name in TRANSPOSED:
            return "linear" if name == "linear" else "transposed_convolution", {"bias": _arguments(node)["bias"] is not None}
        if name == "batch_norm":
            given = _arguments(node)
            return name, {"eps": float(given["eps"]), "weight": given["weight"] is not None, "bias": given["bias"] is not None}
        if name == "pad":
            return name, {"mode": str(_arguments(node)["mode"])}
        if name in ("mul", "div", "add", "sub"):
            constant = next((one for one in node.all_input_nodes if one in self._constants), None)
            kept = next((one for one in node.all_input_nodes if one.name in self.steps), None)
            if constant is not None and kept is not None:
                held = self._constants.value(constant).detach()
                source = ", ".join(self._constants.sources(constant)) or constant.name
                told = told_of_constant(source, held.shape, float(held.flatten()[0]) if held.numel() else 0.0)
                return "scale" if name in ("mul", "div") else "shift", {"constant": told, "kept": kept.name}
            if name in ("add", "sub") and all(one.name in self.steps for one in node.all_input_nodes):
                return "add", {}
        return name.lower(), {}

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        value = self._constants.value(node) if node in self._constants else self._values[node.name]
        return tuple(value.shape)

    def _read(self, node: fx.Node) -> Any:
        return widened(self._constants.value(node)) if node in self._constants else self._values[node.name]


def _changed(node: fx.Node, read: Read, change: Change, nodes: Mapping[str, fx.Node]) -> Any:
    """What a node gives where it is read otherwise."""
    if isinstance(change, str):
        return read(nodes[change])
    changes: dict[str, Any] = {}
    for option, value in change.items():
        match option:
            case "padding":
                if any(before != after for before, after in value):
                    raise ValueError("a convolution of PyTorch pads both ends of an axis alike")
                changes[option] = [before for before, _ in value]
            case "stride" | "dilation":
                changes[option] = list(value)
            case "training":
                given = _arguments(node)
                stored = ("running_mean", "running_var")
                changes |= {option: value, **{name: None if given[name] is None else read(given[name]).clone() for name in stored}}
            case _:
                changes[option] = value
    given = _arguments(node)
    loaded = {name: fx.node.map_arg(argument, read) for name, argument in given.items()} | changes
    with torch.no_grad():
        result = node.target(*(loaded[name] for name in given))  # type: ignore[operator]
    return pytree.tree_map(widened, result)


def _arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of an operator by the names of its schema, with those that were not given."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = dict(zip((argument.name for argument in schema), node.args, strict=False)) | dict(node.kwargs)
    return {argument.name: given.get(argument.name, argument.default_value) for argument in schema}


def _numbers(value: Any, rank: int) -> tuple[int, ...]:
    """A number an axis, of one for all or one each."""
    numbers = [int(one) for one in ([value] if isinstance(value, int) else value)]
    return tuple(numbers * rank if len(numbers) == 1 else numbers)


def _padding(value: Any, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The padding of a convolution before and after each axis."""
    match value:
        case "valid":
            return ((0, 0),) * len(kernel)
        case "same":
            return same_padding((1,) * len(kernel), kernel, dilation=dilation, convention="torch")
    return tuple((one, one) for one in _numbers(value, len(kernel)))
