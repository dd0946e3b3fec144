"""One file that is either whole or not there: written beside its place and moved into it at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from refold.errors import FoldError
from refold.files._drafts import drafting
from refold.files._switch import share_mode, sync


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
    with drafted(place) as draft:
        yield draft
        share_mode(draft, place)
        replaces = place.exists()
        if replaces:  # what is replaced must not be lost with the power: its successor is on the disk before it goes
            sync(draft)
        os.replace(draft, place)
        if replaces:
            sync(place.parent)


@contextmanager
def drafted(place: Path) -> Iterator[Path]:
    """A name to write a file to in the block that will stand at `place`, in a folder of its own; the block moves it there.

    Raises `FoldError` in the place of an `OSError`, the block's own too.
    """
    if place.is_dir():
        raise FoldError(f"cannot write {place}: it is a folder; name a file in it")
    with ExitStack() as stack:
        try:
            drafts = stack.enter_context(drafting(place.parent))
        except TimeoutError as error:
            raise FoldError(f"cannot write {place}: {error}; end it, or write to another folder") from error
        except OSError as error:
            raise FoldError(f"cannot write {place}: {error.strerror or error}; choose a folder that exists and can be written") from error
        try:
            yield drafts / place.name
        except OSError as error:
            raise FoldError(f"cannot write {place}: {error.strerror or error}; what stood there before is untouched") from error


def spare(place: Path, protected: Sequence[Path]) -> None:
    """Raise `FoldError` where one of the protected files stands at a place."""
    for one in protected:
        if place.exists() and one.exists() and place.samefile(one):
            raise FoldError(f"{place} is the original, or holds its data; write to another name, or say that it may be replaced (in place)")
