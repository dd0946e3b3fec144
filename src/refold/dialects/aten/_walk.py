"""All values of a PyTorch network on given inputs, and what they would be if an operator of it had been read wrongly."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from refold.dialects.aten._constants import Constants, evaluate, widened
from refold.dialects.aten._read import operation
from refold.dialects.aten._trace import adopt, run, trace

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
WEIGHTED = (*CONVOLUTIONS, "linear", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
PLAIN_EPS = 1e-5
"""What a batch norm adds to the variance where nobody says otherwise."""

Read = Callable[[fx.Node], Any]
Change = Callable[[fx.Node, Read], Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One value: the operator that makes it and the folder of the model that it stands in, what it reads, and its numbers in float64.

    `slack` is how far the network itself, in its own dtype, is from them, one rounding of the value's scale granted.
    """

    name: str
    operation: str
    folder: str
    reads: tuple[str, ...]
    value: Any
    slack: float


def walk(model: torch.nn.Module | ExportedProgram, example: Any, kwargs: Mapping[str, Any] | None = None) -> Walk:
    """Run a network on inputs as `refold.fold` takes them."""
    if isinstance(example, Mapping):
        return Walk(model, (), {**example, **(kwargs or {})})
    args = tuple(example) if isinstance(example, (tuple, list)) else () if example is None else (example,)
    return Walk(model, args, dict(kwargs or {}))


class Walk:
    """A network run once; `steps` are its values in order, `outputs` the names of those that it gives."""

    def __init__(self, model: torch.nn.Module | ExportedProgram, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        traced = adopt(model) if isinstance(model, ExportedProgram) else trace(model, args, kwargs, run(model, args, kwargs))
        self._program = traced.program
        self._constants = Constants(self._program)
        self._nodes = {node.name: node for node in self._program.graph.nodes}
        flat = pytree.tree_leaves((args, dict(kwargs)))
        self._values = self._run(flat, wide=True)
        own = self._run(flat, wide=False)
        self.outputs = self._outputs()
        self.steps: dict[str, Step] = {}
        for name, value in self._values.items():
            node = self._nodes[name]
            if isinstance(value, torch.Tensor) and value.is_floating_point() and node not in self._constants:
                self.steps[name] = self._step(node, value, own[name])

    def explanations(self, region: Collection[str]) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
        """Each way to read operators of the region wrongly, the plainest first: in words, and the values of the region that come of it.

        Where operators are left out, the words are what these are, and between them the value that goes on in their place.
        """
        nodes = self._with_sizes(region)
        misread = ((text, None, changes) for text, changes in self._misreadings(nodes))
        for text, kept, changes in itertools.chain(misread, self._omissions(nodes)):
            with torch.no_grad():
                values = self._again(nodes, changes)
            yield text, kept, {name: value.numpy() for name, value in values.items() if isinstance(value, torch.Tensor)}

    def variants(self, name: str, other: Walk, region: Collection[str]) -> Iterator[tuple[str, Any]]:
        """The convolution `name` with options that convolutions in a region of another network have: in words, and its value."""
        node = self._nodes[name]
        if operation(node) not in CONVOLUTIONS:
            return
        own = _arguments(node)
        theirs = [_arguments(one) for one in other._nodes.values() if one.name in region and operation(one) in CONVOLUTIONS]
        choices = {
            option: list(dict.fromkeys([_pairs(own[option]), *(_pairs(one[option]) for one in theirs)]))
            for option in ("padding", "dilation", "stride")
        }
        ways = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
        every = [{option: value for option, value in way.items() if value != _pairs(own[option])} for way in ways]
        for changed in sorted(every, key=len):
            if not changed:
                continue
            lists = {option: value if isinstance(value, str) else list(value) for option, value in changed.items()}
            try:
                with torch.no_grad():
                    result = _call(node, self._read, **lists)
            except (RuntimeError, ValueError):
                continue
            told = ", ".join(f"{option} (={_told(own[option])}) where the original has {_told(value)}" for option, value in changed.items())
            yield f"lost {' and '.join(changed)}: {told}", result.numpy()

    def precision(self, name: str) -> str | None:
        """The lowest dtype that holds the weights of an operator exactly; None where it has none or none does."""
        held = [self._constants.value(one) for one in self._nodes[name].all_input_nodes if one in self._constants]
        weights = [one for one in held if isinstance(one, torch.Tensor) and one.is_floating_point() and one.ndim > 1]
        if not weights:
            return None
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            if all(torch.equal(one, one.to(dtype).to(one.dtype)) for one in weights):
                return str(dtype).removeprefix("torch.")
        return None

    def branches(self, region: Collection[str]) -> dict[str, str]:
        """The batch norms of a region, and what each of them reads."""
        nodes = [node for node in self._nodes.values() if node.name in region and operation(node) == "batch_norm"]
        return {node.name: node.all_input_nodes[0].name for node in nodes}

    def groups(self, region: Collection[str]) -> int:
        """The most groups that a convolution of the region has."""
        nodes = [node for node in self._nodes.values() if node.name in region and operation(node) in CONVOLUTIONS]
        return max((int(_arguments(node)["groups"]) for node in nodes), default=1)

    def _run(self, flat: Sequence[Any], *, wide: bool) -> dict[str, Any]:
        change: Callable[[Any], Any] = widened if wide else lambda value: value
        specs = {spec.arg.name: spec for spec in self._program.graph_signature.input_specs}
        inputs = iter(flat)
        values: dict[str, Any] = {}
        for node in self._nodes.values():
            if node.op == "placeholder":
                spec = specs[node.name]
                held = next(inputs) if spec.kind == InputKind.USER_INPUT else self._held(str(spec.target))
                values[node.name] = change(held)
            elif node.op == "get_attr":
                values[node.name] = getattr(self._program.graph_module, str(node.target))
            elif node.op == "call_function":
                values[node.name] = evaluate(node, lambda one: values[one.name], wide=wide)
        return values

    def _held(self, name: str) -> Any:
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

    def _step(self, node: fx.Node, value: torch.Tensor, own: torch.Tensor) -> Step:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        finite = value.isfinite() & own.isfinite()
        apart = (own.double() - value).abs()[finite]
        scale = float(value.abs()[finite].max()) if bool(finite.any()) else 0.0
        slack = (float(apart.max()) if apart.numel() else 0.0) + torch.finfo(own.dtype).eps / 2 * scale
        kind = "input" if node.op == "placeholder" else operation(node)
        return Step(node.name, kind, str(stack[-1][0]) if stack else "", self._reads(node), value.numpy(), slack)

    def _read(self, node: fx.Node) -> Any:
        return self._values[node.name]

    def _again(self, nodes: Sequence[fx.Node], changes: Mapping[str, Change]) -> dict[str, Any]:
        """What becomes other of the nodes; where one does not run, nor do those that read it."""
        values: dict[str, Any] = {}
        lost: set[str] = set()

        def read(one: fx.Node) -> Any:
            return values.get(one.name, self._values[one.name])

        for node in nodes:
            if node.name not in changes and not any(one.name in values or one.name in lost for one in node.all_input_nodes):
                continue
            try:
                if any(one.name in lost for one in node.all_input_nodes):
                    raise ValueError("what it reads does not run")
                values[node.name] = changes[node.name](node, read) if node.name in changes else evaluate(node, read)
            except (RuntimeError, ValueError, TypeError):
                lost.add(node.name)
        return values

    def _misreadings(self, nodes: Sequence[fx.Node]) -> Iterator[tuple[str, dict[str, Change]]]:
        norms = [node for node in nodes if operation(node) == "batch_norm"]
        weighted = [node for node in nodes if operation(node) in WEIGHTED]
        yield from _together("train-mode statistics: those of the batch, where the original uses the running ones", norms, _in_training)
        for node in nodes:
            factor = next((one for one in node.all_input_nodes if one in self._constants), None)
            if factor is None or operation(node) not in ("mul", "div"):
                continue
            numbers = self._values[factor.name]
            size = f"{float(numbers):.3g}" if numbers.numel() == 1 else f"{' x '.join(map(str, numbers.shape))} numbers"
            source = ", ".join(self._constants.sources(factor)) or factor.name
            kept = next((one for one in node.all_input_nodes if one is not factor), factor)
            yield f"missing scale: `{source}` (={size}) read as 1", {node.name: _instead(kept)}
        biased = [node for node in weighted if _arguments(node)["bias"] is not None]
        yield from _together("dropped bias of a layer", biased, _changed(bias=None))
        yield from _together("dropped bias of a batch norm", norms, _changed(bias=None))
        yield from _together("missing scale: the weight of a batch norm read as 1", norms, _changed(weight=None))
        other = [node for node in norms if _arguments(node)["eps"] != PLAIN_EPS]
        yield from _together(f"eps of a batch norm read as {PLAIN_EPS}", other, _changed(eps=PLAIN_EPS))
        modes = [node for node in nodes if operation(node) == "pad" and _arguments(node)["mode"] != "constant"]
        names = ", ".join(dict.fromkeys(str(_arguments(node)["mode"]) for node in modes))
        yield from _together(
            f"lost padding mode: zeros, where the original continues its input by {names}", modes, _changed(mode="constant")
        )
        spread = [node for node in nodes if operation(node) in CONVOLUTIONS and set(_pairs(_arguments(node)["dilation"])) != {1}]
        yield from _together("lost dilation: 1, where the original spreads its taps", spread, _dense)

    def _omissions(self, nodes: Sequence[fx.Node]) -> Iterator[tuple[str, str, dict[str, Change]]]:
        """Every value of the region in turn replaced by one that it is made from, with as little as can be between them first."""
        inside = {node.name for node in nodes}
        above = {node.name: self._above(node, inside) for node in nodes}
        found = []
        for node in nodes:
            for name in above[node.name] if node.name in self.steps else ():
                if name in self.steps and self.steps[name].value.shape == self.steps[node.name].value.shape:
                    between = [self.steps[one] for one in self.steps if one in above[node.name] and name in above.get(one, ())]
                    found.append(([*between, self.steps[node.name]], self._nodes[name]))
        for steps, root in sorted(found, key=lambda one: len(one[0])):
            folder = next((one.folder for one in steps if one.folder), "")
            told = ", ".join(one.operation for one in steps)
            yield f"{told} (in `{folder}`)" if folder else told, root.name, {steps[-1].name: _instead(root)}

    def _above(self, node: fx.Node, inside: Collection[str]) -> list[str]:
        """What a node of the region is made from, as far as the region reaches and the values that it begins with; nearest first."""
        found: dict[str, None] = {}
        queue = list(node.all_input_nodes)
        while queue:
            one = queue.pop(0)
            if one.name in found or one in self._constants:
                continue
            found[one.name] = None
            if one.name in inside:
                queue.extend(one.all_input_nodes)
        return list(found)


def _together(text: str, nodes: Sequence[fx.Node], change: Change) -> Iterator[tuple[str, dict[str, Change]]]:
    """A change of all these nodes, then of each alone."""
    if not nodes:
        return
    yield text, {node.name: change for node in nodes}
    if len(nodes) > 1:
        for node in nodes:
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            yield f"{text} (`{stack[-1][0] if stack else node.name}`)", {node.name: change}


def _changed(**options: Any) -> Change:
    return lambda node, read: _call(node, read, **options)


def _instead(other: fx.Node) -> Change:
    return lambda node, read: read(other)


def _in_training(node: fx.Node, read: Read) -> Any:
    given = _arguments(node)
    stored = {name: None if given[name] is None else read(given[name]).clone() for name in ("running_mean", "running_var")}
    return _call(node, read, training=True, **stored)


def _dense(node: fx.Node, read: Read) -> Any:
    given = _arguments(node)
    dilation, padding = _pairs(given["dilation"]), _pairs(given["padding"])
    ones = [1] * len(dilation)
    if isinstance(padding, str):
        return _call(node, read, dilation=ones)
    return _call(
        node, read, dilation=ones, padding=[pad // spread for pad, spread in zip(padding, itertools.cycle(dilation), strict=False)]
    )


def _call(node: fx.Node, read: Read, **changes: Any) -> Any:
    given = _arguments(node)
    names = list(given)
    loaded = {name: fx.node.map_arg(value, read) for name, value in given.items()} | changes
    with torch.no_grad():
        result = node.target(*(loaded[name] for name in names))  # type: ignore[operator]
    return pytree.tree_map(widened, result)


def _arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of an operator by the names of its schema, with those that were not given."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = dict(zip((argument.name for argument in schema), node.args, strict=False)) | dict(node.kwargs)
    return {argument.name: given.get(argument.name, argument.default_value) for argument in schema}


def _pairs(value: Any) -> Any:
    return value if isinstance(value, str) else tuple(int(one) for one in ([value] if isinstance(value, int) else value))


def _told(value: Any) -> str:
    pairs = _pairs(value)
    return pairs if isinstance(pairs, str) else ", ".join(map(str, pairs if len(set(pairs)) > 1 else pairs[:1]))
