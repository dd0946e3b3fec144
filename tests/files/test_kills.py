"""A save that is killed at any call that changes a file leaves the old model or the new, whole and certified, and no strays after a run."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
from tests.files import kills, tracing

pytestmark = [
    pytest.mark.skipif(not tracing.can_trace, reason="calls are traced on Linux alone"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export a program once, not in every process that is killed."""
    from refold.dialects.aten import _save
    from refold.dialects.aten._trace import export

    real = functools.cache(lambda model, args: export(model, args, {}))
    monkeypatch.setattr(_save, "export", lambda model, args, kwargs: real(model, args))


@pytest.mark.parametrize("title", kills.CASES)
def test_killed_at_every_call(title: str, tmp_path: Path, once: None) -> None:
    case = kills.make_case(title, tmp_path)
    assert kills.at_every_call(case, tmp_path) == []


@pytest.mark.parametrize("step", ["certificate", "data"])
def test_another_order_is_found(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle can object: without the certificate of both, or with data under the old name, kills show."""
    case = kills.make_case("external over external", tmp_path)
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        if step == "certificate" and Path(source).name == "both":
            return
        if step == "data" and Path(target).suffix == ".data":
            (old,) = Path(target).parent.glob("deploy.onnx.*.data")
            real(old, tmp_path / "away")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    assert kills.at_every_call(case, tmp_path, first=True)
