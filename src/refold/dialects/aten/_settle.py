"""Decides which axes a written file may leave free: those at whose other sizes it gives what the original gives, or does not run.

A file states one size of an axis, or leaves it free; it cannot state that sizes are multiples, or unlike each other. So the written file
is run at sizes that break what tracing took for granted, and an axis is a number where the file then gives something else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils import _pytree as pytree

from refold.dialects.aten._conditions import Condition, Place
from refold.dialects.aten._tries import Example, Group, Sizes, choose_tries
from refold.errors import FoldError, RefoldError, VerificationError

LABEL = "refold.sizes"
"""Key among the metadata of a file under which it says what it takes."""
NOTED = 4
"""Relations that a note spells out."""
FAR = 1024
"""Sizes up to which a condition of one axis is looked at to see whether it allows but one."""


class Draft(Protocol):
    """A file that was written: the axes that it leaves free, and how to run it."""

    @property
    def groups(self) -> Sequence[Group]:
        """The axes that are free, those of one size together."""

    def run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sequence[Any]:
        """Its outputs; any exception where it does not run."""


class Untried(Exception):
    """A file cannot be tried at all: no runtime here runs it, or it gives something else each time."""


DraftT = TypeVar("DraftT", bound=Draft)


@dataclass(frozen=True)
class Settled(Generic[DraftT]):
    """A draft that may ship.

    `fixed` are the axes that are numbers, with why. What follows are relations that the file does not check, in words: `shared` are those
    that the original demands as well, `unlike` those that the folded network alone does. `shown` are sizes at which it gave what the
    original gives.
    """

    draft: DraftT
    example: Mapping[Place, int]
    fixed: Mapping[Place, str]
    shared: tuple[str, ...]
    unlike: tuple[str, ...]
    shown: tuple[Mapping[Place, int], ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of the sizes that the file takes."""
        named = [f"axis {axis} of `{name}` is {self.example[name, axis]}: {why}" for (name, axis), why in self.fixed.items() if why]
        found = [f"the file takes only inputs where {text}" for text in named]
        for who, relations, end in (
            ("the original", self.shared, "the file does not check that"),
            (
                "the folded network",
                self.unlike,
                "the file does not check that, and was seen to give what the original gives, or not to run",
            ),
        ):
            if relations:
                more = f", and {len(relations) - NOTED} relations more" if len(relations) > NOTED else ""
                found.append(f"{who} takes only inputs where {'; '.join(relations[:NOTED])}{more}: {end}")
        return tuple(found)

    def as_checked(self) -> Settled[DraftT]:
        """The same of a file that checks all relations, as an exported program does."""
        return replace(self, shared=(), unlike=())

    @property
    def text(self) -> str:
        """The same as JSON, for programs."""
        names = dict.fromkeys(name for name, _ in self.example)

        def shape(sizes: Sizes) -> dict[str, list[int]]:
            return {name: [sizes.get(place, size) for place, size in self.example.items() if place[0] == name] for name in names}

        free = [{"input": name, "axis": axis} for name, axis in self.example if (name, axis) not in self.fixed]
        fixed = [{"input": name, "axis": axis, "size": self.example[name, axis], "why": why} for (name, axis), why in self.fixed.items()]
        shown = [shape({}), *map(shape, self.shown)]
        return json.dumps({"fixed": fixed, "free": free, "not_checked": [*self.shared, *self.unlike], "shown": shown}, ensure_ascii=False)


@dataclass
class Settling(Generic[DraftT]):
    """Writes drafts with fewer and fewer free axes until one may ship.

    `make` writes a file that leaves the axes free which it is told may be, and raises where that cannot be done. `original` gives what the
    original gives, or raises where it does not run. `demand` raises where a draft is not the original on the example, and `Untried` where
    that cannot be said. `known` are sizes that something was seen at before.
    """

    make: Callable[[Callable[[Place], bool]], DraftT]
    original: Callable[[tuple[Any, ...], Mapping[str, Any]], Any]
    demand: Callable[[DraftT], None]
    example: Example
    conditions: Sequence[Condition]
    known: Sequence[Sizes] = ()
    fixed: dict[Place, str] = field(default_factory=dict)
    seen: dict[tuple[tuple[Place, int], ...], list[Any] | None] = field(default_factory=dict)

    def settle(self) -> Settled[DraftT]:
        """The draft that leaves most axes free."""
        sizes = self.example.sizes
        self.fixed |= dict(_pinned(self.conditions, sizes))
        while True:
            draft = self._draft()
            free = {place for group in draft.groups for place in group.axes}
            settled = self._try(draft, free) if free else ()
            if settled is not None:
                why = {place: self.fixed.get(place, "") for place in sizes if place not in free}
                relations = [
                    (condition.text, self._took(condition))
                    for condition in self.conditions
                    if not (condition.is_implied or free.isdisjoint(condition.places))
                ]
                shared, unlike = ([text for text, took in relations if took is kind] for kind in (False, True))
                return Settled(draft, sizes, why, tuple(shared), tuple(unlike), tuple(settled))

    def _draft(self) -> DraftT:
        """A draft that is the original on the example; where none can be written, one with fewer free axes."""
        first: Exception | None = None
        for allowed in (None, 0, -1):  # every axis, the first of each input, none

            def is_free(place: Place, allowed: int | None = allowed) -> bool:
                return place not in self.fixed and allowed in (None, place[1])

            try:
                draft = self.make(is_free)
                self.demand(draft)
            except Untried as error:
                if not draft.groups:
                    return draft
                self._fix(self.example.sizes, f"other sizes could not be tried: {error}")
                return self.make(lambda place: False)
            except Exception as error:
                first = first or error
                continue
            if first is not None:
                why = f"the file could not be written with it free: {type(first).__name__}"
                self.fixed = {place: why for place in self.example.sizes if not is_free(place)} | self.fixed
            return draft
        assert first is not None
        if isinstance(first, (RefoldError, OSError)):
            raise first
        raise FoldError(
            f"torch cannot export the folded network: {type(first).__name__}: {str(first).strip().splitlines()[0][:300]}; "
            "save it as .safetensors, or leave out what cannot be exported"
        ) from first

    def _try(self, draft: DraftT, free: set[Place]) -> list[Mapping[Place, int]] | None:
        """The sizes at which the draft gives what the original gives; None, and more axes fixed, where it gives something else."""
        tries = choose_tries(self.example.sizes, draft.groups, self.conditions, self.known)
        before = len(self.fixed)
        shown: list[Mapping[Place, int]] = []
        for group, sizes in tries.alone:
            if not any(place in self.fixed for place in group.axes):
                self._judge(draft, sizes, group.axes, shown)
        for group in draft.groups:
            if not any(one.keys() <= group.axes.keys() for one in shown):
                self._fix(group.axes, "no other size was seen to give what the original gives")
        for condition in tries.untried:
            self._fix([place for place in condition.places if place in free], f"{condition.text} could not be tried")
        if len(self.fixed) == before:
            for sizes in tries.others:
                self._judge_together(draft, sizes, shown)
        return shown if len(self.fixed) == before else None

    def _judge(self, draft: DraftT, sizes: Sizes, places: Iterable[Place], shown: list[Mapping[Place, int]]) -> bool:
        """Whether a draft passes at these sizes; where it does not, the axes are fixed."""
        expected = self._expected(sizes)
        if expected is None:
            return True
        try:
            outputs = draft.run(*self.example.at(sizes))
        except Exception:  # whatever a runtime raises, it is not silent
            return True
        if alike(outputs, expected):
            shown.append(sizes)
            return True
        words = " and ".join(f"{size} on axis {axis} of `{name}`" for (name, axis), size in sizes.items())
        self._fix(places, f"with {words} the file would give something else than the original")
        return False

    def _judge_together(self, draft: DraftT, sizes: Sizes, shown: list[Mapping[Place, int]]) -> None:
        """Judge several axes at once; where the fault is one axis's alone, the others are not fixed for it."""
        own: list[Mapping[Place, int]] = []
        before = dict(self.fixed)
        if self._judge(draft, sizes, sizes, own):
            shown += own
            return
        joint, self.fixed = self.fixed, dict(before)
        alone = [self._judge(draft, {place: size}, [place], shown) for place, size in sizes.items()] if len(sizes) > 1 else [True]
        if all(alone):
            self.fixed = joint

    def _fix(self, places: Iterable[Place], why: str) -> None:
        for place in places:
            self.fixed.setdefault(place, why)

    def _expected(self, sizes: Sizes) -> list[Any] | None:
        """What the original gives at other sizes; None where it does not run, or gives not one finite number, as a mean of nothing does."""
        key = tuple(sorted(sizes.items()))
        if key not in self.seen:
            try:
                outputs = pytree.tree_leaves(self.original(*self.example.at(sizes)))
            except Exception:  # an exported program raises what it likes
                self.seen[key] = None
            else:
                made = [one.detach().cpu() for one in outputs if isinstance(one, torch.Tensor)]
                self.seen[key] = None if any(one.numel() and not bool(one.isfinite().any()) for one in made) else made
        return self.seen[key]

    def _took(self, condition: Condition) -> bool | None:
        """Whether the original took sizes that break a relation; None where none was tried."""
        sizes = self.example.sizes
        broken = [
            outputs is not None
            for key, outputs in self.seen.items()
            if not condition.holds([dict(key).get(place, sizes[place]) for place in condition.places])
        ]
        return any(broken) if broken else None


def _pinned(conditions: Sequence[Condition], sizes: Mapping[Place, int]) -> Iterator[tuple[Place, str]]:
    """The axes of which a condition allows but the example's size."""
    for condition in conditions:
        if len(condition.places) == 1:
            (place,) = condition.places
            allowed = (n for n in range(FAR) if n != sizes[place] and condition.holds([n]))
            if next(allowed, None) is None:
                yield place, "" if condition.text.startswith("axis ") else f"the network was traced where {condition.text}"


def alike(outputs: Sequence[Any], expected: Sequence[torch.Tensor]) -> bool:
    """Whether outputs of two runtimes are one function's: alike in number, shape and dtype, and in half of their digits.

    Another path through a model moves more than the last half; the roundings of another runtime move less.
    """
    if len(outputs) != len(expected):
        return False
    return all(_is_alike(mine.detach().cpu(), theirs) for mine, theirs in zip(outputs, expected, strict=True))


def _is_alike(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        return False
    if theirs.is_complex():
        mine, theirs = torch.view_as_real(mine), torch.view_as_real(theirs)
    if not theirs.is_floating_point():
        return torch.equal(mine, theirs)
    finite = theirs.abs()[theirs.isfinite()]
    limit = torch.finfo(theirs.dtype).eps ** 0.5 * float(finite.max() if len(finite) else 0.0)
    return torch.allclose(mine, theirs, rtol=0.0, atol=limit, equal_nan=True)


def not_the_original(differing: Sequence[str]) -> VerificationError:
    """The error of a file that is not the network that it was written from."""
    return VerificationError(
        f"the exporter of torch wrote a file that gives something else than the original on the example inputs ({', '.join(differing)}); "
        "save the network as .pt2, or report the network"
    )
