"""Runs a function in a process of its own and kills it at a chosen system call, of all that change files. Linux alone, by ptrace."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from collections.abc import Callable

CALLS = {
    "x86_64": {1, 18, 20, 40, 74, 75, 76, 77, 82, 83, 84, 86, 87, 88, 90, 91, 258, 263, 264, 265, 266, 268, 296, 316, 326},
    "aarch64": {33, 34, 35, 36, 37, 38, 45, 46, 52, 53, 64, 66, 68, 70, 71, 82, 83, 276, 285},
}
"""Numbers of write, rename, link, unlink, truncate, fsync, mkdir, rmdir, chmod and their kin."""
OPEN = {"x86_64": 257, "aarch64": 56}
CREATE = os.O_CREAT
TRACEME, CONTINUE, SETOPTIONS, CALL_INFO = 0, 24, 0x4200, 0x420E
OPTIONS = 0x1 | 0x2 | 0x4 | 0x8 | 0x100000  # calls are marked, children and threads followed, all end with the tracer
ALL = 0x40000000
ENTRY, EXIT = 1, 2

can_trace = sys.platform == "linux" and platform.machine() in CALLS


class _Info(ctypes.Structure):
    _fields_ = (
        ("op", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("ip", ctypes.c_uint64),
        ("sp", ctypes.c_uint64),
        ("nr", ctypes.c_uint64),
        ("args", ctypes.c_uint64 * 6),
    )


def run(function: Callable[[], object], *, kill_at: int | None = None, after: bool = False) -> int:
    """Run the function in a fork; how many calls that change files it began. It is killed before call `kill_at`, or `after` it.

    Raises `RuntimeError` where it ends by itself and not well.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _ptrace(TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            function()
            status = 0
        finally:
            os._exit(status)
    os.waitpid(child, 0)
    _ptrace(SETOPTIONS, child, OPTIONS)
    _ptrace(CONTINUE, child)
    count, due = 0, None
    while True:
        task, status = os.waitpid(-1, ALL)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if task != child:
                continue
            if kill_at is None and status:
                raise RuntimeError(f"the process ended with status {status}")
            return count
        stopped = os.WSTOPSIG(status)
        if stopped == signal.SIGTRAP | 0x80:
            info = _Info()
            _ptrace(CALL_INFO, task, ctypes.sizeof(info), ctypes.addressof(info))
            if due == task and info.op == EXIT:
                os.kill(child, signal.SIGKILL)
                due = None
                continue
            if info.op == ENTRY and _changes_files(info):
                count += 1
                if count == kill_at and not after:
                    os.kill(child, signal.SIGKILL)
                    continue
                due = task if count == kill_at else due
        forwarded = 0 if stopped in (signal.SIGTRAP | 0x80, signal.SIGTRAP, signal.SIGSTOP) else stopped
        _ptrace(CONTINUE, task, 0, forwarded, gone_is_well=True)


def _changes_files(info: _Info) -> bool:
    machine = platform.machine()
    return info.nr in CALLS[machine] or (info.nr == OPEN[machine] and bool(info.args[2] & CREATE))


def _ptrace(request: int, task: int, address: int = 0, data: int = 0, *, gone_is_well: bool = False) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes, libc.ptrace.restype = [ctypes.c_long] * 4, ctypes.c_long
    if request == SETOPTIONS:
        address, data = 0, address
    if libc.ptrace(request, task, address, data) < 0 and not gone_is_well:
        raise OSError(ctypes.get_errno(), "ptrace")
