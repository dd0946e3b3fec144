"""Hostile and invalid files: exit status 2 with a sentence, nothing written, and refold alive; every eighth here, all by `make hostile`."""

from __future__ import annotations

from pathlib import Path

import pytest

import refold
from tests.dialects.onnx.models import model_of, rep_block
from tests.hostile.files import Hostile, hostile_files, sound
from tests.hostile.judge import LIMITS, complaints, in_process, in_subprocess

FILES = list(hostile_files())


@pytest.fixture(autouse=True)
def _limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LIMITS.items():
        monkeypatch.setenv(name, value)


def test_there_are_many_and_no_two_of_a_name() -> None:
    assert len(FILES) >= 200
    assert len({one.name for one in FILES}) == len(FILES)


@pytest.mark.parametrize("file", FILES[::8], ids=lambda one: one.name)
def test_in_this_process(file: Hostile, tmp_path: Path) -> None:
    assert list(complaints(file, tmp_path, in_process)) == []
    assert refold.check(model_of(*rep_block()))


@pytest.mark.parametrize("file", FILES[5::130], ids=lambda one: one.name)
def test_in_a_process_of_its_own(file: Hostile, tmp_path: Path) -> None:
    assert list(complaints(file, tmp_path, in_subprocess)) == []


def test_the_judge_objects_to_a_file_that_is_sound(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_bytes(sound().SerializeToString())

    assert next(complaints(Hostile("sound", write), tmp_path, in_process)) == "sound: fold ends with 0"
