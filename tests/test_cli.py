"""The command line as a person meets it: results, messages, exit statuses, and what is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import refold
from refold.cli import main
from refold.errors import AlgebraError
from refold.verification import Certificate, RegionProof

pytest.importorskip("torch")
import torch
from torch import nn

NETS = """
import torch
from torch import nn

def block(): return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
def plain(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
def with_inputs(): return block(), (torch.zeros(2, 3, 8, 8),)
def raises(): raise RuntimeError("no dataset")

def other():
    net = block()
    nn.init.ones_(net[0].weight)
    return net

def spoilt():
    net = block()
    net[1].weight.data[2] = float("nan")
    return net

def chatty():
    print("building the network")
    return block()

def padded(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 16, 3, padding=1))

class Forked(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x * 3
"""

PAUSE = """
import pathlib, time
import torch
from nets import block

class Slow(torch.nn.Module):
    def forward(self, x):
        pathlib.Path("began").touch()
        time.sleep(60)

def slow(): return Slow()

def half_written():
    def save(program, path, **_):
        file = open(path, "wb") if isinstance(path, str) else path
        file.write(b"half")
        pathlib.Path("began").touch()
        time.sleep(60)
    torch.export.save = save
    return block()
"""

SHAPE = ("--input", "1,3,8,8")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own that holds `nets.py` and is the current one."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "pause.py").write_text(PAUSE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("nets", None)


def refold_(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def in_a_process(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "refold", *words], check=False, capture_output=True, text=True, **options)


def written(folder: Path) -> set[str]:
    return {name for name in os.listdir(folder) if not name.startswith("__pycache__")} - {"nets.py", "pause.py", "began"}


# The front


def test_help_loads_no_framework() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from refold.cli import main\n"
        "for words in (['--help'], ['fold', '--help'], ['-V'], ['padding', '3']): assert CliRunner().invoke(main, words).exit_code == 0\n"
        "print(sorted({'torch', 'numpy', 'onnx', 'onnxruntime', 'rich', 'safetensors'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_help_lists_every_command_and_status() -> None:
    said = refold_("--help").output
    for word in ("fold", "check", "explain", "verify", "padding", "segments", "1 check found work", "130 interrupted"):
        assert word in " ".join(said.split())
    assert "..." not in said.partition("Commands:")[2]  # no summary is cut off


def test_version() -> None:
    assert refold_("-V").output == refold_("--version").output == f"refold {refold.__version__}\n"


def test_python_dash_m() -> None:
    run = in_a_process("padding", "3", "--stride", "2")
    assert (run.returncode, run.stdout.splitlines()[0], run.stderr) == (0, "(1, 1)", "")


# Geometry


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["3", "--stride", "2"], "(1, 1)\naxis 0: ceil(n / 2) positions for every n\naxis 1: ceil(n / 2) positions for every n\n"),
        (["1", "7", "--dilation", "1,2"], "(0, 6)\naxis 0: n positions for every n\naxis 1: n positions for every n\n"),
        (
            ["4,3", "--stride", "2"],
            "(1, 1)\naxis 0: ceil(n / 2) positions for n divisible by 2\naxis 1: ceil(n / 2) positions for every n\n",
        ),
        (["3", "-q"], ""),
    ],
)
def test_padding(words: list[str], says: str) -> None:
    result = refold_("padding", *words)
    assert (result.exit_code, result.stdout) == (0, says)


def test_padding_as_json() -> None:
    assert json.loads(refold_("padding", "4", "--stride", "2", "--json").stdout) == {"padding": [1, 1], "every_size": False}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["4"], "Error: no symmetric padding keeps the size under kernel 4"),
        (["0"], "`kernel_size` (=0) must be at least 1"),
        (["three"], "`three` is not one or two whole numbers; write 3 or 1,7"),
        (["3", "3", "3"], "`3,3,3` is not one or two whole numbers"),
        (["3", "--stride", "2,"], "`2,` is not one or two whole numbers"),
        ([], "Missing argument 'KERNEL'"),
    ],
)
def test_padding_that_cannot_be_had(words: list[str], says: str) -> None:
    result = refold_("padding", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr


def test_segments() -> None:
    result = refold_("segments", "200", "4", "--first-kernel", "10")
    assert result.stdout == refold.geometry.plan_segments(200, 4, first_kernel=10).draw() + "\n"
    plan = json.loads(refold_("segments", "11", "3", "--first-kernel", "2", "--json").stdout)
    assert (plan["kernels"], plan["ranges"]) == ([2, 2], [[0, 3], [3, 7], [7, 11]])
    assert refold_("segments", "11", "3", "-q").output == ""


def test_segments_that_cannot_be_had() -> None:
    result = refold_("segments", "4", "200")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: `segments` (=200) must be at most `length` (=4)")


# Folding


def test_fold_writes_the_model_and_says_what_was_gained(folder: Path) -> None:
    result = refold_("fold", "nets:block", "-o", "deploy.pt2", *SHAPE)
    assert result.exit_code == 0, result.output
    assert "batch norms" in result.stdout
    assert "same function" in result.stdout
    assert result.stdout.splitlines()[-1] == f"written to deploy.pt2 ({(folder / 'deploy.pt2').stat().st_size:,} bytes)"
    assert result.stderr == ""
    assert written(folder) == {"deploy.pt2", "deploy.certificate.json"}
    assert refold_("verify", "nets:block", "deploy.pt2").exit_code == 0
    assert refold_("check", "deploy.pt2").exit_code == 0


def test_fold_to_onnx_can_be_verified_against_the_original() -> None:
    assert refold_("fold", "nets:block", "-o", "deploy.onnx", *SHAPE, "-q").output == ""
    result = refold_("verify", "nets:block", "deploy.onnx", "--input", "3,3,9,9")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith("same function\n")
    wrong = refold_("verify", "nets:other", "deploy.onnx", "--input", "3,3,9,9")
    assert wrong.exit_code == 3
    many = refold_("verify", "nets:block", "deploy.onnx", *SHAPE, *SHAPE)
    assert many.exit_code == 2


def test_fold_as_json(folder: Path) -> None:
    result = refold_("fold", "nets:chatty", "-o", "w.safetensors", *SHAPE, "--json")
    data = json.loads(result.stdout)
    assert (data["model"], data["output"], data["bytes"]) == ("nets:chatty", "w.safetensors", (folder / "w.safetensors").stat().st_size)
    assert (data["before"]["batch_norms"], data["after"]["batch_norms"], len(data["folds"])) == (1, 0, 1)
    assert data["certificate"]["passed"] is True
    assert result.stderr == "building the network\n"  # what a model prints stays off standard output


def test_a_report_is_a_page_beside_the_model(folder: Path) -> None:
    result = refold_("fold", "nets:with_inputs", "-o", "deploy.onnx", "--report", "report.html", "--no-latency")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "report: report.html"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<h1>nets:with_inputs</h1>" in page
    assert json.loads((folder / "deploy.certificate.json").read_text())["sha256"] in page


def test_a_model_is_written_before_its_latency_is_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring takes long; whoever has had enough of it keeps the model."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("refold.bench.bench", interrupted)
    result = refold_("fold", "nets:with_inputs", "-o", "deploy.onnx", "--report", "report.html")
    assert result.exit_code == 130
    assert (folder / "deploy.onnx").exists()
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--report", "report.pdf"], "cannot write report.pdf: a report is a page; give a name that ends in .html"),
        (["--report", "no/such/report.html"], "there is no folder no/such; make it first"),
        (["--report", "."], "cannot write .: a report is a page"),
        (["--no-latency"], "--no-latency goes with --report; add it"),
    ],
)
def test_a_report_that_cannot_be_written_is_refused_before_the_work(folder: Path, words: list[str], says: str) -> None:
    result = refold_("fold", "nets:with_inputs", "-o", "deploy.onnx", *words)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (folder / "deploy.onnx").exists()


def test_fold_without_proof() -> None:
    result = refold_("fold", "nets:with_inputs", "-o", "w.safetensors", "--no-verify", "--json")
    assert json.loads(result.stdout)["certificate"] is None
    told = refold_("fold", "nets:with_inputs", "-o", "w.safetensors", "--no-verify").stdout
    assert "not verified, and no certificate was written: --no-verify" in told


def test_a_model_with_nothing_to_fold_is_written_all_the_same(folder: Path) -> None:
    result = refold_("fold", "nets:plain", "-o", "deploy.pt2", *SHAPE)
    assert result.exit_code == 0
    assert "nothing to fold" in result.stdout
    assert written(folder) == {"deploy.pt2", "deploy.certificate.json"}


def test_inputs_and_weights_from_files(folder: Path) -> None:
    torch.save({"state_dict": nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).state_dict()}, folder / "w.pth")
    np.savez(folder / "x.npz", np.ones((2, 3, 8, 8), np.float32))
    result = refold_("fold", "nets:block", "--weights", "w.pth", "--inputs", "x.npz", "-o", "deploy.pt2", "-q")
    assert (result.exit_code, result.output) == (0, "")
    verified = refold_("verify", "nets:block", "deploy.pt2", "--weights", "w.pth")
    assert verified.exit_code == 0


def test_in_place_replaces_a_file(folder: Path) -> None:
    program = torch.export.export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval(), (torch.zeros(2, 3, 8, 8),))
    torch.export.save(program, folder / "net.pt2")
    assert refold_("check", "net.pt2").exit_code == 1
    assert refold_("fold", "net.pt2", "--in-place").exit_code == 0
    assert refold_("check", "net.pt2").exit_code == 0
    assert written(folder) == {"net.pt2", "net.certificate.json"}


def test_check_lists_what_still_folds() -> None:
    result = refold_("check", "nets:with_inputs")
    assert result.exit_code == 1
    assert "← conv2d + " in result.stdout
    assert result.stdout.endswith("1 stretch of nets:with_inputs would still fold; ship what `refold fold` makes of it\n")
    data = json.loads(refold_("check", "nets:with_inputs", "--json").stdout)
    assert (data["ready"], len(data["folds"])) == (False, 1)
    assert refold_("check", "nets:with_inputs", "-q").output == ""


def test_check_finds_nothing() -> None:
    result = refold_("check", "nets:plain", *SHAPE)
    assert (result.exit_code, result.stdout) == (0, "nothing in nets:plain folds: ready to ship\n")


def test_explain_shows_folds_and_refusals() -> None:
    said = refold_("explain", "nets:with_inputs").stdout
    for part in ("1 fold\n", "was     conv2d + ", "batch_norm 1 ← conv2d 0 ← input", "became  Conv2d, by composition", "2 → 1"):
        assert part in said
    refused = refold_("explain", "nets:padded", *SHAPE).stdout
    for part in ("1 refusal\n", "      law     composition", "      fact    ", "      remedy  "):
        assert part in refused
    assert len(json.loads(refold_("explain", "nets:padded", *SHAPE, "--json").stdout)["refusals"]) == 1
    assert "nothing to fold" in refold_("explain", "nets:plain", *SHAPE).stdout


def test_verify_that_fails() -> None:
    result = refold_("verify", "nets:block", "nets:other", *SHAPE)
    assert result.exit_code == 3
    assert "NOT the same function" in result.stdout
    assert result.stderr.startswith("Error: nets:other is not the function of nets:block: 1 of 1 output out of bounds (output); ")
    assert json.loads(refold_("verify", "nets:block", "nets:other", *SHAPE, "--json").stdout)["passed"] is False


def test_a_fold_that_is_not_proven_is_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Certificate((RegionProof("stem", ("conv2d", "batch_norm"), 0.5, 1e-7, float("inf"), 1.0),))
    monkeypatch.setattr("refold.folding.certify", lambda *_, **__: failed)
    result = refold_("fold", "nets:with_inputs", "-o", "deploy.pt2")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "Error: folding stem (conv2d, batch_norm) changed its function" in result.stderr
    assert written(folder) == set()


def test_numbers_that_json_does_not_know_become_text(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Certificate((RegionProof("stem", ("conv2d",), float("nan"), 1e-7, float("inf"), 1.0),))
    monkeypatch.setattr("refold.folding.verify", lambda *_, **__: failed)
    (region,) = json.loads(refold_("verify", "nets:block", "nets:block", *SHAPE, "--json").stdout)["regions"]
    assert (region["residual"], region["ratio"]) == ("nan", "inf")


# Bad input


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["check", "gone.pt2"], "there is no file gone.pt2"),
        (["check", "nest:block"], "there is no module `nest`; did you mean nets?"),
        (["check", "nets:raises"], "the factory nets:raises raised RuntimeError: no dataset (nets.py, line 8)"),
        (["check", "nets:block"], "nets:block says nothing of its inputs; give a shape for each, as in --input 1,3,224,224"),
        (
            ["check", "nets:block", "--input", "1,4,8,8"],
            "does not run on the example inputs (1 x 4 x 8 x 8 float32): RuntimeError: ",
        ),
        (["check", "nets:block", *SHAPE, "--dtype", "float64"], "the model does not run on the example inputs (1 x 3 x 8 x 8 float64): "),
        (["check", "nets:block", *SHAPE, "--dtype", "float65"], "`float65` is not a dtype for inputs; choose one of float16"),
        (["check", "nets:block", "--input", "big"], "`big` is not a shape; write sizes of at least 1"),
        (["check", "nets:spoilt", *SHAPE], "hold NaN or infinite numbers"),
        (["check", "nets:block", "--weights", "gone.pth", *SHAPE], "there is no file gone.pth"),
        (["check", "nets.py"], "nets.py is a file of code; name the factory in it, as in nets:factory"),
        (["check", "garbage.onnx"], "garbage.onnx"),
        (["verify", "nets:block", "gone.pt2"], "there is no file gone.pt2"),
    ],
)
def test_bad_input_is_told_in_one_message(folder: Path, words: list[str], says: str) -> None:
    (folder / "garbage.onnx").write_bytes(b"garbage" * 99)
    result = refold_(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.replace("\N{MULTIPLICATION SIGN}", "x").splitlines()
    assert line.startswith("Error: ")
    assert says.replace("\N{MULTIPLICATION SIGN}", "x") in line


def test_a_model_that_cannot_be_traced_is_told_so() -> None:
    result = refold_("check", "nets:Forked", "--input", "2,3")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith("Error: torch.export cannot trace the model: ")


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("deploy.h5", "cannot write deploy.h5: the ending says what to write and must be one of .pt2, .onnx, .safetensors"),
        ("deploy", "the ending says what to write"),
        ("taken.pt2", "cannot write taken.pt2: it is a folder; name a file in it"),
        ("gone/deploy.pt2", "cannot write gone/deploy.pt2: there is no folder gone; make it first"),
        ("w.safetensors", "cannot write w.safetensors: it is the input w.safetensors itself, which stays as it is; choose another name"),
        ("link.safetensors", "cannot write link.safetensors: it is the input w.safetensors itself"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(folder: Path, output: str, says: str) -> None:
    (folder / "taken.pt2").mkdir()
    (folder / "w.safetensors").write_bytes(b"weights")
    (folder / "link.safetensors").symlink_to("w.safetensors")
    result = refold_("fold", "nets:raises", "--weights", "w.safetensors", "-o", output)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr
    assert "no dataset" not in result.stderr
    assert (folder / "w.safetensors").read_bytes() == b"weights"


def test_a_folder_that_may_not_be_written_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    result = refold_("fold", "nets:raises", "-o", "deploy.pt2")
    assert result.exit_code == 2
    assert "cannot write deploy.pt2: the folder . may not be written by this user; choose another" in result.stderr


@pytest.mark.parametrize(("model", "output"), [("net.pt2", "net.pt2"), ("net.onnx", "net.onnx")])
def test_the_original_is_not_overwritten(folder: Path, model: str, output: str) -> None:
    (folder / model).write_bytes(b"original")
    result = refold_("fold", model, "-o", output)
    assert result.exit_code == 2
    assert "it is the input" in result.stderr
    assert (folder / model).read_bytes() == b"original"


def test_an_onnx_file_stays_one(folder: Path) -> None:
    (folder / "net.onnx").touch()
    result = refold_("fold", "net.onnx", "-o", "net.pt2")
    assert result.exit_code == 2
    assert "what is folded from an ONNX file is one too; give a name that ends in .onnx" in result.stderr


@pytest.mark.parametrize("words", [["fold", "nets:block"], ["fold", "nets:block", "-o", "a.pt2", "--in-place"]])
def test_where_to_write_is_said_once(words: list[str]) -> None:
    result = refold_(*words)
    assert result.exit_code == 2
    assert "say where to write: either -o OUT, or --in-place to replace a file MODEL itself" in result.stderr


def test_in_place_leaves_a_file_in_which_nothing_folds_and_its_certificate(folder: Path) -> None:
    assert refold_("fold", "nets:with_inputs", "-o", "once.onnx").exit_code == 0
    before = {path.name: path.read_bytes() for path in folder.glob("once*")}
    result = refold_("fold", "once.onnx", "--in-place")
    assert result.exit_code == 0
    assert result.stdout.endswith("once.onnx is left as it is\n")
    assert {path.name: path.read_bytes() for path in folder.glob("once*")} == before
    assert len(before) > 1


def test_in_place_is_for_files() -> None:
    result = refold_("fold", "nets:block", "--in-place")
    assert result.exit_code == 2
    assert "the ending says what to write" in result.stderr


@pytest.mark.parametrize("words", [["fald"], ["check"], ["check", "nets:block", "--inptu", "1"], ["segments", "ten", "3"]])
def test_misuse_exits_with_2(words: list[str]) -> None:
    result = refold_(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr


@pytest.mark.parametrize("number", [0, 1])
def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (Path.cwd() / "net.pt2").touch()
    result = refold_("check", ("nets:block", "net.pt2")[number])
    assert result.exit_code == 2
    assert 'install it: pip install "refold[torch]"' in result.stderr


# Bugs, interruptions


def test_a_bug_shows_its_traceback_and_has_a_status_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refold.folding.check", lambda *_, **__: 1 // 0)
    result = refold_("check", "nets:with_inputs")
    assert (result.exit_code, result.stdout) == (70, "")
    assert "Traceback" in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith(
        f"Error: this is a bug in refold {refold.__version__}, not a fault of yours: ZeroDivisionError; please report it, "
    )


def test_every_error_of_the_package_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AlgebraError("shapes do not match")

    monkeypatch.setattr("refold.folding.check", fail)
    result = refold_("check", "nets:with_inputs")
    assert (result.exit_code, result.stderr) == (2, "Error: shapes do not match\n")


def stopped_by(number: signal.Signals, *words: str) -> tuple[int, str, str]:
    """Run a command, send it a signal once it has begun, and give its status and what it printed."""
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from refold.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", start, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not Path("began").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
@pytest.mark.parametrize(
    ("number", "model", "status", "says"),
    [
        (signal.SIGINT, "pause:half_written", 130, "Interrupted; no half-written file is left\n"),
        (signal.SIGTERM, "pause:slow", 143, "Terminated; no half-written file is left\n"),
    ],
)
def test_an_interrupted_run_leaves_no_half_file(folder: Path, number: signal.Signals, model: str, status: int, says: str) -> None:
    assert stopped_by(number, "fold", model, "-o", "deploy.pt2", *SHAPE, "--no-verify") == (status, "", says)
    assert written(folder) == set()


def test_results_and_errors_go_their_own_ways() -> None:
    run = in_a_process("check", "nets:chatty", *SHAPE, "--json")
    assert run.returncode == 1
    assert json.loads(run.stdout)["ready"] is False
    assert run.stderr == "building the network\n"


def test_progress_is_shown_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from refold.terminal import progress

    shown: list[str] = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("rich.status.Status.update", lambda self, text: shown.append(text))
    steps: Callable[[str], None]
    with progress("reading [nets]", quiet=False) as steps:
        steps("proving region 1 of 2")
    with progress("reading", quiet=True) as steps:
        steps("unseen")
    assert shown == ["proving region 1 of 2"]
