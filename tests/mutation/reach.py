"""Which tests run which lines of a room, and how long they take: recorded once, kept for as long as no file changes."""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.mutation.children import in_child
from tests.mutation.mutants import Mutant
from tests.mutation.rooms import ROOT, SOURCE, module_of

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

        What runs at import changes all that reads it: any test may tell that runs something of the module, or stands beside one that does
        and looks at a constant of it.
        """
        lines = self.lines.get(mutant.module, {})
        found = {test for line in mutant.lines for test in lines.get(line, ())}
        if mutant.at_import or "" in found:
            files = files_of({test for tests in lines.values() for test in tests} - {""})
            found = {test for test in self.seconds if not files or test.partition("::")[0] in files}
        return sorted(found - {""}, key=lambda test: (self.seconds[test], test))


Failures = list[str]
Record = Callable[["Recorder"], Failures]
"""What runs tests one by one, tells the recorder of each, and gives those that failed."""


def recorded(name: str, tests: Sequence[str], record: Record) -> Reach:
    """The reach of tests, from the last run under this name where nothing has changed since."""
    path, state = KEPT / f"{name}.json", _state(tests)
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["state"] == state:
            lines = {module: {int(line): tests for line, tests in each.items()} for module, each in kept["lines"].items()}
            return Reach(kept["seconds"], lines)
    reach = reach_of(record)
    KEPT.mkdir(exist_ok=True)
    path.write_text(json.dumps({"state": state, **asdict(reach)}), encoding="utf-8")
    return reach


def reach_of(record: Record) -> Reach:
    """The reach of tests, all of which must pass."""
    reach, failed = in_child(lambda: _record(record), LONGEST)
    if failed:
        raise RuntimeError(f"tests must pass before they are tried on mutants; {len(failed)} fail: {', '.join(failed[:5])}")
    return reach


def by_pytest(tests: Sequence[str]) -> Record:
    """Runs tests by pytest."""

    def record(recorder: Recorder) -> Failures:
        import pytest

        status = pytest.main([*OPTIONS, *tests], plugins=[recorder])
        return recorder.failed if status in (0, 1) else [*recorder.failed, f"pytest ended with status {int(status)}"]

    return record


def _state(tests: Sequence[str]) -> str:
    """A digest of all of the package, and of tests with what they may import."""
    digest = hashlib.sha256()
    helpers = [path for path in (ROOT / "tests").rglob("*.py") if path.parent.name != "mutation"]
    own = [path for path in helpers if not path.name.startswith("test_") or any(_within(path, one) for one in tests)]
    for path in sorted([*SOURCE.rglob("*.py"), *own]):
        digest.update(f"{path.relative_to(ROOT)} ".encode() + path.read_bytes())
    return digest.hexdigest()


def _within(path: Path, test: str) -> bool:
    return path.is_relative_to(ROOT / test)


class Recorder:
    """Tells a coverage which test runs, and how long it takes; a plugin of pytest too."""

    def __init__(self) -> None:
        import coverage

        self.coverage = coverage.Coverage(data_file=None, source=[str(SOURCE)], config_file=False)
        self.seconds: dict[str, float] = {}
        self.failed: Failures = []

    @contextmanager
    def test(self, name: str) -> Iterator[None]:
        """The time in which a test runs."""
        self.pytest_runtest_logstart(name)
        yield
        self.pytest_runtest_logfinish(name)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)
        self.seconds[nodeid] = -time.perf_counter()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        self.pytest_runtest_logreport(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.seconds[nodeid] += time.perf_counter()
        self.coverage.switch_context("")


def _record(record: Record) -> tuple[Reach, Failures]:
    recorder = Recorder()
    recorder.coverage.start()
    _import_all()  # what is imported while a test runs would count as that test's
    failed = record(recorder)
    recorder.coverage.stop()
    data = recorder.coverage.get_data()
    lines = {}
    for path in map(Path, data.measured_files()):
        if path.is_relative_to(SOURCE):
            lines[module_of(path)] = {line: sorted(set(tests)) for line, tests in data.contexts_by_lineno(str(path)).items()}
    return Reach(recorder.seconds, lines), failed


def _import_all() -> None:
    import refold

    for module in pkgutil.walk_packages(refold.__path__, "refold."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def files_of(tests: Iterable[str]) -> list[str]:
    """The files in which tests stand."""
    return sorted({test.partition("::")[0] for test in tests})
