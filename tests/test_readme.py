"""The examples in the READMEs run, what they print is what the text shows, and every file they point to is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from refold.cli import main

pytest.importorskip("torch")
import torch

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = (ROOT / name for name in ("README.md", "README.zh-CN.md"))
READMES = pytest.mark.parametrize("readme", [ENGLISH, CHINESE], ids=lambda path: path.name)


def blocks(readme: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", readme.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def code(readme: Path) -> str:
    """The Python of a README without comments."""
    return re.sub(r"\s*#.*", "", "\n".join(blocks(readme, "python")))


def commands(readme: Path) -> list[tuple[str, int]]:
    """The command lines of a README that call refold, and the exit status that each announces."""
    lines = [line for block in blocks(readme, "sh") for line in block.splitlines() if line.startswith("refold ")]
    return [(line.partition("#")[0].strip(), int(found[1]) if (found := re.search(r"#\D*(\d)", line)) else 0) for line in lines]


def test_the_python_runs_and_prints_what_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for block in blocks(ENGLISH, "python"):
        exec(compile(block, ENGLISH.name, "exec"), names)
    printed = capsys.readouterr().out
    for shown in blocks(ENGLISH, "text"):
        assert shown in printed
    assert names["refold"].check("deploy.onnx") == ()
    assert names["refold"].verify(names["network"], names["result"].model, (names["images"],)).passed
    assert names["get_padding"](3, stride=2) == (1, 1)
    assert names["block"].deployed
    assert names["down"](torch.randn(8, 200, 64)).shape == (8, 4, 64)


def test_the_commands_run_and_end_as_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = commands(ENGLISH)
    assert [command.split()[1] for command, _ in found] == ["fold", "fold", "check", "check", "explain", "verify", "padding", "segments"]
    for command, status in found:
        ended = CliRunner().invoke(main, shlex.split(command)[1:])
        assert ended.exit_code == status, f"{command}\n{ended.output}"
        if status == 1:
            assert f"{re.findall('[0-9]+ stretches', ENGLISH.read_text(encoding='utf-8'))[0]} of" in ended.stdout


def test_both_languages_show_the_same_code() -> None:
    assert code(ENGLISH) == code(CHINESE)
    assert commands(ENGLISH) == commands(CHINESE)
    assert blocks(ENGLISH, "text") == blocks(CHINESE, "text")


@READMES
def test_the_figures_are_filled_in(readme: Path) -> None:
    assert "@" not in readme.read_text(encoding="utf-8")


@READMES
def test_every_link_leads_somewhere(readme: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", readme.read_text(encoding="utf-8"))
    assert len(links) >= 4
    for link in links:
        assert (ROOT / link.partition("#")[0]).exists(), link


@READMES
def test_every_name_in_it_exists(readme: Path) -> None:
    import refold

    text = readme.read_text(encoding="utf-8")
    for name in set(re.findall(r"refold\.nn\.(\w+)", text)) | set(re.findall(r"`([A-Z]\w+(?:Block|Kernel|Mixer|Conv|VGG))`", text)):
        assert hasattr(refold.nn, name), name
    for table_name in re.findall(r"`(get_padding|same_padding)`", text):
        assert hasattr(refold.geometry, table_name)
