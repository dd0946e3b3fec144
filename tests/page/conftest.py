"""The browser, started once, and the pages that it opens, written once by the command."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest
from click.testing import CliRunner

import refold
import refold.bench
from refold.cli import main
from refold.folding import FoldResult

if TYPE_CHECKING:
    from tests.page.browser import Browser, Run

REQUIRED = os.environ.get("REFOLD_BROWSER") == "required"
if REQUIRED:
    import selenium  # noqa: F401 - where it is missing too, nothing may be skipped


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    from tests.page.browser import missing, start

    if missing():
        told = f"the report is tried in Chromium; not installed here: {missing()}"
        (pytest.fail if REQUIRED else pytest.skip)(told)
    browser = start(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The browser, which may have nothing to complain of afterwards."""
    yield chromium
    chromium.tell("Emulation.setScriptExecutionDisabled", value=False)
    assert chromium.driver.get_log("browser") == []


def run(folder: Path, model: str, *options: str) -> Run:
    from tests.page.browser import Run

    page = folder / "report.html"
    outcome = CliRunner().invoke(main, ["fold", model, "-o", str(folder / "out.onnx"), "--report", str(page), "--json", *options])
    assert outcome.exit_code == 0, outcome.output
    return Run(page, json.loads(outcome.stdout))


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A network of a few blocks with its latency, measured in short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refold.bench, "bench", partial(refold.bench.bench, seconds=0.2))
        return run(tmp_path_factory.mktemp("measured"), "tests.page.pages:blocks")


@pytest.fixture(scope="session")
def named(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A model whose names are markup."""
    from tests.page.pages import hostile

    model = tmp_path_factory.mktemp("named") / "<img src=x onerror=alert(1)>.onnx"
    onnx.save(hostile(), model)
    return run(model.parent, str(model), "--no-latency")


@pytest.fixture(scope="session")
def result() -> FoldResult:
    """The network of a few blocks, folded here."""
    from tests.page.pages import blocks

    model, example = blocks()
    return refold.fold(model, example)
