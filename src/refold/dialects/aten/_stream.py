"""Runs a PyTorch network on one batch of arrays after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from refold.dialects.aten._trace import run


def runner(model: torch.nn.Module | ExportedProgram) -> Callable[[Any], list[Any]]:
    """A function from a batch, arrays in order or by name, to the outputs as arrays; the network is in eval, floats come in its own dtype.

    It raises `FoldError` where the model does not take the batch.
    """
    module: Any = model.module() if isinstance(model, ExportedProgram) else model

    def run_batch(batch: Any) -> list[Any]:
        inputs = as_inputs(model, batch)
        args, kwargs = ((), inputs) if isinstance(inputs, Mapping) else (inputs, {})
        return [_as_array(leaf) for leaf in pytree.tree_leaves(run(module, args, kwargs)) if isinstance(leaf, torch.Tensor)]

    return run_batch


def as_inputs(model: torch.nn.Module | ExportedProgram, batch: Any) -> Any:
    """A batch as tensors, in order or by name as it came."""
    tensors: Iterable[Any] = model.state_dict.values() if isinstance(model, ExportedProgram) else model.state_dict().values()
    dtype = next((one.dtype for one in tensors if isinstance(one, torch.Tensor) and one.is_floating_point()), torch.float32)

    def tensor(array: Any) -> torch.Tensor:
        made = torch.from_numpy(np.ascontiguousarray(array))
        return made.to(dtype) if made.is_floating_point() else made

    return {name: tensor(one) for name, one in batch.items()} if isinstance(batch, Mapping) else tuple(tensor(one) for one in batch)


def _as_array(tensor: torch.Tensor) -> Any:
    """The numbers as NumPy knows them."""
    plain = tensor.detach().cpu()
    return (plain.float() if plain.dtype is torch.bfloat16 else plain).numpy()
