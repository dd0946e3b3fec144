"""Files that are either whole or not there: written beside their place and moved into it at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from refold.errors import FoldError


@contextmanager
def replacing(path: str | os.PathLike[str], *, protected: Sequence[Path] = ()) -> Iterator[Path]:
    """A name to write to in the block; afterwards the file stands at `path`, and if the block fails nothing there has changed.

    Files that the block writes beside that name go with it, and first: who finds the file finds them. None of the `protected` files is
    replaced.

    Raises `FoldError` where the folder does not exist or cannot be written, the disk fills, or a protected file stands there.

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
    _spare(place, protected)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as error:
        raise FoldError(f"cannot write {place}: {error.strerror or error}; choose a folder that exists and can be written") from error
    draft = folder / place.name
    try:
        yield draft
        companions = sorted(one for one in folder.iterdir() if one != draft)
        for one in companions:
            _spare(place.parent / one.name, protected)
        for one in (*companions, draft):
            _share(one, place.parent / one.name)
            if place.exists():  # what is replaced must not be lost with the power: its successor is on the disk before it goes
                with one.open("rb+") as file:
                    os.fsync(file.fileno())
        _move([*companions, draft], place.parent)
    except OSError as error:
        raise FoldError(f"cannot write {place}: {error.strerror or error}; what stood there before is untouched") from error
    finally:
        for rest in folder.iterdir():
            rest.unlink()
        folder.rmdir()


def _spare(place: Path, protected: Sequence[Path]) -> None:
    for one in protected:
        if place.exists() and one.exists() and place.samefile(one):
            raise FoldError(f"{place} is the original, or holds its data; write to another name, or say that it may be replaced (in place)")


def _move(files: Sequence[Path], folder: Path) -> None:
    """Move files into a folder in this order; where one cannot be moved, those before it are gone again and what they replaced is back."""
    *companions, last = files
    done: list[tuple[Path, Path | None]] = []
    try:
        for file in companions:
            place, aside = folder / file.name, None
            if place.exists():
                aside = file.with_name(f"{file.name}.before")
                os.replace(place, aside)
            done.append((place, aside))
            os.replace(file, place)
        os.replace(last, folder / last.name)
    except BaseException:
        for place, aside in reversed(done):
            place.unlink(missing_ok=True)
            if aside is not None:
                os.replace(aside, place)
        raise


def _share(file: Path, place: Path) -> None:
    """Give a draft the permissions of what it replaces, or those that any new file here has; some writers leave it private."""
    if place.exists():
        shutil.copymode(place, file)
        return
    new = file.with_name(f"{file.name}.mode")
    new.touch()
    shutil.copymode(new, file)
    new.unlink()


def files_of(output: Path) -> list[Path]:
    """A file that was written, and the one of its weights beside it, if they do not lie within it.

    >>> [one.name for one in files_of(Path("deploy.pt2"))]
    ['deploy.pt2']
    """
    data = output.with_name(f"{output.name}.data")
    return [output, data] if output.suffix.lower() == ".onnx" and data.exists() else [output]
