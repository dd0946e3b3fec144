"""ONNX files are folded where PyTorch is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx

from tests.dialects.onnx.models import kinds, model_of, rep_block

BLOCKED = "import sys\nsys.modules['torch'] = None\n"


def test_the_verbs_need_no_torch(tmp_path: Path) -> None:
    onnx.save(model_of(*rep_block()), tmp_path / "a.onnx")
    code = BLOCKED + (
        "import refold\n"
        "path = refold.fold(sys.argv[1]).save(sys.argv[2])\n"
        "assert refold.check(sys.argv[1]) and not refold.check(path)\n"
        "assert refold.verify(sys.argv[1], path).passed\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")], check=True)
    assert kinds(onnx.load(tmp_path / "b.onnx")) == ["Conv", "Relu"]


def test_the_command_line_needs_no_torch(tmp_path: Path) -> None:
    onnx.save(model_of(*rep_block()), tmp_path / "a.onnx")
    code = BLOCKED + "from refold.cli import main\nmain()"

    def refold(*words: str) -> int:
        return subprocess.run([sys.executable, "-c", code, *words], check=False, capture_output=True, cwd=tmp_path).returncode

    assert refold("fold", "a.onnx", "-o", "b.onnx") == 0
    assert refold("check", "a.onnx") == 1
    assert refold("check", "b.onnx") == 0
    assert refold("verify", "a.onnx", "b.onnx") == 0
    assert refold("explain", "a.onnx") == 0


def test_folding_without_verification_loads_no_runtime(tmp_path: Path) -> None:
    onnx.save(model_of(*rep_block()), tmp_path / "a.onnx")
    code = "import sys, refold\nrefold.fold(sys.argv[1], verify=False).save(sys.argv[2])\nprint(*sorted(sys.modules))"
    command = [sys.executable, "-c", code, str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "onnxruntime", "onnx_ir", "sympy"} & set(loaded)
