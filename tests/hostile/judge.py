"""Runs the commands over a hostile file and says what is wrong with how they end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.hostile.files import Hostile

LIMITS = {"REFOLD_TIME_LIMIT": "5", "REFOLD_MEMORY_LIMIT": "3"}
Run = Callable[[Sequence[str]], tuple[int, str]]


def in_process(arguments: Sequence[str]) -> tuple[int, str]:
    """The exit status and what was printed, in this process."""
    from click.testing import CliRunner

    from refold.cli import main

    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.output


def in_subprocess(arguments: Sequence[str]) -> tuple[int, str]:
    """The same in a process of its own."""
    environment = {**os.environ, **LIMITS, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-m", "refold", *arguments], capture_output=True, text=True, env=environment, timeout=120)
    return done.returncode, done.stdout + done.stderr


def complaints(file: Hostile, folder: Path, run: Run) -> Iterator[str]:
    """What is not as it must be: exit status 2, a sentence, nothing written."""
    path, output = folder / "m.onnx", folder / "out.onnx"
    file.write(path)
    before = sorted(os.listdir(folder))
    commands = {
        "fold": ["fold", str(path), "-o", str(output)],
        "verify": ["verify", str(path), str(path)],
        "check": ["check", str(path)],
        "explain": ["explain", str(path)],
    }
    for name, arguments in commands.items():
        status, said = run(arguments)
        allowed = (0, 1, 2) if file.runs and name in ("check", "explain") else (2,)
        if status not in allowed:
            yield f"{file.name}: {name} ends with {status}"
        if "Traceback" in said:
            yield f"{file.name}: {name} shows a traceback"
        if status == 2 and not ("Error: " in said and said.rstrip().splitlines()[-1].count(" ") > 3):
            yield f"{file.name}: {name} says no sentence: {said!r}"
        if sorted(os.listdir(folder)) != before:
            yield f"{file.name}: {name} leaves {sorted(set(os.listdir(folder)) - set(before))}"
