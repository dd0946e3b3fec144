"""Steps whose path through the network hangs on a size, and steps that compute with sizes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.fuzz.torch_network import Draft, Network, Proposal, operator

BRANCHING = ("each", "equal", "more", "unbind", "resize", "crop", "even", "loop", "recurrent")
COMPUTED = ("multiple", "half", "divided", "times", "arange", "tail", "zeros", "mask", "mean", "product")


def _propose(*kinds: str) -> Any:
    def propose(draft: Draft) -> Proposal | None:
        at = draft.pick(lambda x: 2 <= x.ndim <= 4)
        if at is None:
            return None
        x = draft.values[at]
        axis = draft.draw.randrange(x.ndim)
        return (at,), {"kind": draft.draw.one(*kinds), "axis": axis, "size": x.shape[axis], "of": draft.draw.one(2, 3, 4)}

    return propose


def _branch(network: Network, given: Any, x: Tensor) -> Any:
    axis, size = given["axis"], given["size"]
    n = x.shape[axis]
    match given["kind"]:
        case "each":
            return torch.stack([F.relu(x.select(axis, t)) * 2 for t in range(n)], axis)
        case "equal":
            return x + 1 if n == size else x * 2
        case "more":
            return x * 0.5 if n > size - 1 else -x
        case "unbind":
            return sum(torch.tanh(one) for one in x.unbind(axis))
        case "resize":
            return F.interpolate(x, size=(size,) * (x.ndim - 2)) if x.ndim > 2 and x.shape[-1] != size else x
        case "crop":
            return x.narrow(axis, 0, min(n, 5))
        case "even":
            return x * 2 if n % 2 == 0 else F.relu(x)
        case "loop":
            y = x
            for _ in range(n // 2):
                y = y * 0.5 + 1
            return y
        case _:
            state = torch.zeros_like(x.select(axis, 0))
            for t in range(n):
                state = torch.tanh(state + x.select(axis, t))
            return state


def _compute(network: Network, given: Any, x: Tensor) -> Any:
    axis, of = given["axis"], given["of"]
    n = x.shape[axis]
    match given["kind"]:
        case "multiple":
            return F.pad(x, (0, -x.shape[-1] % of))
        case "half":
            return x.narrow(axis, 0, n // 2)
        case "divided":
            return x / n
        case "times":
            return x * n + x.shape[-1]
        case "arange":
            return x + torch.arange(x.shape[-1], dtype=x.dtype)
        case "tail":
            return x[..., x.shape[-1] // of :]
        case "zeros":
            return torch.cat([x, torch.zeros(x.shape, dtype=x.dtype)], axis)
        case "mask":
            return x.masked_fill(torch.ones(x.shape[-1], x.shape[-1], dtype=torch.bool).triu(1)[-1], 0.5)
        case "mean":
            return x.sum(axis, keepdim=True) / n
        case _:
            return x.reshape(-1, x.shape[-1])


operator("branch_on_size", _propose(*BRANCHING), _branch, weight=0.5, branches=True)
operator("compute_with_size", _propose(*COMPUTED), _compute, weight=1.2)
