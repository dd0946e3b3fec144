"""Which tests run which lines of a room, and how long they take: recorded once, kept for as long as no file changes."""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.mutation.children import in_child
from tests.mutation.mutants import Mutant
from tests.mutation.rooms import ROOT, SOURCE, Room

KEPT = ROOT / ".mutants"
LONGEST = 1800.0
"""Seconds that the tests of one room may take."""

QUIET = "ignore:Module already imported so cannot be rewritten:pytest.PytestAssertRewriteWarning"
OPTIONS = ("-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml"), "-W", QUIET)
"""Of pytest, in a child."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Seconds of each test, and the tests that run each line of each module; those that run while modules are imported under ''."""

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[int, list[str]]] = field(default_factory=dict)

    def tests(self, mutant: Mutant) -> list[str]:
        """The tests that run a mutant, the fastest first.

        What runs at import changes all that reads it: any test that runs something of the module may tell.
        """
        lines = self.lines.get(mutant.module, {})
        found = {test for line in mutant.lines for test in lines.get(line, ())}
        if mutant.at_import or "" in found:
            found = {test for tests in lines.values() for test in tests} or set(self.seconds)
        return sorted(found - {""}, key=lambda test: (self.seconds[test], test))


def recorded(name: str, room: Room) -> Reach:
    """The reach of the tests of a room, from the last run where nothing has changed since."""
    path, state = KEPT / f"{name}.json", _state(room)
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["state"] == state:
            lines = {module: {int(line): tests for line, tests in each.items()} for module, each in kept["lines"].items()}
            return Reach(kept["seconds"], lines)
    reach = reach_of(room)
    KEPT.mkdir(exist_ok=True)
    path.write_text(json.dumps({"state": state, **asdict(reach)}), encoding="utf-8")
    return reach


def reach_of(room: Room) -> Reach:
    """The reach of the tests of a room, which must pass."""
    reach, failed = in_child(lambda: _record(room), LONGEST)
    if failed:
        raise RuntimeError(f"tests must pass before they are tried on mutants; {len(failed)} fail: {', '.join(failed[:5])}")
    return reach


def _state(room: Room) -> str:
    """A digest of all of the package, and of the tests of a room with what they may import."""
    digest = hashlib.sha256()
    helpers = [*(ROOT / "tests").rglob("*.py")]
    tests = [path for path in helpers if not path.name.startswith("test_") or any(_within(path, one) for one in room.tests)]
    for path in sorted([*SOURCE.rglob("*.py"), *(path for path in tests if "mutation" not in path.parts)]):
        digest.update(f"{path.relative_to(ROOT)} ".encode() + path.read_bytes())
    return digest.hexdigest()


def _within(path: Path, test: str) -> bool:
    return path.is_relative_to(ROOT / test)


class _Recorder:
    """A plugin of pytest that tells a coverage which test runs."""

    def __init__(self) -> None:
        import coverage

        self.coverage = coverage.Coverage(data_file=None, source=[str(SOURCE)], config_file=False)
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)
        self.seconds[nodeid] = -time.perf_counter()

    def pytest_runtest_logreport(self, report: object) -> None:
        if getattr(report, "failed", False):
            self.failed.append(str(getattr(report, "nodeid", report)))

    def pytest_collectreport(self, report: object) -> None:
        self.pytest_runtest_logreport(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.seconds[nodeid] += time.perf_counter()
        self.coverage.switch_context("")


@contextmanager
def _measuring(recorder: _Recorder) -> Iterator[None]:
    recorder.coverage.start()
    import refold

    for module in pkgutil.walk_packages(refold.__path__, "refold."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    try:
        yield
    finally:
        recorder.coverage.stop()


def _record(room: Room) -> tuple[Reach, list[str]]:
    import pytest

    recorder = _Recorder()
    with _measuring(recorder):
        status = pytest.main([*OPTIONS, *room.tests], plugins=[recorder])
    if status not in (0, 1):
        recorder.failed.append(f"pytest ended with status {int(status)}")
    data = recorder.coverage.get_data()
    lines = {}
    for name in data.measured_files():
        path = Path(name)
        if path.is_relative_to(SOURCE):
            lines[".".join(path.relative_to(SOURCE).with_suffix("").parts)] = {
                line: sorted(set(tests)) for line, tests in data.contexts_by_lineno(name).items()
            }
    return Reach(recorder.seconds, lines), recorder.failed


def files_of(tests: Iterable[str]) -> list[str]:
    """The files in which tests stand."""
    return sorted({test.partition("::")[0] for test in tests})
