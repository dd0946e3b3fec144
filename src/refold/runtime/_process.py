"""The process that runtimes run in: started when it is first needed, asked one thing at a time, started anew after it has died."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from refold.errors import FoldError
from refold.runtime import _limits
from refold.runtime._frames import receive, send
from refold.runtime._scratch import cannot_write, scratch_file, scratch_folder
from refold.runtime._values import read_values, write_values

BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from refold.runtime._child import serve; serve(*sys.argv[2:])"
"""Not `-m`: the child finds what this process finds, however its path came about."""


class RuntimeDied(FoldError):
    """A runtime ended its process, or was ended because it took too long."""


class RuntimeRefused(Exception):
    """What a runtime raised, in its own words; `is_missing` where it lacks something and the model is not at fault."""

    def __init__(self, words: str, *, is_missing: bool = False) -> None:
        super().__init__(words)
        self.is_missing = is_missing


class ProcessGone(Exception):
    """The process that has a session is no more, and the session with it."""


class Process:
    """The child process and the pipes to it. `number` counts the children of this process, for sessions to know theirs."""

    _count = 0

    def __init__(self) -> None:
        Process._count += 1
        self.number = Process._count
        folder = scratch_folder()
        self._said = folder / f"said-{self.number}.txt"
        command = [sys.executable, "-P", "-c", BOOT, json.dumps([str(one) for one in sys.path]), str(folder)]
        environment = {**os.environ, "TMPDIR": str(folder)}  # what a runtime leaves there goes with the folder
        try:
            with self._said.open("wb") as said:
                pipe = subprocess.PIPE
                self._child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=said, env=environment)
        except OSError as error:
            raise FoldError(
                f"cannot start the process that models are run in ({sys.executable}): {error.strerror or error}; "
                "free memory or processes, or fold with verify=False"
            ) from error

    def ask(self, task: str, request: dict[str, Any], doing: str) -> Any:
        """The answer to one request. Raises `RuntimeDied` where the process ends instead, `RuntimeRefused` where the runtime refuses."""
        allowed = _limits.seconds()
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self._child.kill()

        timer = threading.Timer(allowed, expire)
        timer.daemon = True
        timer.start()
        try:
            assert self._child.stdin is not None and self._child.stdout is not None  # noqa: PT018
            with suppress(OSError):  # nobody reads any more: there will be no answer either
                send(self._child.stdin, {"task": task, "seconds": allowed, **request})
            answer = receive(self._child.stdout)
        except BaseException:  # Ctrl-C: what the child is at nobody waits for
            self.end()
            raise
        finally:
            timer.cancel()
        if answer is None:
            raise self._death(doing, allowed if expired.is_set() else None)
        return answer

    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._child.poll() is None

    def end(self) -> None:
        """End it at once."""
        self._child.kill()
        self._child.wait()
        self._drop()

    def forget(self) -> None:
        """In a forked process: let go of the pipes, so that the child notices the end of the process that it belongs to."""
        self._child.returncode = 0  # it is no child of this process, which must not wait for it
        self._drop()

    def _drop(self) -> None:
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _death(self, doing: str, allowed: float | None) -> RuntimeDied:
        if allowed is None:
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(5)
        self.end()
        if allowed is not None:
            return RuntimeDied(
                f"the runtime did not end within {allowed:g} seconds while it was {doing}; let {_limits.SECONDS} allow more, give "
                "smaller inputs, or fold with verify=False"
            )
        status = self._child.returncode
        how = f"with status {status}" if status >= 0 else f"by signal {-status} ({_name_of(-status)})"
        said = _last_line(self._said)
        return RuntimeDied(
            f"the runtime died {how} while it was {doing}{f', saying {said!r}' if said else ''}; the model or the runtime is at fault: "
            "try another version of the runtime, or fold with verify=False"
        )


_lock = threading.Lock()
_current: list[Process] = []
_closed: deque[tuple[int, int]] = deque()
"""Sessions that nobody needs any more, by process and number; told with the next request, since finalizers run at any time."""


def prepare() -> None:
    """Start the process, so that it loads while others work. Whatever keeps it from starting is told when it is asked."""
    with _lock, suppress(FoldError):
        _process()


def ask(task: str, request: dict[str, Any], values: Any, doing: str, *, owner: int | None = None) -> tuple[dict[str, Any], Any, int]:
    """What the process answers, the values that came with it, and which process it was.

    Raises `RuntimeDied` where the process ends instead, `RuntimeRefused` where the runtime raises, `FoldError` where files cannot be
    written, and `ProcessGone` where the process that was the `owner` of what is asked for is no more.
    """
    given, made = scratch_file(".in"), scratch_file(".out")
    try:
        try:
            described = write_values(values, given)
        except OSError as error:
            raise cannot_write(error) from error
        with _lock:
            process = _process()
            if owner not in (None, process.number):
                raise ProcessGone
            closed = [number for owner, number in _taken() if owner == process.number]
            request = {**request, "closed": closed, "values": described, "given": str(given), "made": str(made)}
            answer = process.ask(task, request, doing)
        match answer:
            case {"refused": words, "is_missing": is_missing}:
                raise RuntimeRefused(words, is_missing=is_missing)
            case {"unwritten": words}:
                raise cannot_write(OSError(words))
        return answer, read_values(answer["values"], made), process.number
    finally:
        for path in (given, made):
            with suppress(OSError):  # where a mapped file cannot be removed, it goes with the folder
                path.unlink(missing_ok=True)


def close(owner: int, number: int) -> None:
    """A session of a process is needed no more."""
    _closed.append((owner, number))


def _process() -> Process:
    if _current and not _current[0].is_alive():
        _current.pop().end()
    if not _current:
        _current.append(Process())
    return _current[0]


def _taken() -> list[tuple[int, int]]:
    found = []
    while _closed:
        found.append(_closed.popleft())
    return found


def _name_of(number: int) -> str:
    try:
        return signal.strsignal(number) or signal.Signals(number).name
    except ValueError:
        return "unknown"


def _last_line(path: Path) -> str:
    try:
        lines = path.read_bytes()[-2000:].decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")


def _end() -> None:
    while _current:
        _current.pop().end()


def _forget() -> None:
    global _lock
    _lock = threading.Lock()
    while _current:
        _current.pop().forget()
    _closed.clear()


atexit.register(_end)  # before the folder is removed, which was registered first
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
