"""The weights of a PyTorch network one by one, and the text that a `.pt2` carries beside them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch.export import ExportedProgram

from refold.errors import VerificationError

Tensor: TypeAlias = tuple[str, str, tuple[int, ...], Any]

LABEL = "refold.certificate"
"""Name of the text among the extra files of a `.pt2`."""


def weights(model: torch.nn.Module | ExportedProgram) -> Iterator[Tensor]:
    """Name, dtype, shape and bytes of every parameter, buffer and constant; tensors of several names come under each of them."""
    if isinstance(model, ExportedProgram):
        yield from _described({**model.state_dict, **model.constants})
        return
    yield from _described({**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))})


def stored_weights(path: Path) -> Iterator[Tensor]:
    """The same of a `.safetensors`."""
    from safetensors.torch import load_file

    yield from _described(load_file(path))


def annotation(path: Path) -> str | None:
    """The text in a `.pt2`, or None where there is none or it is no archive."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            entry = next((name for name in archive.namelist() if name.endswith(f"/extra/{LABEL}")), None)
            return None if entry is None else archive.read(entry).decode()
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise VerificationError(f"the certificate in {path} is damaged: {error}; fold anew to have another") from error


def _described(tensors: Mapping[str, Any]) -> Iterator[Tensor]:
    for name, tensor in tensors.items():
        if isinstance(tensor, torch.Tensor):
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            yield name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), data
