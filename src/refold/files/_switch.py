"""The one order in which a model, the data beside it and its certificate are replaced, and how it is brought to an end after a kill.

    data under a name of its content → a certificate that lists old and new → the model → the certificate of the new → old data goes

The model's rename is the only switch: before it the old model reads the old data, after it the new one the new data. What lists old and new
is written first as a journal among the drafts; whoever finds the journal of a dead process can tell which side stands and end it that way.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

FORMAT = "refold switch 1"
JOURNAL = "switch.json"
MODELS = (".onnx",)
"""Endings of files that may refer to data beside them."""


@dataclass(frozen=True, slots=True)
class Side:
    """What stands before a switch, or after it: digests by file name, and the text of the certificate, None where there is none.

    Where nothing is certified on either side, only the model has a digest; those of data are empty.
    """

    files: Mapping[str, str]
    certificate: str | None


@dataclass(frozen=True, slots=True)
class Switch:
    """Both sides of a switch. `model` is the file whose rename it is; `certificate` names the certificate's file; `drop` is old data."""

    model: str
    certificate: str
    old: Side
    new: Side
    drop: Sequence[str] = ()

    @property
    def certified(self) -> bool:
        """Whether either side has a certificate."""
        return self.old.certificate is not None or self.new.certificate is not None

    @property
    def added(self) -> tuple[str, ...]:
        """Files of the new side beside the model that the old has not."""
        return tuple(name for name in self.new.files if name != self.model and name not in self.old.files)

    def dump(self) -> bytes:
        """The switch as the text of a file, with a hash over it.

        >>> switch = Switch("a.onnx", "a.certificate.json", Side({}, None), Side({"a.onnx": "12"}, "{}"))
        >>> Switch.parse(switch.dump()) == switch, Switch.parse(switch.dump().replace(b"12", b"13"))
        (True, None)
        """
        content = {"format": FORMAT, **asdict(self)}
        return _text({**content, "sha256": _seal(content)})

    @classmethod
    def parse(cls, text: bytes) -> Switch | None:
        """The switch that a file holds, or None where it holds something else or was changed."""
        try:
            content = json.loads(text)
            if content.pop("format") != FORMAT or content.pop("sha256") != _seal({"format": FORMAT, **content}):
                return None
            old, new, drop = Side(**content.pop("old")), Side(**content.pop("new")), tuple(content.pop("drop"))
            return cls(**content, old=old, new=new, drop=drop)
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            return None


def digest_of(path: Path) -> str:
    """The sha256 of all bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def standing(folder: Path, switch: Switch) -> Side | None:
    """The side whose every file stands in the folder, byte for byte; None where neither does, a mixture among them."""
    for side in (switch.new, switch.old):
        if side.files and all((folder / name).is_file() and digest_of(folder / name) == digest for name, digest in side.files.items()):
            return side
    return None


def make_switch(place: Path, certificate: Path, old: Side, new: Side, *, protected: Sequence[Path] = ()) -> Switch:
    """The switch from what stands at `place` to what will.

    Of the old data only what bears the model's name may go, and none that is protected; the rest is somebody else's.
    """
    kept = {one.resolve() for one in protected}
    beside = (name for name in old.files if name not in new.files and name.startswith(f"{place.name}.") and name.endswith(".data"))
    return Switch(place.name, certificate.name, old, new, tuple(name for name in beside if (place.parent / name).resolve() not in kept))


def replace_file(draft: Path, place: Path) -> None:
    """Move a draft to its place, where nothing else has to go with it."""
    share_mode(draft, place)
    if place.exists():  # what is replaced must not be lost with the power
        sync(draft)
    os.replace(draft, place)


def switch_files(folder: Path, drafts: Path, switch: Switch) -> None:
    """Move drafts to their places in `folder` in the order of this file; the caller holds the lock of the folder.

    Where it fails before the model has moved, all is as it was; `OSError` is raised then.
    """
    hidden, certificate = drafts.parent, folder / switch.certificate
    durable = bool(switch.old.files)  # what is replaced must not be lost with the power: its successor is on the disk before it goes
    for side, name in ((switch.old, "old"), (switch.new, "new")):
        if side.certificate is not None:
            _write(hidden / name, side.certificate.encode(), certificate, durable)
    if switch.certified:
        _write(hidden / "both", switch.dump(), certificate, durable)
    for name in switch.new.files:
        share_mode(drafts / name, folder / switch.model)
        if durable:
            sync(drafts / name)
    _write(hidden / "journal", switch.dump(), None, durable)
    os.replace(hidden / "journal", hidden / JOURNAL)
    try:
        for name in switch.new.files:
            if name != switch.model and not _is_there(folder / name, drafts / name):
                os.replace(drafts / name, folder / name)
        if switch.certified:
            os.replace(hidden / "both", certificate)
        if durable:
            sync(folder)
        os.replace(drafts / switch.model, folder / switch.model)
    except BaseException:
        settle(folder, hidden, switch)
        raise
    with suppress(OSError):  # the new model stands, whole and certified; where this fails the journal stays, and the next run does it
        settle(folder, hidden, switch, forward=True)


def settle(folder: Path, hidden: Path, switch: Switch, *, forward: bool | None = None) -> None:
    """Bring a switch to an end, forward where the new model stands, else back; doing it twice is doing it once."""
    if forward is None:
        model = folder / switch.model
        forward = model.is_file() and digest_of(model) == switch.new.files[switch.model]
    durable = bool(switch.old.files)
    if forward and durable:
        sync(folder)  # the new model's name is on the disk before anything of the old goes
    side, name = (switch.new, "new") if forward else (switch.old, "old")
    certificate = folder / switch.certificate
    if switch.certified and certificate.is_file() and certificate.read_bytes() == switch.dump():
        if side.certificate is None:
            certificate.unlink()
        else:
            if not (hidden / name).exists():
                _write(hidden / name, side.certificate.encode(), certificate, durable)
            os.replace(hidden / name, certificate)
    gone = [one for one in (switch.drop if forward else switch.added) if (folder / one).exists()]
    for one in unread(folder, gone):
        (folder / one).unlink(missing_ok=True)
    (hidden / JOURNAL).unlink(missing_ok=True)


def unread(folder: Path, names: Iterable[str]) -> list[str]:
    """Those names that stand in no model of the folder, not even as letters; a model that cannot be opened may name any."""
    left = list(names)
    for model in sorted(folder.iterdir()) if left else ():
        if model.suffix.lower() in MODELS and model.is_file():
            try:
                left = _not_in(model, left)
            except OSError:
                return []
    return left


def share_mode(draft: Path, place: Path) -> None:
    """Give a draft the permissions of what stands at a place, or those that any new file here has; some writers leave it private."""
    if place.exists():
        shutil.copymode(place, draft)
        return
    new = draft.with_name(f"{draft.name}.mode")
    new.touch()
    shutil.copymode(new, draft)
    new.unlink()


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; a system on which folders cannot be opened keeps names by itself."""
    if path.is_dir():
        if os.name == "nt":
            return
        descriptor = os.open(path, os.O_RDONLY)
    else:
        descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_in(model: Path, names: list[str]) -> list[str]:
    if not model.stat().st_size:
        return names
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return [name for name in names if data.find(name.encode("utf-8", "surrogateescape")) < 0]


def _is_there(place: Path, draft: Path) -> bool:
    """Whether the same content stands under its name already; another model may be reading it."""
    return place.is_file() and digest_of(place) == digest_of(draft)


def _write(draft: Path, content: bytes, place: Path | None, durable: bool) -> None:
    draft.write_bytes(content)
    if place is not None:
        share_mode(draft, place)
    if durable:
        sync(draft)


def _text(content: Mapping[str, object]) -> bytes:
    return f"{json.dumps(content, indent=1)}\n".encode()


def _seal(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
