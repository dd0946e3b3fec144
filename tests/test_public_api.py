"""The public names of the package: a change here is a change that users feel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest

import refold

HOUSE = Path(refold.__file__).parent
PUBLIC = [
    "AlgebraError",
    "FoldError",
    "FoldResult",
    "GeometryError",
    "RefoldError",
    "VerificationError",
    "__version__",
    "check",
    "fold",
    "geometry",
    "nn",
    "verify",
]


def test_all_and_dir_list_the_public_names() -> None:
    assert refold.__all__ == PUBLIC
    assert dir(refold) == PUBLIC


def test_no_public_name_is_also_a_file() -> None:
    files = {path.stem for path in HOUSE.iterdir()}
    assert files & set(PUBLIC) <= {"geometry", "nn"}  # importing a file `fold` would put the module where the function belongs


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'refold' has no attribute 'fuse'"):
        _ = refold.fuse  # type: ignore[attr-defined]


def test_the_errors_are_value_errors_under_one_root() -> None:
    assert issubclass(refold.RefoldError, ValueError)
    for error in (refold.AlgebraError, refold.FoldError, refold.GeometryError, refold.VerificationError):
        assert issubclass(error, refold.RefoldError)


def test_the_verbs_are_functions_whatever_was_imported_before() -> None:
    import refold.folding

    for verb in (refold.fold, refold.check, refold.verify):
        assert isinstance(verb, FunctionType)
    assert refold.fold is refold.folding.fold
    assert isinstance(refold.FoldResult, type)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(refold, name) is not None


@pytest.mark.parametrize("statement", ["refold.nn", "from refold import nn"])
def test_without_torch_the_blocks_say_what_to_install(statement: str) -> None:
    code = f"import sys; sys.modules['torch'] = None\nimport refold\n{statement}"
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == 'ImportError: `refold.nn` needs PyTorch; install it: pip install "refold[torch]"'
