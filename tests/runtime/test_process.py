"""The process that runtimes run in: it dies, hangs and is interrupted, and the one that asks goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import refold
from refold.runtime import Background, OpenSession, RuntimeDied, RuntimeRefused, _process, _scratch, scratch_file
from refold.runtime._frames import receive
from refold.runtime._values import read_values, write_values
from tests.dialects.onnx.models import model_of, rep_block

ENDLESS = 1 << 40
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals")


def saved(model: Any, path: Path) -> Path:
    onnx.save(model, path)
    return path


def lethal() -> Any:
    """BatchNormalization of opset 9 with its optional outputs named and empty, of which ONNX Runtime dies."""
    constants = {name: np.ones(4, np.float32) for name in ("scale", "bias", "mean", "var")}
    node = helper.make_node("BatchNormalization", ["x", *constants], ["y", "", "", "", ""])
    return model_of([node], constants, opset=9)


def endless(x: tuple[int, ...] = (1, 4)) -> Any:
    """x + x, over and over."""
    ends = [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("on", TensorProto.BOOL, [])]
    again = [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Add", ["a", "a"], ["b"])]
    float_in, float_out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, x) for name in "ab")
    body = helper.make_graph(again, "body", [*ends, float_in], [helper.make_tensor_value_info("still", TensorProto.BOOL, []), float_out])
    loop = helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)
    return model_of([loop], {"times": np.array(ENDLESS)}, x)


@pytest.fixture
def x() -> dict[str, Any]:
    return {"x": np.random.default_rng(0).standard_normal((1, 4, 9, 9)).astype(np.float32)}


@pytest.mark.parametrize(
    "value",
    [
        None, [1, 2.5, "text", True], {"a": [np.arange(3)], 5: {}}, np.float32(3), np.zeros((0, 3), np.float16),
        np.array([["a"], ["b"]], object),
        np.arange(6, dtype=np.float32).reshape(2, 3).T, np.ones((2, 2), np.float16),
    ],
)  # fmt: skip
def test_values_come_back_as_they_were(value: Any, tmp_path: Path) -> None:
    back = read_values(write_values(value, tmp_path / "v"), tmp_path / "v")
    if isinstance(value, (np.ndarray, np.generic)):
        assert back.dtype == value.dtype
        assert back.shape == value.shape
        np.testing.assert_array_equal(back, value)
    else:
        assert str(back) == str(value)


def test_bfloat16_comes_back(tmp_path: Path) -> None:
    import ml_dtypes

    value = np.array([1.5, 2], ml_dtypes.bfloat16)
    assert read_values(write_values(value, tmp_path / "v"), tmp_path / "v").dtype == value.dtype


def test_what_is_no_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="values of type object cannot be passed to a runtime; give arrays"):
        write_values([object()], tmp_path / "v")


def test_what_comes_back_may_be_written_to(tmp_path: Path, x: dict[str, Any]) -> None:
    (y,) = OpenSession(saved(model_of(*rep_block()), tmp_path / "m.onnx"), level="ORT_DISABLE_ALL").run(None, x)
    y += 1
    assert y.flags.writeable


@POSIX
def test_a_death_is_a_sentence_and_the_next_model_runs(tmp_path: Path, x: dict[str, Any]) -> None:
    sound = OpenSession(saved(model_of(*rep_block()), tmp_path / "sound.onnx"), level="ORT_DISABLE_ALL")
    before = sound.run(None, x)
    with pytest.raises(RuntimeDied, match=r"the runtime died by signal 11 \(Segmentation fault\) while it was (loading|running) the model"):
        OpenSession(saved(lethal(), tmp_path / "lethal.onnx"), level="ORT_DISABLE_ALL").run(None, x)
    np.testing.assert_array_equal(before[0], sound.run(None, x)[0])


@POSIX
def test_fold_says_that_the_runtime_died(tmp_path: Path) -> None:
    source = saved(lethal(), tmp_path / "lethal.onnx")
    with pytest.raises(refold.FoldError, match=r"the runtime died by signal 11 .*; the model or the runtime is at fault: try another"):
        refold.fold(source)
    assert refold.fold(model_of(*rep_block())).report.certificate is not None


def test_a_run_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFOLD_TIME_LIMIT", "2")
    session = OpenSession(saved(endless(), tmp_path / "m.onnx"), level="ORT_DISABLE_ALL")
    with pytest.raises(RuntimeDied, match="did not end within 2 seconds while it was running the model; let REFOLD_TIME_LIMIT allow more"):
        session.run(None, {"x": np.ones((1, 4), np.float32)})


@pytest.mark.parametrize("text", ["0", "-1", "soon", "inf"])
def test_a_limit_that_is_no_number(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REFOLD_TIME_LIMIT", text)
    with pytest.raises(refold.FoldError, match=r"REFOLD_TIME_LIMIT \(=.*\) must be a number above 0; unset it for the default"):
        OpenSession(saved(model_of(*rep_block()), tmp_path / "m.onnx"), level="ORT_DISABLE_ALL")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux holds a process to its share of memory")
def test_a_model_that_wants_too_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFOLD_MEMORY_LIMIT", "1")
    _process._end()
    node = helper.make_node("Expand", ["x", "shape"], ["y"])
    model = model_of([node], {"shape": np.array([1 << 12, 1 << 18])}, (1, 1))
    session = OpenSession(saved(model, tmp_path / "m.onnx"), level="ORT_DISABLE_ALL")
    with pytest.raises(RuntimeRefused, match=r"Failed to allocate memory|bad_alloc"):
        session.run(None, {"x": np.ones((1, 1), np.float32)})
    _process._end()


def test_a_file_that_the_runtime_refuses(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    with pytest.raises(RuntimeRefused, match=r"m.onnx failed"):
        OpenSession(tmp_path / "m.onnx", level="ORT_DISABLE_ALL")


def test_a_process_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    _process._end()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(refold.FoldError, match=r"cannot start the process that models are run in \(/nowhere/python\): No such file"):
        _process.ask("run", {}, None, "testing")


def test_scratch_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, x: dict[str, Any]) -> None:
    session = OpenSession(saved(model_of(*rep_block()), tmp_path / "m.onnx"), level="ORT_DISABLE_ALL")

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(_process, "write_values", full)
        with pytest.raises(refold.FoldError, match=r"cannot write scratch files for the runtime in .*: No space left on device; make room"):
            session.run(None, x)
    assert session.run(None, x)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full device")
def test_an_answer_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, x: dict[str, Any]) -> None:
    session = OpenSession(saved(model_of(*rep_block()), tmp_path / "m.onnx"), level="ORT_DISABLE_ALL")
    names = iter([scratch_file(".in"), tmp_path / "nowhere" / "out"])
    monkeypatch.setattr(_process, "scratch_file", lambda ending: next(names))
    with pytest.raises(refold.FoldError, match=r"cannot write scratch files for the runtime in .*: No such file or directory"):
        session.run(None, x)


def test_a_scratch_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_scratch, "_held", [])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(refold.FoldError, match=r"cannot write scratch files for the runtime in .*nowhere: No such file or directory"):
        scratch_file(".in")


def test_folders_of_dead_processes_are_cleared_and_those_of_living_ones_are_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(_scratch, "_held", [])
    stray, unnamed = tmp_path / "refold-runtime-dead", tmp_path / "refold-runtime-new"
    for folder in (stray, unnamed):
        folder.mkdir()
    (stray / "in-use").touch()
    living = _scratch.scratch_folder()
    code = "from refold.runtime._scratch import scratch_folder; scratch_folder()"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert living.is_dir()
    assert unnamed.is_dir()
    assert not stray.exists()
    _scratch.remove()
    assert not living.exists()


def test_threads_ask_one_at_a_time_and_get_their_own_answers(tmp_path: Path) -> None:
    path = saved(model_of([helper.make_node("Add", ["x", "one"], ["y"])], {"one": np.ones(1, np.float32)}, ("N",)), tmp_path / "m.onnx")
    wrong: list[int] = []

    def ask(number: int) -> None:
        session = OpenSession(path, level="ORT_DISABLE_ALL")
        for turn in range(20):
            (y,) = session.run(None, {"x": np.full(number + 1, turn, np.float32)})
            if y.tolist() != [turn + 1] * (number + 1):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


RUNS = """
import os, sys, threading
from pathlib import Path
import numpy as np
from refold.runtime import Background, OpenSession, _process
def ask():
    session = OpenSession(Path(sys.argv[1]), level="ORT_DISABLE_ALL")
    print(_process._current[0]._child.pid, flush=True)
    session.run(None, {"x": np.ones((1, 4), np.float32)})
if sys.argv[2] == "thread":
    thread = threading.Thread(target=ask); thread.start(); thread.join()
else:
    ask()
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks processes up in /proc")
@pytest.mark.parametrize("where", ["main", "thread"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_orphan_and_no_folder_is_left(how: signal.Signals, where: str, tmp_path: Path) -> None:
    path, folder = saved(endless(), tmp_path / "m.onnx"), tmp_path / "tmp"
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(
        [sys.executable, "-c", RUNS, str(path), where], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.2)
    assert is_running(child)
    if how == signal.SIGINT and where == "thread":
        os.kill(parent.pid, signal.SIGTERM)  # Python waits for its threads before it ends, whoever interrupts it
    else:
        os.kill(parent.pid, how)
    parent.communicate(timeout=20)
    deadline = time.monotonic() + 10
    while (is_running(child) or any(folder.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(child)
    assert list(folder.iterdir()) == []


@POSIX
def test_a_forked_process_has_one_of_its_own(tmp_path: Path) -> None:
    path = saved(model_of([helper.make_node("Relu", ["x"], ["y"])], {}, (1,)), tmp_path / "m.onnx")
    code = """
import os, sys, warnings
from pathlib import Path
import numpy as np
from refold.runtime import OpenSession
warnings.simplefilter("ignore")
session = OpenSession(Path(sys.argv[1]), level="ORT_DISABLE_ALL")
x = {"x": np.array([-1.0], np.float32)}
child = os.fork()
assert session.run(None, x)[0].tolist() == [0.0]
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
    script = subprocess.run(
        [sys.executable, "-", str(path)], input=code, text=True, capture_output=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert script.returncode == 0, script.stderr


def test_half_a_message_is_none(tmp_path: Path) -> None:
    (tmp_path / "pipe").write_bytes(b"\x05\x00\x00\x00[1")
    with (tmp_path / "pipe").open("rb") as pipe:
        assert receive(pipe) is None


def test_what_goes_wrong_in_the_background_is_raised_where_the_result_is_asked_for() -> None:
    def work() -> int:
        raise refold.FoldError("on its way")

    with pytest.raises(refold.FoldError, match="on its way"):
        Background(work).result()


def test_the_file_that_was_compared_is_the_one_that_is_saved(tmp_path: Path) -> None:
    result = refold.fold(model_of(*rep_block()))
    compared = result.deployed._drafts[0].path  # type: ignore[attr-defined]
    content = compared.read_bytes()
    assert result.save(tmp_path / "y.onnx").read_bytes().startswith(content)
    assert not compared.exists()
    assert result.save(tmp_path / "z.onnx").read_bytes().startswith(content)
