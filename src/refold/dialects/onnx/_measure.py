"""Sizes of the example that shape inference loses, measured: the model is run once on small inputs, and what comes out is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from onnx import ModelProto, ValueInfoProto

from refold.dialects.onnx._load import Source
from refold.dialects.onnx._run import Session, random_feeds
from refold.dialects.onnx._scopes import GUESSES, Scope, free_sizes, make_scopes
from refold.errors import FoldError
from refold.runtime import RuntimeDied
from refold.verification import SEED


def measured(source: Source, top: Scope) -> Scope:
    """The scopes with sizes measured where inference lost them; as they are where the model does not run.

    It is run on the inputs of the example or, where it refuses those, on others, whose sizes all values then have.
    """
    wanted = [name for name in top.lost if name in top.producers]
    if not wanted:
        return top
    shown = ModelProto()
    shown.CopyFrom(source.skeleton)
    del shown.graph.output[:]
    shown.graph.output.extend(ValueInfoProto(name=name) for name in wanted)
    try:
        session = Session(shown, source.tensors)
    except FoldError:  # told when the whole model is compared, if it is
        return top
    for one in _candidates(source.skeleton, top):
        shapes = {value.name: one.types[value.name].example for value in one.graph.input if value.name in one.types}
        try:
            results = session.run(random_feeds(source.skeleton, shapes, np.random.default_rng(SEED)))
        except RuntimeDied:
            break
        except FoldError:
            continue
        for name, result in zip(wanted, results, strict=True):
            typed = one.types.get(name)
            if typed is not None and isinstance(result, np.ndarray) and result.ndim == len(typed.shape):
                one.types[name] = replace(typed, example=result.shape)
        return one
    return top


def _candidates(model: ModelProto, top: Scope) -> Iterator[Scope]:
    yield top
    if any(True for _ in free_sizes(model)):
        yield from (make_scopes(model, (guess,))[0] for guess in GUESSES)
