"""Operators without weights that random torch networks are made of: elementwise, pooling, moving of axes, writes in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.fuzz.torch_layers import combine
from tests.fuzz.torch_network import FLOATS, Draft, Network, Proposal, operator

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "gelu": F.gelu, "silu": F.silu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "hardswish": F.hardswish,
    "abs": torch.abs, "neg": torch.neg, "clamp": lambda x: x.clamp(-1.0, 1.5), "identity": lambda x: x, "clone": torch.clone,
    "detach": lambda x: x.detach(), "contiguous": lambda x: x.contiguous(), "square": lambda x: x * x, "twice": lambda x: x + x,
    "dropout": lambda x: F.dropout(x, 0.3, training=False), "softmax": lambda x: torch.softmax(x, -1),
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "ones": lambda x: x + torch.ones_like(x), "zeros": lambda x: x + torch.zeros(x.shape[-1], dtype=x.dtype),
}  # fmt: skip


def _propose_unary(draft: Draft) -> Proposal | None:
    at = draft.pick(lambda x: x.ndim >= 1)
    return None if at is None else ((at,), {"function": draft.draw.one("relu", "relu", *UNARY)})


def _propose_number(draft: Draft) -> Proposal | None:
    at = draft.pick()
    if at is None:
        return None
    return (at,), {
        "act": draft.draw.one("add", "sub", "mul", "mul", "div", "rsub"),
        "number": draft.draw.one(0.5, 2, -1.5, 3.0, 0.1, 1, 0.0),
    }


def _run_number(network: Network, given: Any, x: Tensor) -> Any:
    if given["act"] == "div" and given["number"] == 0:
        return x / 4
    return combine(given["act"], x, given["number"])


def _propose_binary(draft: Draft) -> Proposal | None:
    """Two values of one shape, or of shapes that broadcast."""
    draw = draft.draw
    right = draft.pick()
    if right is None:
        return None
    x = draft.values[right]
    same = [n for n, y in enumerate(draft.values) if isinstance(y, Tensor) and y.shape == x.shape and y.is_floating_point() and n != right]
    near = [n for n, y in enumerate(draft.values) if isinstance(y, Tensor) and y.is_floating_point() and _broadcasts(x, y) and n != right]
    left = draw.of(same) if same and draw.chance(0.9) else draw.of(near)
    if left is None:
        return None
    return (left, right), {"act": draw.one("add", "add", "add", "add", "sub", "mul", "minimum")}


def _broadcasts(x: Tensor, y: Tensor) -> bool:
    return all(a == b or 1 in (a, b) for a, b in zip(reversed(x.shape), reversed(y.shape), strict=False))


def _propose_scalar_input(draft: Draft) -> Proposal | None:
    number = next((n for n, value in enumerate(draft.values) if isinstance(value, float)), None)
    at = draft.pick()
    return None if number is None or at is None else ((at, number), {"act": draft.draw.one("add", "mul")})


def _propose_cat(draft: Draft) -> Proposal | None:
    draw = draft.draw
    first = draft.pick(lambda x: x.ndim >= 2)
    if first is None:
        return None
    x = draft.values[first]
    axis = 1 if draw.chance(0.8) else draw.randrange(x.ndim)
    fitting = [
        n
        for n, y in enumerate(draft.values)
        if isinstance(y, Tensor)
        and y.is_floating_point()
        and y.ndim == x.ndim
        and all(a == b for i, (a, b) in enumerate(zip(x.shape, y.shape, strict=True)) if i != axis)
    ]
    parts = [draw.one(*fitting) for _ in range(draw.one(1, 1, 2))]
    return (first, *parts), {"axis": axis, "stack": draw.chance(0.1) and all(draft.values[n].shape == x.shape for n in parts)}


def _run_cat(network: Network, given: Any, *parts: Tensor) -> Tensor:
    return (torch.stack if given["stack"] else torch.cat)(parts, given["axis"])


def _propose_pool(draft: Draft) -> Proposal | None:
    draw = draft.draw
    at = draft.pick(lambda x: 3 <= x.ndim <= 5)
    if at is None:
        return None
    rank = draft.values[at].ndim - 2
    taps = draw.one(2, 2, 3)
    kind = draw.one("avg", "avg", "avg", "max", "global", "mean")
    given = {
        "kind": kind,
        "rank": rank,
        "taps": taps,
        "stride": draw.one(1, 2, taps),
        "padding": draw.one(0, 0, 1),
        "ceil": draw.chance(0.15),
        "counted": draw.chance(0.7),
    }
    given["axes"] = draw.one([-1], [-2, -1], [1], [2]) if rank > 1 else draw.one([-1], [1])
    given["keepdim"] = draw.chance(0.5)
    return (at,), given


def _run_pool(network: Network, given: Any, x: Tensor) -> Any:
    rank, taps = given["rank"], given["taps"]
    match given["kind"]:
        case "avg":
            pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
            return pool(x, taps, given["stride"], given["padding"], given["ceil"], given["counted"])
        case "max":
            most = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
            return most(x, taps, given["stride"], given["padding"], ceil_mode=given["ceil"])
        case "global":
            whole: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[rank - 1]
            return whole(x, 1)
        case _:
            return x.mean(given["axes"], keepdim=given["keepdim"])


def _propose_pad(draft: Draft) -> Proposal | None:
    draw = draft.draw
    at = draft.pick(lambda x: x.ndim >= 3)
    if at is None:
        return None
    rank = draw.one(1, draft.values[at].ndim - 2)
    mode = draw.one("constant", "constant", "constant", "reflect", "replicate", "circular")
    if mode != "constant":
        rank = draft.values[at].ndim - 2
    amounts = [draw.one(0, 1, 1, 2, -1 if mode == "constant" else 0) for _ in range(2 * rank)]
    return (at,), {"amounts": amounts, "mode": mode, "value": draw.one(0.0, 0.0, 1.0, -0.5) if mode == "constant" else None}


def _run_pad(network: Network, given: Any, x: Tensor) -> Tensor:
    return F.pad(x, given["amounts"], given["mode"], given["value"])


def _propose_slice(draft: Draft) -> Proposal | None:
    draw = draft.draw
    at = draft.pick(lambda x: x.ndim >= 2)
    if at is None:
        return None
    x = draft.values[at]
    axis = draw.one(1, draw.randrange(x.ndim))
    size = x.shape[axis]
    start, step = draw.one(None, 0, 1, -2, size // 2), draw.one(1, 1, 1, 2)
    end = draw.one(None, None, -1, size, size - 1, size // 2, 1000)
    return (at,), {
        "axis": axis,
        "bounds": [start, end, step],
        "how": draw.one("slice", "slice", "slice", "narrow", "chunk", "index", "select", "split"),
    }


def _run_slice(network: Network, given: Any, x: Tensor) -> Any:
    axis, (start, end, step) = given["axis"], given["bounds"]
    match given["how"]:
        case "slice":
            return x[(*[slice(None)] * axis, slice(start, end, step))]
        case "narrow":
            return x.narrow(axis, 0, x.shape[axis] - 1)
        case "chunk":
            return x.chunk(2, axis)[0]
        case "split":
            return x.split(2, axis)[-1]
        case "index":
            return x.index_select(axis, torch.tensor([1, 0, 1]))
        case _:
            return x.select(axis, -1)


def _propose_move(draft: Draft) -> Proposal | None:
    draw = draft.draw
    at = draft.pick(lambda x: x.ndim >= 2)
    if at is None:
        return None
    x = draft.values[at]
    order = draw.sample(range(x.ndim), x.ndim)
    how = draw.one(
        "permute",
        "permute",
        "transpose",
        "flatten",
        "flatten",
        "grouped",
        "shuffle",
        "unsqueeze",
        "squeeze",
        "last",
        "expand",
        "flip",
        "roll",
        "unflatten",
        "merge",
    )
    return (at,), {"how": how, "order": order, "axis": draw.randrange(x.ndim), "by": draw.divisor(x.shape[1]), "reshape": draw.chance(0.6)}


def _run_move(network: Network, given: Any, x: Tensor) -> Any:
    axis, by = given["axis"], given["by"]
    match given["how"]:
        case "permute":
            return x.permute(given["order"])
        case "transpose":
            return x.transpose(axis, -1)
        case "flatten":
            return x.flatten(1) if given["reshape"] else x.reshape(x.shape[0], x.shape[1], -1)
        case "grouped":
            return (
                x.reshape(x.shape[0], by, x.shape[1] // by, *x.shape[2:]) if given["reshape"] else x.view(x.shape[0], by, -1, *x.shape[2:])
            )
        case "shuffle":
            y = x.view(x.shape[0], by, x.shape[1] // by, *x.shape[2:]).transpose(1, 2)
            return y.reshape(x.shape)
        case "unsqueeze":
            return x.unsqueeze(axis)
        case "squeeze":
            return x.squeeze(-1) if given["reshape"] else x.squeeze()
        case "last":
            return x.movedim(1, -1)
        case "expand":
            return x.unsqueeze(1).expand(-1, 2, *[-1] * (x.ndim - 1))
        case "flip":
            return x.flip(axis)
        case "roll":
            return x.roll(1, axis)
        case "unflatten":
            return x.unflatten(1, (by, -1))
        case _:
            return x.flatten(0, 1)


def _propose_layout(draft: Draft) -> Proposal | None:
    at = draft.pick(lambda x: x.ndim == 4)
    return None if at is None else ((at,), {"how": draft.draw.one("contiguous", "clone", "to", "strided")})


def _run_layout(network: Network, given: Any, x: Tensor) -> Tensor:
    match given["how"]:
        case "contiguous":
            return x.contiguous(memory_format=torch.channels_last)
        case "clone":
            return x.clone(memory_format=torch.contiguous_format)
        case "to":
            return x.to(memory_format=torch.channels_last)
        case _:
            return torch.as_strided(x.contiguous(), (2, 3), (3, 1))


def _propose_cast(draft: Draft) -> Proposal | None:
    at = draft.pick()
    if at is None:
        return None
    return (at,), {"dtype": draft.draw.one("float32", "float32", "float64", *FLOATS), "how": draft.draw.one("to", "type", "like")}


def _run_cast(network: Network, given: Any, x: Tensor) -> Tensor:
    dtype = network.dtype(given["dtype"])
    return x.type(dtype) if given["how"] == "type" else x.type_as(torch.zeros((), dtype=dtype)) if given["how"] == "like" else x.to(dtype)


def _propose_mask(draft: Draft) -> Proposal | None:
    at = draft.pick(lambda x: x.dtype in (torch.float32, torch.float64))
    return None if at is None else ((at,), {"how": draft.draw.one("where", "mask", "fill")})


def _run_mask(network: Network, given: Any, x: Tensor) -> Tensor:
    match given["how"]:
        case "where":
            return torch.where(x > 0, x, x * 0.5)
        case "mask":
            return x * (x.detach() > 0).to(x.dtype)
        case _:
            return x.masked_fill(x > 1, 1.0)


def _propose_write(draft: Draft) -> Proposal | None:
    """A write to a value, or to a part of one that is seen through the whole."""
    draw = draft.draw
    at = draft.pick(lambda x: x.ndim >= 2)
    if at is None:
        return None
    x = draft.values[at]
    same = [n for n, y in enumerate(draft.values) if isinstance(y, Tensor) and y.shape == x.shape and y.dtype == x.dtype]
    how = draw.one("add", "mul", "relu", "part", "part", "half", "copy", "zero", "iadd", "fill", "select", "transposed")
    return (at, draw.one(*same) if how in ("copy", "iadd") else at), {"how": how, "whole": draw.chance(0.5), "axis": draw.randrange(x.ndim)}


def _run_write(network: Network, given: Any, x: Tensor, y: Tensor) -> Tensor:
    base, axis = x, given["axis"]
    match given["how"]:
        case "add":
            x.add_(1.0)
        case "mul":
            x.mul_(0.5)
        case "relu":
            F.relu(x, inplace=True)
        case "part":
            part = x[:, :1]
            part += 1.0
            base = x if given["whole"] else part
        case "half":
            part = x.narrow(axis, 0, x.shape[axis] // 2)
            part.mul_(-1.0)
            base = x if given["whole"] else part
        case "copy":
            x[:, :1].copy_(y[:, -1:])
        case "zero":
            x[..., 0] = 0.0
        case "iadd":
            x += y
        case "fill":
            x[:, 0].fill_(0.25)
        case "select":
            x.select(axis, -1).sigmoid_()
        case _:
            x.transpose(0, -1).add_(0.5)
    return base


def _propose_border(draft: Draft) -> Proposal | None:
    """A new tensor of zeros into which a value is written: padding by hand."""
    at = draft.pick(lambda x: x.ndim == 4 or x.ndim == 3)
    return None if at is None else ((at,), {"level": draft.draw.one(0.0, 0.0, 0.5), "like": draft.draw.chance(0.3)})


def _run_border(network: Network, given: Any, x: Tensor) -> Tensor:
    if given["like"]:
        y = torch.zeros_like(x)
        y[:, :, 1:] = x[:, :, :-1]
        return y
    y = torch.full((*x.shape[:-1], x.shape[-1] + 2), given["level"], dtype=x.dtype)
    y[..., 1:-1] = x
    return y


def _propose_resize(draft: Draft) -> Proposal | None:
    at = draft.pick(lambda x: x.ndim == 4 and x.shape[-1] <= 12)
    return None if at is None else ((at,), {"mode": draft.draw.one("nearest", "bilinear"), "by": draft.draw.one("scale", "size")})


def _run_resize(network: Network, given: Any, x: Tensor) -> Tensor:
    if given["by"] == "scale":
        return F.interpolate(x, scale_factor=2, mode=given["mode"])
    return F.interpolate(x, size=(x.shape[-2] * 2, x.shape[-1] + 1), mode=given["mode"])


operator("unary", _propose_unary, lambda network, given, x: UNARY[given["function"]](x), weight=7)
operator("number", _propose_number, _run_number, weight=3)
operator("binary", _propose_binary, lambda network, given, x, y: combine(given["act"], x, y), weight=7)
operator("scalar_input", _propose_scalar_input, lambda network, given, x, y: combine(given["act"], x, y), weight=3)
operator("cat", _propose_cat, _run_cat, weight=1.5)
operator("pool", _propose_pool, _run_pool, weight=2.5)
operator("pad", _propose_pad, _run_pad, weight=1.5)
operator("slice", _propose_slice, _run_slice, weight=2)
operator("move", _propose_move, _run_move, weight=3)
operator("layout", _propose_layout, _run_layout, weight=0.4)
operator("cast", _propose_cast, _run_cast, weight=0.8)
operator("mask", _propose_mask, _run_mask, weight=0.5)
operator("write_", _propose_write, _run_write, weight=1.5)
operator("border", _propose_border, _run_border, weight=0.5)
operator("resize", _propose_resize, _run_resize, weight=0.5)
