"""The quantization example from training to table, on a training of two epochs."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from examples.digits import quantize


def test_fold_then_quantize_of_both_families(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    assert quantize.main(["--epochs", "2"]) == 0
    printed = capsys.readouterr().out
    rows = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]]
        for line in printed.splitlines()
        if line.startswith("│")
    }
    assert all(float(cell.rstrip("%")) > 50 for cell in rows["held-out accuracy, float"])  # by chance 10
    assert rows["same digit as the train form, folded, float"] == ["100.00%", "100.00%"]
    for cell in rows["int8 signal-to-noise per tensor, median kernel"]:
        before, after = (float(part.removesuffix(" dB")) for part in cell.split(" → "))
        assert after < before
    assert len(rows["folded kernels noisier than all that went into them"]) == 2
    assert all(float(cell) > 1e-4 for cell in rows["largest difference, folded, int8"])
