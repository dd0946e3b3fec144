"""A model that is measured: what it is called, what it takes, and the form in which an engine takes it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from refold.bench._engine import Format, Task
from refold.dialects import is_onnx
from refold.errors import FoldError
from refold.models import NamedModel


@dataclass(slots=True)
class Subject:
    """A model under its name; `module` where it is PyTorch's, `file` where it is an ONNX file or was written as one.

    `refusal` is why it could not be written, so that it is not tried again.
    """

    name: str
    folder: Path
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    module: Any = None
    file: Path | None = None
    refusal: FoldError | None = None

    @property
    def batch(self) -> int | None:
        """The first size of the first input, None where that is a number alone."""
        sized = (one for one in _leaves((self.args, dict(self.kwargs))) if getattr(one, "ndim", 0) > 0)
        return next((int(one.shape[0]) for one in sized), None)

    def evaluating(self) -> AbstractContextManager[None]:
        """Within the block the model is in eval."""
        if self.module is None:
            return nullcontext()
        from refold.dialects import aten

        return aten.evaluating(self.module)

    def task(self, takes: Format, batch: int | None) -> Task:
        """The model in a format, with its inputs repeated or cut to a batch.

        Raises `FoldError` where it cannot be had in the format.
        """
        args, kwargs = self._at(batch)
        if takes == "torch":
            if self.module is None:
                raise FoldError("an ONNX file runs in onnxruntime and openvino alone; name the PyTorch model to measure it in torch")
            return Task(self.module, args, kwargs)
        from refold.dialects import onnx

        if self.module is None:
            assert self.file is not None
            return Task(self.file, (), dict(kwargs))
        if self.file is None:
            self.file = self._exported()
        arrays = [one.detach().numpy() for one in _leaves((args, kwargs)) if hasattr(one, "detach")]
        return Task(self.file, (), onnx.feeds_for(self.file, arrays))

    def _exported(self) -> Path:
        from refold.dialects import aten

        if self.refusal is not None:
            raise self.refusal
        path = self.folder / "exported.onnx"
        try:
            aten.save(self.module, self.args, self.kwargs, str(path), "onnx")
        except FoldError as error:
            self.refusal = error
            raise
        return path

    def _at(self, batch: int | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        own = self.batch
        if batch is None or own is None or batch == own:
            return self.args, dict(self.kwargs)

        def sized(leaf: Any) -> Any:
            if getattr(leaf, "ndim", 0) == 0 or leaf.shape[0] != own:
                return leaf
            repeats = math.ceil(batch / own)
            whole = np.concatenate([leaf] * repeats) if isinstance(leaf, np.ndarray) else leaf.repeat(repeats, *[1] * (leaf.ndim - 1))
            return whole[:batch]

        return tuple(_mapped(one, sized) for one in self.args), {name: _mapped(one, sized) for name, one in self.kwargs.items()}


def make_subjects(models: Mapping[str, Any] | Sequence[Any], inputs: Any, folder: Path) -> list[Subject]:
    """The models under names of their own; a `NamedModel` brings its name and its inputs, others take `inputs`.

    Raises `FoldError` where a model is of no kind that is known, or has no inputs.
    """
    if isinstance(models, Mapping):
        named = [NamedModel(name, one, inputs) for name, one in models.items()]
    else:
        named = [_named(one, inputs) for one in models]
    if not named:
        raise FoldError("there is no model to measure; name at least one")
    shared = inputs if inputs is not None else next((one.example_inputs for one in named if one.example_inputs is not None), None)
    subjects: list[Subject] = []
    taken: set[str] = set()
    for number, one in enumerate(named):
        name, count = one.name, 1
        while name in taken:
            count += 1
            name = f"{one.name} ({count})"
        taken.add(name)
        place = folder / str(number)
        place.mkdir()
        subjects.append(_subject(name, one.model, shared if one.example_inputs is None else one.example_inputs, place))
    return subjects


def _named(model: Any, inputs: Any) -> NamedModel:
    if isinstance(model, NamedModel):
        return model
    name = os.fspath(model) if isinstance(model, (str, os.PathLike)) else type(model).__name__
    return NamedModel(name, model, inputs)


def _subject(name: str, model: Any, inputs: Any, folder: Path) -> Subject:
    if is_onnx(model):
        from refold.dialects import onnx

        file = Path(model) if isinstance(model, (str, os.PathLike)) else onnx.as_file(model, folder / "given.onnx")
        try:
            return Subject(name, folder, kwargs=onnx.feeds_for(file, _as_arrays(inputs)), file=file)
        except FoldError as error:
            raise FoldError(f"{name}: {error}") from error
    import torch

    if isinstance(model, torch.export.ExportedProgram):
        args, kwargs = model.example_inputs or ((), {})
        model = model.module()
        if inputs is None:
            return Subject(name, folder, tuple(args), dict(kwargs), model)
    if not isinstance(model, torch.nn.Module):
        raise FoldError(f"a {type(model).__name__} cannot be measured; give a torch.nn.Module, an ExportedProgram or an ONNX model")
    if inputs is None:
        raise FoldError(f"{name} says nothing of its inputs; give example inputs, as in bench([model], (x,))")
    if isinstance(inputs, Mapping):
        return Subject(name, folder, (), dict(inputs), model)
    return Subject(name, folder, tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), {}, model)


def _as_arrays(inputs: Any) -> Any:
    """Tensors as arrays, in the structure that they are in; a path to an `.npz` stays one."""
    if inputs is None or isinstance(inputs, (str, os.PathLike)):
        return inputs
    return _mapped(inputs, lambda leaf: leaf.detach().cpu().numpy() if hasattr(leaf, "detach") else leaf)


def _mapped(value: Any, change: Any) -> Any:
    match value:
        case Mapping():
            return {name: _mapped(one, change) for name, one in value.items()}
        case list() | tuple():
            return type(value)([_mapped(one, change) for one in value])
    return change(value)


def _leaves(value: Any) -> list[Any]:
    match value:
        case Mapping():
            return [leaf for one in value.values() for leaf in _leaves(one)]
        case list() | tuple():
            return [leaf for one in value for leaf in _leaves(one)]
    return [value]
