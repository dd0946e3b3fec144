"""Writes a model, the data beside it and its certificate so that at every moment the old stands or the new, whole and certified."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TypeAlias

from refold.certificates import Proof, Tensor, beside, stated_files, write_with
from refold.files import Side, clear_strays, digest_of, drafted, locked, make_switch, replace_file, spare, switch_files

TextFor: TypeAlias = Callable[[Iterable[Tensor]], str]

Write: TypeAlias = "Callable[[Path, TextFor | None], Mapping[str, str]]"
"""Writes to a name, with the text laid inside; gives the digests of files that it knows, by their names."""


def save(place: Path, write: Write, proof: Proof | None = None, *, protected: Sequence[Path] = ()) -> Path:
    """Write a model with what `write` puts beside it, and its certificate where there is a proof.

    `write` is given a name to write to, and a function that makes the text to lay inside from the weights, None without a proof. A model
    that stood there before is replaced at one blow, with its data and its certificate; none of the `protected` files is.

    Raises `FoldError` where the folder does not exist or cannot be written, the disk fills, or a protected file stands there.
    """
    spare(place, protected)
    with drafted(place) as draft:
        digests: dict[str, str] = {}
        text = None
        if proof is None:
            write(draft, None)
        else:
            text, digests = write_with(draft, proof, write)
        with locked(place.parent) as certain:
            if certain:
                clear_strays(place.parent)
            spare(place, protected)
            names = [draft.name, *sorted(one.name for one in draft.parent.iterdir() if one != draft)]
            old = _standing_at(place, new_certificate=text)
            certified = text is not None or old.certificate is not None
            if not certified and names == [draft.name] and old.files.keys() <= {place.name}:
                replace_file(draft, place)  # one rename is all there is to do
                return place
            known = {
                name: digests.get(name) or (digest_of(draft.with_name(name)) if certified or name == place.name else "") for name in names
            }
            switch = make_switch(place, beside(place), old, Side(known, text), protected=protected)
            for name in switch.added:
                _spare_other(place.with_name(name), draft.with_name(name), protected)
            switch_files(place.parent, draft.parent, switch)
    return place


def files_of(output: Path) -> list[Path]:
    """A file that was written, and those of its weights beside it that it refers to.

    >>> [one.name for one in files_of(Path("deploy.pt2"))]
    ['deploy.pt2']
    """
    return [output, *(one for one in map(output.parent.joinpath, _data_names(output)) if one.exists())]


def _standing_at(place: Path, *, new_certificate: str | None) -> Side:
    """What a save will replace. A certificate of another file counts only where the new one takes its place."""
    certificate = beside(place)
    text = certificate.read_text(encoding="utf-8", errors="replace") if certificate.is_file() else None
    stated = None if text is None else stated_files(text, place.name)
    if text is not None and stated is None and new_certificate is None:
        text = None
    if not place.exists():
        return Side({}, text)
    names = [one.relative_to(place.parent).as_posix() for one in files_of(place)]
    if stated is not None and stated.keys() == set(names):
        return Side(stated, text)
    certified = text is not None or new_certificate is not None
    return Side({name: digest_of(place.parent / name) if certified else "" for name in names}, text)


def _spare_other(place: Path, draft: Path, protected: Sequence[Path]) -> None:
    """Protected data may have the name of new data only where it is the same."""
    if place.exists() and digest_of(place) != digest_of(draft):
        spare(place, protected)


def _data_names(output: Path) -> tuple[str, ...]:
    if output.suffix.lower() != ".onnx" or not output.is_file():
        return ()
    from refold.dialects import onnx

    return tuple(name for name in onnx.data_names(output) if name and not PurePath(name).is_absolute() and ".." not in PurePath(name).parts)
