"""Hidden folders in which files are written before they change places; those of processes that died are cleared by the next run."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from refold.files._locks import hold, is_abandoned, locked
from refold.files._switch import JOURNAL, Switch, settle

PREFIX = ".refold-"
LOCK = "lock"
FILES = "files"


@contextmanager
def drafting(folder: Path) -> Iterator[Path]:
    """A new folder to write drafts in, hidden in `folder`, where they can be moved from at one blow; it is gone after the block.

    Its lock says that this process lives. Drafts that a dead process left are cleared first.

    Raises `OSError` where `folder` does not exist or cannot be written.
    """
    with locked(folder) as certain:  # or another process could take a draft that has no lock yet for one of the dead
        if certain:
            clear_strays(folder)
        hidden = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
        descriptor = hold(hidden / LOCK)
    try:
        drafts = hidden / FILES
        drafts.mkdir()
        yield drafts
    finally:
        try:
            if not (hidden / JOURNAL).exists():  # or files stand half way, and the next run brings them to an end
                with suppress(OSError):
                    _remove(hidden)
        finally:
            if descriptor is not None:
                os.close(descriptor)


def clear_strays(folder: Path) -> None:
    """Bring to an end what processes that died had begun in a folder, and remove their drafts. The caller holds the folder's lock."""
    for hidden in sorted(folder.glob(f"{PREFIX}*")):
        try:
            if not hidden.is_dir() or hidden.is_symlink() or not is_abandoned(hidden / LOCK):
                continue
            journal = hidden / JOURNAL
            switch = Switch.parse(journal.read_bytes()) if journal.exists() else None
            if switch is not None:
                settle(folder, hidden, switch)
            _remove(hidden)
        except OSError:
            continue  # not ours to remove, or gone meanwhile; the run at hand does not depend on it


def _remove(hidden: Path) -> None:
    """The lock goes last: while it is there, the folder can be told from one that is being made."""
    shutil.rmtree(hidden / FILES, ignore_errors=True)
    for one in sorted(hidden.iterdir(), key=lambda one: one.name == LOCK):
        one.unlink(missing_ok=True)
    hidden.rmdir()
