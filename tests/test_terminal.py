"""Names come from files, and nothing that a file says moves, hides or renames anything in a terminal."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

import refold
from refold import terminal
from refold.cli import main
from tests.dialects.onnx.models import batch_norm, model_of, random

EVIL = "a\x1b]0;owned\x07\x9b2Jb\u202ec"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


def named_badly(name: str = EVIL) -> Any:
    constants = {f"{name}.weight": random(8, 4, 3, 3)}
    nodes = [
        helper.make_node("Conv", ["x", f"{name}.weight"], ["c"], name=f"{name}.conv"),
        batch_norm("c", f"{name}.n", 8, constants),
        helper.make_node("Relu", [f"{name}.n"], [name], name=name),
        helper.make_node("Softplus", [name], ["y"], name=f"{name}.out"),
    ]
    return model_of(nodes, constants)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    onnx.save(named_badly(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.mark.parametrize(
    "arguments", [["check"], ["explain"], ["explain", "--quantization"], ["fold"], ["fold", "--json"], ["check", "--json"]]
)
def test_no_command_prints_control_characters(arguments: list[str], source: Path) -> None:
    output = ["-o", str(source.with_name("out.onnx"))] if arguments[0] == "fold" else []
    result = CliRunner().invoke(main, [arguments[0], str(source), *arguments[1:], *output])
    assert result.exit_code in (0, 1)
    assert "owned" in result.output or arguments == ["fold"]
    assert not RAW.search(result.output)
    if "--json" in arguments:
        assert any(EVIL in text for text in _texts(json.loads(result.stdout)))


def _texts(data: Any) -> list[str]:
    match data:
        case str():
            return [data]
        case dict():
            return [text for one in data.values() for text in _texts(one)]
        case list():
            return [text for one in data for text in _texts(one)]
    return []


def test_no_error_prints_control_characters(tmp_path: Path) -> None:
    model = named_badly()
    model.graph.node[0].input[0] = f"{EVIL}.nowhere"
    onnx.save(model, tmp_path / "m.onnx")
    result = CliRunner().invoke(main, ["check", str(tmp_path / "m.onnx")])
    assert result.exit_code == 2
    assert "\\x1b]0;owned\\x07\\x9b2Jb\\u202ec.nowhere" in result.stderr
    assert not RAW.search(result.stderr)


def test_progress_prints_none_either(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    spoken = Terminal()
    monkeypatch.setattr(sys, "stderr", spoken)
    with terminal.progress(EVIL, quiet=False) as say:
        say(EVIL)
    with terminal.bar(EVIL, 1, quiet=False) as advance:
        advance(1)
    assert "owned" in spoken.getvalue()
    assert "\x1b]0;" not in spoken.getvalue()
    assert not re.search("[\x07\x9b\u202e]", spoken.getvalue())


def test_a_name_that_is_no_text_is_printed_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.echo("file\udcff\tname\n")
    assert capsys.readouterr().out == "file\\udcff\tname\n\n"


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_json({EVIL: f"{EVIL}é"})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {EVIL: f"{EVIL}é"}
    assert not RAW.search(printed)
    assert "é" in printed


def test_no_tag_of_a_name_gets_into_a_page(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    tag = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    result = refold.fold(named_badly(tag))
    output = result.save(tmp_path / "deploy.onnx")
    text = result.save_report(tmp_path / "r.html", name=tag, output=output).read_text(encoding="utf-8")
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert "<img src=x" not in text


def test_numbers_in_names_are_left_alone() -> None:
    assert terminal.printable("é → 0.1\n\ttab") == "é → 0.1\n\ttab"
    assert np.all([terminal.printable(chr(code)) == chr(code) for code in range(32, 127)])
