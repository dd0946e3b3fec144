"""The most memory that this process holds while something runs, beyond what it held before."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROCESS = Path("/proc/self")


@dataclass(slots=True)
class Peak:
    """Bytes, once the block has ended; None where the system does not say."""

    bytes: int | None = None


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure what the block adds to the resident memory at its highest; Linux keeps that number, other systems give None.

    >>> with peak_memory() as peak:
    ...     block = bytearray(1 << 26)
    >>> peak.bytes is None or peak.bytes > 60_000_000
    True
    """
    peak = Peak()
    before = _reset()
    yield peak
    highest = _status("VmHWM")
    if before is not None and highest is not None:
        peak.bytes = max(0, highest - before)


def _reset() -> int | None:
    """Forget the highest mark and give the present one, with what was freed handed back to the system first."""
    gc.collect()
    if sys.platform != "linux":
        return None
    with suppress(OSError, AttributeError):  # another C library hands memory back by itself
        ctypes.CDLL(None).malloc_trim(0)
    try:
        (PROCESS / "clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", (PROCESS / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
