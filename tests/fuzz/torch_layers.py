"""Layers with weights that random torch networks are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.fuzz.torch_network import OPERATORS, Draft, Network, Proposal, dtype_name, operator

CONVS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS: dict[int, Any] = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
WIDTHS = (1, 2, 3, 4, 6, 8)


def _spatial(x: Tensor) -> bool:
    return 3 <= x.ndim <= 5


def _layer(network: Network, attributes: Any, x: Tensor) -> Any:
    return network.find(attributes)(x)


def _propose_conv(draft: Draft) -> Proposal | None:
    draw = draft.draw
    at = draft.pick(_spatial)
    if at is None:
        return None
    x = draft.values[at]
    rank, channels = x.ndim - 2, x.shape[1]
    depthwise = draw.chance(0.15)
    wanted = channels * draw.one(1, 1, 2) if depthwise else draw.one(*WIDTHS, channels)
    taps = [draw.one(1, 1, 2, 3, 3, 3, 4, 5) for _ in range(rank)]
    if draw.chance(0.7):
        taps = taps[:1] * rank
    dilation = [draw.one(1, 1, 1, 1, 2)] * rank
    stride = [draw.one(1, 1, 1, 1, 2, 3)] * rank
    mode = draw.one("zeros", "zeros", "zeros", "zeros", "zeros", "reflect", "replicate", "circular")
    padding: Any = [draw.one(0, d * (k - 1) // 2, d * (k - 1) // 2, 1) for k, d in zip(taps, dilation, strict=True)]
    if draw.chance(0.1):
        padding = draw.one("same", "valid")
    options = {
        "in_channels": channels,
        "out_channels": wanted,
        "kernel_size": taps,
        "stride": stride if padding != "same" else [1] * rank,
        "padding": padding,
        "dilation": dilation,
        "groups": channels if depthwise else draw.divisor(channels, wanted) if draw.chance(0.25) else 1,
        "bias": draw.chance(0.5),
        "padding_mode": mode,
    }
    return (at,), {"rank": rank, "options": options, "dtype": dtype_name(x), **draft.path("conv")}


def _propose_branch(draft: Draft) -> Proposal | None:
    """A convolution beside one that is there, of the same geometry at its output."""
    draw = draft.draw
    number = draw.of([number for number, step in enumerate(draft.steps) if step.operator == "conv"])
    if number is None:
        return None
    step = draft.steps[number]
    options = dict(step.attributes["options"])
    if isinstance(options["padding"], list) and options["padding_mode"] == "zeros":
        for axis, taps in enumerate(options["kernel_size"]):
            more = draw.one(-2, 0, 2)
            moved = options["padding"][axis] + more // 2 * options["dilation"][axis]
            if taps + more >= 1 and moved >= 0:
                options["kernel_size"] = [*options["kernel_size"]]
                options["kernel_size"][axis] = taps + more
                options["padding"] = [*options["padding"]]
                options["padding"][axis] = moved
    return step.reads, {"rank": step.attributes["rank"], "options": options, "dtype": step.attributes["dtype"], **draft.path("conv")}


def _propose_again(draft: Draft) -> Proposal | None:
    """A layer that is there once more, on the same or another value; or its weight in a new layer."""
    draw = draft.draw
    found = [step for step in draft.steps if step.operator in ("conv", "linear", "batch_norm")]
    step = draw.of(found)
    if step is None:
        return None
    x = draft.values[step.reads[0]]
    at = draft.pick(lambda one: one.ndim == x.ndim and one.shape[1] == x.shape[1] and one.dtype == x.dtype)
    return None if at is None else ((at,), {"of": step.operator, **step.attributes})


def _make_again(network: Network, attributes: Any) -> Any:
    make = OPERATORS[attributes["of"]].make
    assert make is not None
    return make(network, attributes)


def _make_conv(network: Network, attributes: Any) -> nn.Module:
    return CONVS[attributes["rank"]](**_tuples(attributes["options"]))  # type: ignore[no-any-return]


def _tuples(options: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def _propose_tied(draft: Draft) -> Proposal | None:
    number = draft.draw.of([number for number, step in enumerate(draft.steps) if step.operator == "conv"])
    if number is None:
        return None
    step = draft.steps[number]
    given = {**step.attributes, "tied": step.attributes["path"], **draft.path("tied")}
    return step.reads, given


def _propose_transposed(draft: Draft) -> Proposal | None:
    draw = draft.draw
    at = draft.pick(_spatial)
    if at is None:
        return None
    x = draft.values[at]
    rank, channels = x.ndim - 2, x.shape[1]
    stride = draw.one(1, 2, 2, 3)
    taps = draw.one(1, 2, 3, 4)
    wanted = draw.one(*WIDTHS)
    options = {
        "in_channels": channels,
        "out_channels": wanted,
        "kernel_size": [taps] * rank,
        "stride": [stride] * rank,
        "padding": [draw.one(0, min(1, taps - 1))] * rank,
        "output_padding": [draw.one(0, 0, min(1, stride - 1))] * rank,
        "groups": draw.divisor(channels, wanted) if draw.chance(0.2) else 1,
        "dilation": [draw.one(1, 1, 1, 2)] * rank,
        "bias": draw.chance(0.5),
    }
    return (at,), {"rank": rank, "options": options, "dtype": dtype_name(x), **draft.path("up")}


def _make_transposed(network: Network, attributes: Any) -> nn.Module:
    return TRANSPOSED[attributes["rank"]](**_tuples(attributes["options"]))  # type: ignore[no-any-return]


def _propose_linear(draft: Draft) -> Proposal | None:
    at = draft.pick(lambda x: 1 <= x.ndim <= 4)
    if at is None:
        return None
    x = draft.values[at]
    sizes = [x.shape[-1], draft.draw.one(*WIDTHS), draft.draw.chance(0.6)]
    return (at,), {"sizes": sizes, "dtype": dtype_name(x), **draft.path("linear")}


def _make_linear(network: Network, attributes: Any) -> nn.Module:
    inputs, outputs, bias = attributes["sizes"]
    return nn.Linear(inputs, outputs, bias)


def _propose_norm(draft: Draft) -> Proposal | None:
    at = draft.pick(lambda x: 2 <= x.ndim <= 5)
    if at is None:
        return None
    x = draft.values[at]
    given = {"rank": x.ndim - 2, "channels": x.shape[1], "affine": draft.draw.chance(0.85), "statistics": draft.draw.chance(0.97)}
    return (at,), {**given, "dtype": dtype_name(x), **draft.path("bn")}


def _make_norm(network: Network, attributes: Any) -> nn.Module:
    options = {"affine": attributes["affine"], "track_running_stats": attributes["statistics"]}
    return NORMS[attributes["rank"]](attributes["channels"], **options)  # type: ignore[no-any-return]


def _propose_other_norm(draft: Draft) -> Proposal | None:
    draw = draft.draw
    at = draft.pick(lambda x: 3 <= x.ndim <= 5 and x.shape[-1] > 2)
    if at is None:
        return None
    x = draft.values[at]
    kind = draw.one("group", "layer")
    sizes = [draw.divisor(x.shape[1]), x.shape[1]] if kind == "group" else [x.shape[-1]]
    return (at,), {"norm": kind, "sizes": sizes, "dtype": dtype_name(x), **draft.path("norm")}


def _make_other_norm(network: Network, attributes: Any) -> nn.Module:
    if attributes["norm"] == "group":
        return nn.GroupNorm(*attributes["sizes"])
    return nn.LayerNorm(attributes["sizes"])


def _propose_prelu(draft: Draft) -> Proposal | None:
    at = draft.pick(lambda x: x.ndim >= 2)
    if at is None:
        return None
    x = draft.values[at]
    return (at,), {"channels": draft.draw.one(1, x.shape[1]), "dtype": dtype_name(x), **draft.path("act")}


def _propose_embedding(draft: Draft) -> Proposal | None:
    at = draft.pick(lambda x: x.dtype == torch.int64, floats=False)
    if at is None:
        return None
    return (at,), {"channels": draft.draw.one(*WIDTHS), "dtype": "float32", **draft.path("embed")}


def _propose_parameter(draft: Draft) -> Proposal | None:
    """A parameter that is added, multiplied or divided by: of a number, a channel, an axis, or of the whole shape of the example."""
    draw = draft.draw
    at = draft.pick(lambda x: x.ndim >= 1)
    if at is None:
        return None
    x = draft.values[at]
    kind = draw.one("number", "number", "channel", "channel", "channel", "axis", "whole", "outer")
    axis = draw.randrange(x.ndim)
    shape: tuple[int, ...]
    match kind:
        case "number":
            shape = draw.one((), (1,))
        case "channel" if x.ndim >= 2:
            shape = (x.shape[1], *[1] * (x.ndim - 2))
        case "whole":
            shape = tuple(x.shape[draw.one(0, 1) :])
        case "outer":
            shape = (1, *x.shape)
        case _:
            shape = (x.shape[axis], *[1] * (x.ndim - 1 - axis))
    dtype = dtype_name(x) if draw.chance(0.92) else draw.one("float32", "float64")
    act = draw.one("add", "add", "sub", "mul", "mul", "div", "rsub", "addcmul")
    how = "positive" if act == "div" else draw.one("any", "any", "any", "sparse", "zero")
    return (at,), {"shape": list(shape), "act": act, "how": how, "dtype": dtype, **draft.path(draw.one("gamma", "scale", "g", "h"))}


def _make_parameter(network: Network, attributes: Any) -> nn.Parameter:
    return network.parameter(attributes["path"], tuple(attributes["shape"]), attributes["dtype"], attributes["how"])


def _run_parameter(network: Network, attributes: Any, x: Tensor) -> Tensor:
    y: Tensor = combine(attributes["act"], x, network.find(attributes))
    return y


def combine(act: str, x: Any, y: Any) -> Any:
    """Arithmetic by name."""
    match act:
        case "add":
            return x + y
        case "sub":
            return x - y
        case "mul":
            return x * y
        case "div":
            return x / y
        case "rsub":
            return torch.rsub(x, y)
        case "minimum":
            return torch.minimum(x, y)
        case "addcmul":
            return torch.addcmul(y.expand_as(x) if y.ndim <= x.ndim else y, x, y, value=2)
        case _:
            raise AssertionError(act)


def _propose_product(draft: Draft) -> Proposal | None:
    draw = draft.draw
    at = draft.pick(lambda x: 2 <= x.ndim <= 4)
    if at is None:
        return None
    x = draft.values[at]
    form = draw.one("right", "right", "left", "einsum") if x.ndim == 3 else "right"
    shape = [x.shape[-1], draw.one(*WIDTHS)] if form == "right" else [draw.one(*WIDTHS), x.shape[1]]
    return (at,), {"form": form, "shape": shape, "how": "any", "dtype": dtype_name(x), **draft.path("w")}


def _run_product(network: Network, attributes: Any, x: Tensor) -> Tensor:
    weight = network.find(attributes)
    match attributes["form"]:
        case "right":
            return x @ weight  # type: ignore[no-any-return]
        case "left":
            return weight @ x  # type: ignore[no-any-return]
        case _:
            return torch.einsum("oc,ncl->nol", weight, x)


def _propose_position(draft: Draft) -> Proposal | None:
    at = draft.pick(lambda x: x.ndim == 3)
    if at is None:
        return None
    x = draft.values[at]
    sliced = draft.draw.chance(0.8)
    shape = [1, 16 if sliced else x.shape[1], x.shape[2]]
    return (at,), {"shape": shape, "sliced": sliced, "how": "any", "dtype": dtype_name(x), **draft.path("pos")}


def _run_position(network: Network, attributes: Any, x: Tensor) -> Tensor:
    pos = network.find(attributes)
    return x + (pos[:, : x.shape[1]] if attributes["sliced"] else pos)  # type: ignore[no-any-return]


operator("conv", _propose_conv, _layer, make=_make_conv, weight=9)
operator("branch", _propose_branch, _layer, make=_make_conv, weight=4)
operator("tied", _propose_tied, _layer, make=_make_conv, weight=0.5)
operator("again", _propose_again, _layer, make=_make_again, weight=0.7)
operator("conv_transpose", _propose_transposed, _layer, make=_make_transposed, weight=1.2)
operator("linear", _propose_linear, _layer, make=_make_linear, weight=3)
operator("batch_norm", _propose_norm, _layer, make=_make_norm, weight=5)
operator("other_norm", _propose_other_norm, _layer, make=_make_other_norm, weight=0.7)
operator("prelu", _propose_prelu, _layer, make=lambda network, given: nn.PReLU(given["channels"]), weight=0.4)
operator("embedding", _propose_embedding, _layer, make=lambda network, given: nn.Embedding(16, given["channels"]), weight=3)
operator("parameter", _propose_parameter, _run_parameter, make=_make_parameter, weight=3.5)
operator("product", _propose_product, _run_product, make=_make_parameter, weight=1)
operator("position", _propose_position, _run_position, make=_make_parameter, weight=0.4)
