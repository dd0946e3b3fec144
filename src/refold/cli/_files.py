"""The models that a command reads and the files that it may write."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refold.errors import FoldError
from refold.terminal import echo

if TYPE_CHECKING:
    from refold.models import NamedModel

ENDINGS = (".pt2", ".onnx", ".safetensors")


def read(
    name: str, weights: Path | None, shapes: Sequence[str], inputs: Path | None, dtype: str | None, quiet: bool
) -> tuple[NamedModel, Any]:
    from refold.models import make_inputs, read_model

    named = read_model(name, weights)
    tell(named, quiet)
    return named, make_inputs(named, shapes, inputs, dtype)


def tell(named: NamedModel, quiet: bool) -> None:
    for note in () if quiet else named.notes:
        echo(f"note: {note}", err=True)


def check_report(report: Path) -> None:
    """Refuse before the long work a report that could not be written after it."""
    from refold.page import check_installed

    if report.suffix.lower() not in (".html", ".htm"):
        raise FoldError(f"cannot write {report}: a report is a page; give a name that ends in .html")
    _check_place(report)
    check_installed()


def check_output(output: Path, *sources: Path | None, original: str) -> None:
    """Refuse before the long work what could not be written after it."""
    if output.suffix.lower() not in ENDINGS:
        raise FoldError(f"cannot write {output}: the ending says what to write and must be one of {', '.join(ENDINGS)}")
    if Path(original).suffix.lower() == ".onnx" and output.suffix.lower() != ".onnx":
        raise FoldError(f"cannot write {output}: what is folded from an ONNX file is one too; give a name that ends in .onnx")
    _check_place(output)
    for source in sources:
        if source is not None and output.exists() and source.exists() and output.samefile(source):
            raise FoldError(f"cannot write {output}: it is the input {source} itself, which stays as it is; choose another name")


def _check_place(file: Path) -> None:
    if file.is_dir():
        raise FoldError(f"cannot write {file}: it is a folder; name a file in it")
    if not file.parent.is_dir():
        raise FoldError(f"cannot write {file}: there is no folder {file.parent}; make it first")
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise FoldError(f"cannot write {file}: the folder {file.parent} may not be written by this user; choose another")
