"""Runs a function in a forked child of this process, in which what is slow to import is there already.

Nothing of refold is imported in the parent, so that each child imports its own.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import psutil

T = TypeVar("T")

MEMORY = 4 << 30
"""Bytes that a child may take beyond what this process holds: what a mutant asks for without end stops there."""


class Died(Exception):
    """A child that gave nothing back: it ran out of its time, or was killed by a signal of its own."""


def warm_up() -> None:
    """Import what the tests import, and let torch and onnx make what they make once."""
    import hypothesis.strategies
    import numpy
    import onnxruntime
    import onnxscript
    import pytest
    import torch

    del hypothesis, numpy, onnxruntime, onnxscript, pytest
    torch.set_num_threads(1)
    torch.export.export(torch.nn.Conv2d(1, 1, 1).eval(), (torch.zeros(2, 1, 2, 2),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    assert not any(name.partition(".")[0] == "refold" for name in sys.modules)


def in_child(function: Callable[[], T], seconds: float) -> T:
    """What `function` gives in a child, which is silent and ends after so many seconds. Raises `Died` where it gives nothing."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_a_child(function, writing, seconds)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe:
            given = pipe.read()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not given:
        raise Died(f"no answer within {seconds:.0f} s")
    answer: T
    fault, answer = pickle.loads(given)
    if fault:
        raise RuntimeError(f"in a child:\n{fault}")
    return answer


def _be_a_child(function: Callable[[], object], writing: int, seconds: float) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(max(1, round(seconds)))
    os.environ["HYPOTHESIS_PROFILE"] = "unshrunk"  # that a test fails is all that is asked
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    held = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    try:
        try:
            answer = pickle.dumps(("", function()))
        except BaseException:
            answer = pickle.dumps((traceback.format_exc(), None))
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(answer)
    finally:
        os._exit(0)
