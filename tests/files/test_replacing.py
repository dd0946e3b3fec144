"""A file is whole or not there, whatever goes wrong while it is written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import pytest

from refold.errors import FoldError
from refold.files import replacing


def failing(number: int) -> Any:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A file that stands there already."""
    file = tmp_path / "model.pt2"
    file.write_text("old")
    return file


def test_the_file_is_replaced_at_the_end_and_not_before(place: Path) -> None:
    with replacing(place) as draft:
        draft.write_text("new")
        assert draft.name == place.name  # some writers judge by the ending
        assert place.read_text() == "old"
    assert place.read_text() == "new"
    assert os.listdir(place.parent) == [place.name]


@pytest.mark.parametrize("error", [RuntimeError("half way"), KeyboardInterrupt(), SystemExit(1)])
def test_what_ends_the_writing_leaves_the_old_file_alone(place: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), replacing(place) as draft:  # noqa: PT012
        draft.write_text("half")
        draft.with_suffix(".data").write_text("more")
        raise error
    assert place.read_text() == "old"
    assert os.listdir(place.parent) == [place.name]


def test_a_new_file_that_fails_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="half way"), replacing(tmp_path / "new.pt2") as draft:  # noqa: PT012
        draft.write_text("half")
        raise RuntimeError("half way")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fills_leaves_the_old_file_whole(place: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setattr(os, step, failing(errno.ENOSPC))
    says = r"cannot write .*model\.pt2: No space left on device; what stood there before is untouched"
    with pytest.raises(FoldError, match=says), replacing(place) as draft:
        draft.write_text("new")
    assert place.read_text() == "old"
    assert os.listdir(place.parent) == [place.name]


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on the size of files stands in for a full disk")
def test_a_write_that_no_longer_fits_leaves_the_old_file_whole(place: Path) -> None:
    code = (
        "import resource, sys; from refold.files import replacing\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "with replacing(sys.argv[1]) as draft: draft.write_bytes(bytes(2000))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(place)], check=False, capture_output=True, text=True)
    assert run.stderr.splitlines()[-1].endswith("model.pt2: File too large; what stood there before is untouched")
    assert place.read_text() == "old"
    assert os.listdir(place.parent) == [place.name]


def test_a_folder_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(FoldError, match="it is a folder; name a file in it"), replacing(tmp_path):
        pass


def test_the_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(FoldError, match="No such file or directory; choose a folder that exists"), replacing(tmp_path / "no" / "model.pt2"):
        pass


def test_the_folder_must_be_writable(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "mkdtemp", failing(errno.EACCES))
    with pytest.raises(FoldError, match="Permission denied; choose a folder that exists and can be written"), replacing(place):
        pass
