"""One mutant on trial: the tests that run it, until one fails."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tests.mutation.children import Died, in_child
from tests.mutation.hook import import_mutated, is_in_place
from tests.mutation.mutants import Mutant
from tests.mutation.reach import OPTIONS, Reach, files_of

Verdict = Literal["killed", "timeout", "alive", "unreached"]

PATIENCE = 5.0
"""Times as long as its tests took that a mutant may take."""

START = 20.0
"""Seconds that it may take besides, to import and collect on a busy machine."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutant, by which test of how many, in how many seconds."""

    mutant: Mutant
    verdict: Verdict
    by: str
    tests: int
    seconds: float


def tried(mutant: Mutant, reach: Reach) -> Outcome:
    """Run the tests of a mutant's room that run it."""
    tests = reach.tests(mutant)
    if not tests:
        return Outcome(mutant, "unreached", "no test of its room runs it", 0, 0.0)
    begin = time.perf_counter()
    verdict: Verdict
    try:
        by = in_child(lambda: _first_failure(mutant, tests), START + PATIENCE * sum(reach.seconds[test] for test in tests))
        verdict = "killed" if by else "alive"
    except Died as death:
        verdict, by = "timeout", str(death)
    return Outcome(mutant, verdict, by, len(tests), time.perf_counter() - begin)


class _Chosen:
    """A plugin of pytest that runs the chosen tests alone, in their order, and remembers the one that failed."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.places = {test: place for place, test in enumerate(tests)}
        self.failed = ""
        self.run: set[str] = set()

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.places), key=lambda item: self.places[item.nodeid])

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.run.add(report.nodeid)
        if report.failed:
            self.failed = self.failed or report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.failed = self.failed or f"{report.nodeid} is not collected"


def _first_failure(mutant: Mutant, tests: Sequence[str]) -> str:
    try:
        import_mutated(mutant)
    except Exception as fault:
        return f"its import: {fault!r}"
    failure = first_failure(tests)
    assert is_in_place(mutant), mutant
    return failure


def first_failure(tests: Sequence[str]) -> str:
    """The first of some tests that fails, '' where all pass."""
    import pytest

    chosen = _Chosen(tests)
    status = pytest.main([*OPTIONS, "-x", *files_of(tests)], plugins=[chosen])
    if status == 0 and chosen.run != set(tests):
        return "other tests than those that were recorded"
    return "" if status == 0 else chosen.failed or f"pytest ended with status {int(status)}"
