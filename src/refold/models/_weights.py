"""Weights from a file into a module: no code is run, wrappers are seen through, and every key must fit."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refold.errors import FoldError
from refold.models._words import kind_of, one_line, shape_of, torch_or_error

if TYPE_CHECKING:
    from torch import Tensor, nn

ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
WRAPPERS = ("state_dict", "model", "model_state_dict", "module", "params", "weights")
"""Names under which training code stores the weights within a checkpoint."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What `DataParallel`, `torch.compile` and Lightning put in front of every key."""


def load_weights(model: nn.Module, path: Path, name: str) -> None:
    """Fill a module with the weights of a file, all of them and no others.

    Wrappers such as `{"state_dict": …}` and prefixes such as `module.` are seen through. Raises `FoldError` where the file cannot be read
    without running code, or where the keys or shapes do not fit; `name` is what the message calls the module.
    """
    own = model.state_dict()
    state = _without_prefix(_unwrapped(_read_weights(path), path), own)
    other_shapes = [
        f"{key} ({shape_of(state[key])} in the file, {shape_of(own[key])} in the model)"
        for key in state.keys() & own.keys()
        if hasattr(own[key], "shape") and state[key].shape != own[key].shape
    ]
    missing: Sequence[str] = ()
    unexpected: Sequence[str] = ()
    complaint = ""
    try:
        missing, unexpected = model.load_state_dict(dict(state), strict=False)
    except Exception as error:
        complaint = one_line(error)
        missing = sorted(key for key in own.keys() - state.keys() if not key.endswith("num_batches_tracked"))
        unexpected = sorted(state.keys() - own.keys())
    missing = _really_missing(missing, own)
    faults = [
        _counted(missing, "missing from the file"),
        _counted(unexpected, "unknown to the model"),
        _counted(sorted(other_shapes), "of another shape"),
    ]
    if any(faults) or complaint:
        said = "; ".join(fault for fault in faults if fault) or complaint
        raise FoldError(
            f"{path.name} does not fit {name}, which has {len(own)} keys where the file has {len(state)}: {said}; "
            "build the network with the options that it was trained with, or give the weights of this one"
        )


def _read_weights(path: Path) -> Any:
    if path.suffix.lower() == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise FoldError(f"{path} is corrupt or cut off: {one_line(error)}; copy or download it again") from error
    torch = torch_or_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> FoldError:
    """Tells a pickle that would run code from a file that is broken."""
    said = str(error)
    refused = re.search(r"(?:GLOBAL|allowlist|class) [`']?([\w.]+\.[\w.]+)", said) if isinstance(error, pickle.UnpicklingError) else None
    if refused or "TorchScript" in said:
        what = f"the Python object `{refused[1]}`" if refused else "a TorchScript program"
        return FoldError(
            f"{path} holds {what} and not plain weights; refold never runs code from a weights file: "
            "load it where you trust it and save model.state_dict(), or a .safetensors"
        )
    if isinstance(error, pickle.UnpicklingError) and (operand := re.search(r"Unsupported operand \d+", said)):
        return FoldError(
            f"{path} is no checkpoint of PyTorch, or a pickle that is not plain weights ({operand[0]}); "
            "refold never runs code from a weights file: save model.state_dict() with torch.save, or a .safetensors"
        )
    return FoldError(f"{path} ({path.stat().st_size:,} bytes) is corrupt or cut off: {one_line(error)}; copy or download it again")


def _unwrapped(content: Any, path: Path) -> Mapping[str, Tensor]:
    torch = torch_or_error()
    while isinstance(content, Mapping):
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = isinstance(content, Mapping) and {str(key): one for key, one in content.items() if isinstance(one, torch.Tensor)}
    if not tensors:
        held = ", ".join(map(str, list(content)[:6])) if isinstance(content, Mapping) else kind_of(content)
        raise FoldError(f"{path} holds no weights but {held or 'nothing'}; give a file of model.state_dict()")
    return tensors


def _without_prefix(state: Mapping[str, Tensor], own: Mapping[str, Any]) -> Mapping[str, Tensor]:
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state) and not any(key.startswith(prefix) for key in own):
            return _without_prefix({key.removeprefix(prefix): tensor for key, tensor in state.items()}, own)
    return state


def _really_missing(keys: Sequence[str], own: Mapping[str, Any]) -> list[str]:
    """The keys that nothing filled: a tensor that is stored once and used under two names has one of them only in some files."""
    filled = {own[key].data_ptr() for key in own.keys() - set(keys) if hasattr(own[key], "data_ptr") and own[key].numel()}
    return [key for key in keys if not (hasattr(own.get(key), "data_ptr") and own[key].data_ptr() in filled)]


def _counted(keys: Sequence[str], what: str) -> str:
    if not keys:
        return ""
    rest = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{len(keys)} {what}: {', '.join(keys[:3])}{rest}"
