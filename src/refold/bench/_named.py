"""Several models as a command line names them, each with inputs that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from refold.errors import FoldError
from refold.models import NamedModel, make_inputs, read_model


def read_models(
    names: Sequence[str],
    weights: Sequence[Path] = (),
    shapes: Sequence[str] = (),
    file: Path | None = None,
    dtype: str | None = None,
) -> list[NamedModel]:
    """Read models and make the same inputs for all; `weights` go to those that are no files, in order.

    Inputs that came with one model serve those that came with none.

    Raises `FoldError` where a model, its weights or its inputs cannot be had.
    """
    files = list(weights)
    models = []
    for name in names:
        carries_its_own = Path(name).suffix.lower() in (".onnx", ".pt2")
        models.append(read_model(name, files.pop(0) if files and not carries_its_own else None))
    if files:
        taking = len(weights) - len(files)
        raise FoldError(
            f"{len(weights)} files of weights were given and {taking} of the models take one; give one --weights for each factory or timm "
            "name, in their order"
        )
    shared = next((one.example_inputs for one in models if one.example_inputs is not None and not one.is_onnx), None)
    fed = []
    for model in models:
        lent = replace(model, example_inputs=shared) if model.example_inputs is None and not model.is_onnx else model
        made = make_inputs(lent, shapes, file, dtype)
        fed.append(lent if made is None else replace(lent, example_inputs=made))
    return fed
