"""`refold bench` as a person meets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from refold.cli import main

pytest.importorskip("torch")

NETS = """
import pathlib
import torch
from torch import nn

def block(): return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()), (torch.zeros(1, 3, 8, 8),)
def plain(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())

class Slow(nn.Module):
    runs = 0
    def forward(self, x):
        Slow.runs += 1
        if Slow.runs == 5:
            pathlib.Path("began").touch()
        return x

def slow(): return Slow(), (torch.zeros(1, 3, 8, 8),)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bench_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "bench_nets", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def refold(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", *arguments])


def test_two_models_side_by_side() -> None:
    result = refold("bench_nets:block", "bench_nets:plain", "--engine", "torch,onnxruntime", "--batch", "1,2", "--seconds", "0.02")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("bench_nets:block ÷ bench_nets:plain") == 4
    assert "onnxruntime" in result.stdout
    assert "batch 2, 1 thread" in result.stdout


def test_json() -> None:
    result = refold("bench_nets:block", "--engine", "torch", "--seconds", "0.02", "--no-floor", "--json")
    data = json.loads(result.stdout)
    assert data["is_complete"] is True
    assert data["measurements"][0]["floor"] is None
    assert data["measurements"][0]["latency"]["median"] > 0


def test_weights_go_to_the_models_that_take_them() -> None:
    import torch

    torch.save({"0.weight": torch.zeros(4, 3, 3, 3), "0.bias": torch.zeros(4)}, "plain.pth")
    fits = refold("bench_nets:plain", "--weights", "plain.pth", "--input", "1,3,8,8", "--engine", "torch", "--seconds", "0.02")
    assert fits.exit_code == 0, fits.output
    many = refold("bench_nets:plain", "--weights", "plain.pth", "--weights", "plain.pth", "--input", "1,3,8,8")
    assert many.exit_code == 2
    assert "2 files of weights were given and 1 of the models take one" in many.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("bench_nets:plain",), "bench_nets:plain says nothing of its inputs"),
        (("bench_nets:block", "--engine", "tensorrt"), "`tensorrt` is no engine"),
        (("bench_nets:block", "--batch", "one"), "`one` is not a list of whole numbers; write 1 or 1,8"),
        (("nothing.onnx",), "there is no file nothing.onnx"),
        (("bench_nets:block", "--batch", "0"), "`batch` (=0) must be at least 1"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], says: str) -> None:
    result = refold(*arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())


def test_where_nothing_runs_the_status_is_that_of_bad_input() -> None:
    refold_file = CliRunner().invoke(main, ["fold", "bench_nets:block", "-o", "deploy.onnx", "-q"])
    assert refold_file.exit_code == 0, refold_file.output
    result = refold("deploy.onnx", "--input", "1,3,8,8", "--engine", "torch")
    assert result.exit_code == 2
    assert "failed: deploy.onnx in torch" in result.stdout
    assert "Error: nothing was measured; name an engine that is installed and runs the model" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_prints_what_was_measured(folder: Path, sent: signal.Signals, status: int) -> None:
    # A shell that runs this in the background has children ignore SIGINT, so the process takes it up again itself.
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from refold.cli import main; main()"
    words = ["bench", "bench_nets:slow", "--engine", "torch", "--seconds", "600", "--no-floor"]
    process = subprocess.Popen([sys.executable, "-c", start, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "began").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)  # the warm-up is a share of the measuring time
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == status, err
    assert "bench_nets:slow" in out
    assert "interrupted: this is what was measured until then" in out
    assert "Traceback" not in err
