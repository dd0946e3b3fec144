"""Peak memory: what a block holds at its highest, also where it lets it go again."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from refold.bench import _memory
from refold.bench._memory import peak_memory


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps a mark that can be reset")
def test_what_was_freed_within_the_block_counts() -> None:
    with peak_memory() as peak:
        size = np.ones(40_000_000, np.uint8).nbytes
    if peak.bytes is None:
        pytest.skip("the mark may not be reset here")
    assert 0.9 * size < peak.bytes < 1.5 * size
    with peak_memory() as little:
        pass
    assert little.bytes is not None
    assert little.bytes < 0.1 * size


def test_a_system_that_does_not_say_gives_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_memory, "PROCESS", tmp_path / "nowhere")
    with peak_memory() as peak:
        pass
    assert peak.bytes is None
    monkeypatch.setattr(sys, "platform", "win32")
    with peak_memory() as peak:
        pass
    assert peak.bytes is None
