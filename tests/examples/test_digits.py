"""The digits example from end to end, on a training of two epochs; and that it objects to a network that is not the same."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
import torch
from torch import Tensor, nn

import refold
from examples.digits import demo

SHORT = ["--epochs", "2", "--rounds", "3"]


def multiply_adds_by_hand() -> int:
    """Of the deploy form: 3x3 convolutions on 8x8 and then 4x4 places, and the linear layer."""
    wide, narrow = 9 * 64, 9 * 16
    return wide * (1 * 32 + 32 * 32 + 32 * 32) + narrow * (32 * 64 + 64 * 64 + 64 * 64) + 64 * 10


def test_the_demo_from_training_to_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        assert demo.main([*SHORT, "--output", str(tmp_path / "new" / "folder")]) == 0
    printed = capsys.readouterr()
    assert not [one for one in raised if "torch" not in one.filename and "copyreg" not in one.filename], raised
    assert printed.err == ""
    rows = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in printed.out.splitlines() if line.startswith("│")}
    counts = {label: [cell.strip() for cell in cells] for label, cells in rows.items()}
    assert counts["convolutions"] == ["12", "6", "2.00"]
    assert counts["batch norms"] == ["16", "0", "all gone"]
    assert counts["additions"] == ["10", "0", "all gone"]
    assert counts["multiply-adds, one image"][1] == f"{multiply_adds_by_hand():,}"
    assert counts["same predictions, torch"][1] == counts["same predictions, ONNX Runtime"][1] == "450 of 450"
    assert float(counts["largest difference, torch"][1]) < 1e-5
    assert float(counts["held-out accuracy, torch"][0].rstrip("%")) > 50  # by chance 10
    assert len({tuple(counts[f"held-out accuracy, {engine}"][:2]) for engine in ("torch", "ONNX Runtime")}) == 1
    assert "All four predict the same digit for every one of the 450 held-out images." in printed.out
    for name in ("train.onnx", "deploy.onnx", "deploy.pt2"):
        assert (tmp_path / "new" / "folder" / name).stat().st_size > 100_000
    page = tmp_path / "new" / "folder" / "report.html"
    assert printed.out.splitlines()[-1].startswith(f"Report: {page} ")
    text = page.read_text(encoding="utf-8")
    assert "A RepVGG for handwritten digits" in text
    assert "6 folds proven in float64" in text
    assert refold.check(tmp_path / "new" / "folder" / "deploy.onnx") == ()
    assert refold.check(tmp_path / "new" / "folder" / "train.onnx")


def test_a_deploy_form_of_other_predictions_fails_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "export", lambda *arguments: None)
    monkeypatch.setattr(demo, "in_onnx_runtime", lambda path: lambda images: torch.zeros(len(images), 10))
    assert demo.main([*SHORT, "--output", str(tmp_path)]) == 3
    assert "do not predict the same digit" in capsys.readouterr().out


def test_what_is_held_out_is_not_trained_on() -> None:
    digits = demo.load()
    assert len(digits.images) + len(digits.held_out_images) == 1797
    assert len(digits.held_out_images) == demo.HELD_OUT
    assert 0 <= float(digits.images.min()) < float(digits.images.max()) <= 1
    shares = [labels.bincount(minlength=10) / len(labels) for labels in (digits.labels, digits.held_out_labels)]
    assert float((shares[0] - shares[1]).abs().max()) < 0.005


def test_forms_are_measured_side_by_side() -> None:
    digits = demo.load()
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()

    def wrong(images: Tensor) -> Tensor:
        return nn.functional.one_hot((digits.held_out_labels[: len(images)] + 1) % 10, 10).float()

    same, other = demo.measure([network, wrong], digits, rounds=2)
    assert torch.equal(same.logits, network(digits.held_out_images))
    assert other.accuracy == 0
    assert same.latency > 0
