"""Locks that end with their process: on a folder while files in it change places, on a draft while somebody still writes it."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

PATIENCE = 300.0
"""Seconds to wait for another process that moves files in the same folder, which takes it moments."""
PAUSE = 0.02
TAKEN = (errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Keep other writers out of a folder in the block; False where the system, or the folder's file system, has no such locks.

    Nothing is left in the folder, and a process that dies gives its lock up.

    Raises `TimeoutError` where another process does not give its own up, and `OSError` where the folder cannot be opened.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name, locked(Path(name)) as certain:
    ...     certain
    True
    """
    descriptor = _opened(folder)
    if descriptor is None:
        yield False
        return
    try:
        yield _wait(descriptor, folder)
    finally:
        os.close(descriptor)


def hold(lock: Path) -> int | None:
    """Make a lock file and hold it until the descriptor is closed, as the end of the process does too; None where there are no locks."""
    lock.touch()
    descriptor = _opened(lock)
    if descriptor is not None and _take(descriptor) is not True:
        os.close(descriptor)
        return None
    return descriptor


def is_abandoned(lock: Path) -> bool:
    """Whether no living process holds a lock file; False where that cannot be told."""
    try:
        descriptor = _opened(lock)
    except FileNotFoundError:
        return True  # whoever made the draft died before it could make the lock
    if descriptor is None:
        return False
    try:
        return _take(descriptor) is True
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int | None:
    if sys.platform == "win32":
        return None
    return os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)


def _wait(descriptor: int, folder: Path) -> bool:
    end = time.monotonic() + PATIENCE
    while (taken := _take(descriptor)) is False:
        if time.monotonic() > end:
            raise TimeoutError(f"another process has been moving files in {folder} for {PATIENCE:.0f} s")
        time.sleep(PAUSE)
    return taken is True


def _take(descriptor: int) -> bool | None:
    """True where the lock is ours now, False where another holds it, None where the file system has no locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in TAKEN else None
    return True
