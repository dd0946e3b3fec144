"""How long one run in a runtime may take and how much memory it may ask for."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from refold.errors import FoldError

SECONDS = "REFOLD_TIME_LIMIT"
GIGABYTES = "REFOLD_MEMORY_LIMIT"
DEFAULT_SECONDS = 600.0


def seconds() -> float:
    """Seconds that one run may take. Raises `FoldError` where the variable holds no number above 0."""
    return _number(SECONDS) or DEFAULT_SECONDS


def limit_memory() -> None:
    """In the runtime's process: no more memory than the machine, or the container, has; who needs a victim takes this process first."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    allowed = _number(GIGABYTES)
    most = int(allowed * 1e9) if allowed is not None else _installed()
    if most is None:
        return
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (most if hard < 0 else min(most, hard), hard))
    except (ImportError, OSError, ValueError):  # another system, which has no such limit
        pass


def _number(variable: str) -> float | None:
    text = os.environ.get(variable, "")
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise FoldError(f"{variable} (={text}) must be a number above 0; unset it for the default")
    return number


def _installed() -> int | None:
    """Bytes of memory of the machine, or those that a container may use where they are fewer."""
    found = []
    with suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path(name).read_text(encoding="ascii")))
        except (OSError, ValueError):  # "max" where there is none
            continue
    return min(found, default=None)
