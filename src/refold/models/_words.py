"""What errors about models have in common: names near a wrong one, an error of somebody else's in one line, a tensor in words."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from refold.errors import FoldError


def existing_file(path: str | os.PathLike[str]) -> Path:
    """The path, where a file stands there that can be read; else a `FoldError` that suggests names near it."""
    place = Path(path)
    if place.is_dir():
        raise FoldError(f"{place} is a folder; name a file in it")
    if not place.exists():
        try:
            beside = os.listdir(place.parent)
        except OSError:
            raise FoldError(f"there is no file {place}: its folder does not exist either; correct the path") from None
        raise FoldError(f"there is no file {place}; {near(place.name, beside) or 'correct the path'}")
    if not os.access(place, os.R_OK):
        raise FoldError(f"{place} may not be read by this user; change its permissions")
    return place


def torch_or_error() -> Any:
    """PyTorch, or a `FoldError` that says how to install it."""
    try:
        import torch
    except ImportError as error:
        raise FoldError(f'PyTorch models need PyTorch ({one_line(error)}); install it: pip install "refold[torch]"') from error
    return torch


def near(name: str, candidates: Iterable[str]) -> str:
    """A question that suggests the candidates most like a wrong name, or nothing.

    >>> near("resnt", ["resnet", "vgg"])
    'did you mean resnet?'
    """
    found = difflib.get_close_matches(name, list(candidates), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(found)}?" if found else ""


def one_line(error: BaseException) -> str:
    """The class of an error and the first line of what it says, or of that the first sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    said = lines[0] if len(lines[0]) <= 160 else lines[0].partition(". ")[0]
    return f"{type(error).__name__}: {said if len(said) <= 300 else said[:300] + '…'}"


def shape_of(tensor: Any) -> str:
    """The sizes of a tensor."""
    return "\N{MULTIPLICATION SIGN}".join(map(str, tensor.shape)) or "scalar"


def described(tensor: Any) -> str:
    """The sizes and the dtype of a tensor."""
    return f"{shape_of(tensor)} {str(tensor.dtype).removeprefix('torch.')}"


def kind_of(value: object) -> str:
    """The class of a value, with its article."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
