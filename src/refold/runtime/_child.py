"""What runs in the process of its own: opens models in ONNX Runtime, runs them, and ends with the process that it works for."""

from __future__ import annotations

import faulthandler
import os
import queue
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from refold.runtime._frames import receive, send
from refold.runtime._limits import limit_memory
from refold.runtime._values import read_values, write_values

GRACE = 5.0
"""Seconds beyond the limit that the process at the other end is given to end this one."""


def serve(folder: str) -> None:
    """Answer requests from standard input on standard output until there are no more; `folder` is removed at the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks; it ends this one
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a runtime prints is no answer
    limit_memory()
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, folder), daemon=True).start()
    _load()
    while True:
        request = requests.get()
        # A runtime that keeps the interpreter to itself keeps the other thread from noticing that nobody waits any more.
        faulthandler.dump_traceback_later(GRACE + request["seconds"], exit=True)
        answer = _answer(request)
        faulthandler.cancel_dump_traceback_later()
        send(answers, answer)


def _read(requests: queue.SimpleQueue[Any], folder: str) -> None:
    """Take requests; where they end, so does this process, whatever it is at."""
    try:
        while (request := receive(sys.stdin.buffer)) is not None:
            requests.put(request)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)


def _load() -> None:
    """Load what every request needs, while nobody waits for it."""
    try:
        import onnxruntime  # noqa: F401
    except Exception:  # told by the request that needs it
        return


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    for number in request["closed"]:
        SESSIONS.pop(number, None)
    try:
        values = read_values(request["values"], Path(request["given"]))
        answer, results = TASKS[request["task"]](request, values)
    except Exception as error:  # a runtime raises what it likes
        return {
            "refused": str(error)[:4000] or type(error).__name__,
            "is_missing": isinstance(error, ImportError) or type(error).__name__ == "NotImplemented",
        }
    try:
        return {**answer, "values": write_values(results, Path(request["made"]))}
    except OSError as error:
        return {"unwritten": error.strerror or str(error)}
    except TypeError as error:
        return {"refused": str(error), "is_missing": True}


SESSIONS: dict[int, Any] = {}


def _open(request: dict[str, Any], values: Any) -> tuple[dict[str, Any], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, request["level"])
    options.log_severity_level = 4  # what goes wrong is raised; it need not be logged as well
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the process that asks has work for the cores too
    session = onnxruntime.InferenceSession(request["path"], options, providers=["CPUExecutionProvider"])
    number = len(SESSIONS) and max(SESSIONS) + 1
    SESSIONS[number] = session
    return {"session": number, "inputs": [one.name for one in session.get_inputs()]}, None


def _run(request: dict[str, Any], values: Any) -> tuple[dict[str, Any], Any]:
    return {}, list(SESSIONS[request["session"]].run(request["names"], values))


def _quantize(request: dict[str, Any], values: Any) -> tuple[dict[str, Any], Any]:
    import logging
    import warnings

    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    left = iter(values)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Any:
            return next(left, None)

    quantize_static(
        request["path"],
        request["target"],
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
    )
    return {}, None


def _try_openvino(request: dict[str, Any], values: Any) -> tuple[dict[str, Any], Any]:
    import openvino

    compiled = openvino.Core().compile_model(request["path"], "CPU", {"INFERENCE_NUM_THREADS": 1})
    compiled.create_infer_request().infer(values)
    return {}, None


TASKS: dict[str, Callable[[dict[str, Any], Any], tuple[dict[str, Any], Any]]] = {
    "open": _open,
    "run": _run,
    "quantize": _quantize,
    "openvino": _try_openvino,
}
