"""The folder of this process for what it gives to runtimes: gone with the process, however that ends."""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import IO

from refold.errors import FoldError

PREFIX = "refold-runtime-"
LOCK = "in-use"

_lock = threading.Lock()
_numbers = itertools.count()
_held: list[tuple[Path, IO[bytes]]] = []


def scratch_file(ending: str) -> Path:
    """A name that no file has, in the folder of this process; folders of processes that are no more are cleared when it is made.

    Raises `FoldError` where no folder can be made.
    """
    return scratch_folder() / f"{next(_numbers)}{ending}"


def scratch_folder() -> Path:
    """The folder. Raises `FoldError` where it cannot be made."""
    with _lock:
        if not _held or not _held[0][0].is_dir():
            _held[:] = [_made()]
        return _held[0][0]


def cannot_write(error: OSError) -> FoldError:
    """What to raise where a scratch file cannot be written."""
    return FoldError(
        f"cannot write scratch files for the runtime in {_place()}: {error.strerror or error}; make room there, "
        "or let TMPDIR name a folder that has some"
    )


def _place() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:
        return os.environ.get("TMPDIR", "the folder for temporary files")


def _made() -> tuple[Path, IO[bytes]]:
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        _clear_strays(folder)
        # Locked before it has its name: who finds the lock free may clear the folder.
        file = (folder / f"{LOCK}.new").open("wb")
        _take(file)
        os.replace(folder / f"{LOCK}.new", folder / LOCK)
    except OSError as error:
        raise cannot_write(error) from error
    return folder, file


def _clear_strays(own: Path) -> None:
    """Remove the folders of processes that were killed together with their runtimes."""
    for folder in own.parent.glob(f"{PREFIX}*"):
        try:
            with (folder / LOCK).open("rb+") as file:
                if folder != own and _take(file):
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # another user's, or one that is being made
            continue


def _take(file: IO[bytes]) -> bool:
    """Lock a file for as long as it is open; False where another process has it, or where files cannot be locked."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def remove() -> None:
    """Remove the folder of this process."""
    while _held:
        folder, file = _held.pop()
        shutil.rmtree(folder, ignore_errors=True)
        file.close()


def _forget() -> None:
    """In a forked process: the folder belongs to the one that it was forked from."""
    global _lock
    _lock = threading.Lock()
    for _, file in _held:
        file.close()  # closing a copy does not unlock: the lock is let go of with the last one
    _held.clear()


atexit.register(remove)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
