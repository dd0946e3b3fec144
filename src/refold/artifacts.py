"""Files that are either whole or not there: written beside their place and moved into it at the end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from refold.errors import FoldError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name to write to in the block; afterwards the file stands at `path`, and if the block fails nothing there has changed.

    Raises `FoldError` where the folder does not exist or cannot be written, or the disk fills.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "a.txt") as draft:
    ...     _ = draft.write_text("whole")
    >>> (folder / "a.txt").read_text()
    'whole'
    """
    place = Path(path)
    if place.is_dir():
        raise FoldError(f"cannot write {place}: it is a folder; name a file in it")
    try:
        folder = tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent)
    except OSError as error:
        raise FoldError(f"cannot write {place}: {error.strerror or error}; choose a folder that exists and can be written") from error
    draft = Path(folder) / place.name
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, place)
    except OSError as error:
        raise FoldError(f"cannot write {place}: {error.strerror or error}; what stood there before is untouched") from error
    finally:
        for rest in Path(folder).iterdir():
            rest.unlink()
        Path(folder).rmdir()
