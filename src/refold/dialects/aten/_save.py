"""Writes a PyTorch module to a file that a runtime takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from refold.dialects.aten._annotate import LABEL, Tensor, stored_weights, weights
from refold.dialects.aten._files import onnx_program, without_guard
from refold.dialects.aten._trace import export
from refold.errors import FoldError

KINDS = ("pt2", "onnx", "safetensors")


def save(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    path: str,
    kind: str,
    text_for: Callable[[Iterable[Tensor]], str] | None = None,
) -> None:
    """Write `model` as an exported program, an ONNX model or its weights alone; sizes stay free where tracing leaves them so, untried.

    `text_for` makes a text of the weights that are written: an exported program holds it, a file of weights has no room, and an ONNX
    model is given it afterwards by its own dialect.
    """
    match kind:
        case "pt2":
            with open(path, "wb") as file:  # by its path, torch would abort the process where the disk is full
                program = export(model, args, kwargs)[0]
                torch.export.save(program, file, extra_files=None if text_for is None else {LABEL: text_for(weights(program))})
        case "onnx":
            _save_onnx(model, args, kwargs, path)
        case "safetensors":
            _save_weights(model, path)
            if text_for is not None:
                text_for(stored_weights(Path(path)))
        case _:
            raise FoldError(f"a file of kind {kind!r} cannot be written; choose one of {', '.join(KINDS)}")


def _save_weights(model: torch.nn.Module, path: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    try:
        save_model(model, path)
    except SafetensorError as error:
        raise FoldError(f"the weights cannot be written: {error}") from error


def _save_onnx(model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], path: str) -> None:
    onnx_program(export(without_guard(model), args, kwargs)[0]).save(path, external_data=False)
