"""Where the parts of a written module stand: dotted paths of which none lies within another, under names that a module can have."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import accumulate, count
from keyword import iskeyword

from torch import fx, nn


class Paths:
    """The paths of a module that keeps parts of another one and is given layers.

    What is kept keeps its path, unless torch cannot call it by that: a name that is a keyword of Python, or an attribute that every module
    has, gets `_` behind it. Layers are placed around it.

    >>> paths = Paths(["stem.conv.gamma", "head.class.weight"])
    >>> paths.kept("stem.conv.gamma"), paths.kept("head.class.weight")
    ('stem.conv.gamma', 'head.class_.weight')
    >>> paths.place("stem.conv"), paths.place("stem.scale"), paths.place("stem.scale"), paths.place("stem.scale.inner")
    ('stem.conv.folded', 'stem.scale', 'stem.scale_1', 'stem.scale_inner')
    """

    def __init__(self, kept: Iterable[str] = ()) -> None:
        kept = list(kept)
        self._paths: dict[str, str] = {}
        self._used: set[str] = set()
        self._placed: set[str] = set()
        starts = {start for name in kept for start in _starts(name)}
        for name in sorted(starts, key=lambda one: (one.count("."), _join(*_split(one)) != one, one)):
            folder, own = _split(name)
            self._paths[name] = path = self._free(_join(self._paths[folder] if folder else "", own))
            self._used.add(path)
        self._ends = {self._paths[name] for name in kept}

    def kept(self, name: str) -> str:
        """The path of what is kept."""
        return self._paths[name]

    @property
    def renamed(self) -> dict[str, str]:
        """The paths of what is kept, and of its folders, that end in another name than the original's."""
        return {name: path for name, path in self._paths.items() if _split(name)[1] != _split(path)[1]}

    def place(self, wanted: str) -> str:
        """A path for a layer, taken from now on: the wanted one, or one near it where that is taken or lies within another."""
        path = ""
        for start in _starts(wanted):
            _, own = _split(start)
            if path in self._ends:
                folder, end = _split(path)
                path = _join(folder, f"{end}_{own}")
            else:
                path = self._paths.get(start, _join(path, own))
        if path in self._used and path not in self._placed:
            path = f"{path}_folded" if path in self._ends else f"{path}.folded"
        path = self._free(path)
        self._used.update(_starts(path))
        self._ends.add(path)
        self._placed.add(path)
        return path

    def _free(self, path: str) -> str:
        """The path, or where that is taken the first with a number that is not."""
        tries = (path if number == 0 else f"{path}_{number}" for number in count())
        return next(one for one in tries if one not in self._used)


def _starts(path: str) -> Iterator[str]:
    """The folders that a path leads through, and the path.

    >>> list(_starts("a.b.c"))
    ['a', 'a.b', 'a.b.c']
    """
    return accumulate(path.split("."), "{}.{}".format)


def _split(path: str) -> tuple[str, str]:
    folder, _, own = path.rpartition(".")
    return folder, own


def _join(folder: str, own: str) -> str:
    return f"{folder}.{_named(own)}" if folder else _named(own, outermost=True)


def _named(name: str, *, outermost: bool = False) -> str:
    """A name that a module can have for a part of it, and that reads the same in the code that torch writes."""
    if not name.isidentifier():
        return "".join(sign if sign.isprintable() and sign not in '"\\' else "_" for sign in name)
    name = unicodedata.normalize("NFKC", name)
    return f"{name}_" if iskeyword(name) or name in _attributes(outermost=outermost) else name


@cache
def _attributes(*, outermost: bool) -> frozenset[str]:
    """What every module has, or where a part is `outermost` every module that is written from a graph."""
    return frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph()) if outermost else nn.Module()))
