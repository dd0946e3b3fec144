"""A model as a file that any runtime opens, and inputs of the sizes that it states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refold.dialects.onnx._load import load
from refold.dialects.onnx._run import Feeds, generated_feeds, given_feeds
from refold.dialects.onnx._save import save, size_of
from refold.dialects.onnx._scopes import free_sizes
from refold.errors import FoldError
from refold.verification import SEED

LARGEST = 1 << 30
"""Bytes up to which a model is written as one file."""


def as_file(model: Any, path: Path) -> Path:
    """Write a model that is in memory to `path`, with its weights beside it where they are many."""
    source = load(model)
    save(source.skeleton, source.tensors, path, external=size_of(source.skeleton, source.tensors) > LARGEST)
    return path


def feeds_for(model: Any, given: Any = None) -> Feeds:
    """Arrays by input name: those that are given, or random ones of the sizes that the model states, the batch 1 where it is free.

    Raises `FoldError` where the model leaves other sizes free and nothing is given, or what is given does not belong to it.
    """
    skeleton = load(model).skeleton
    if given is not None:
        return given_feeds(skeleton, given)[0]
    for value, axis in list(free_sizes(skeleton)):
        dim = value.type.tensor_type.shape.dim[axis]
        if dim.dim_param.isdigit():  # so torch names a size that it took for free and found to be fixed
            dim.dim_value = int(dim.dim_param)
        elif axis > 0:
            raise FoldError(f"the model leaves size {axis} of its input `{value.name}` free; give inputs, as in --input 1,3,224,224")
    return next(iter(generated_feeds(skeleton, SEED)))
