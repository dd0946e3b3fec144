"""Files from elsewhere: what torch exports, a trained model of a package, and the ONNX project's own test models."""

from __future__ import annotations

import subprocess
import sys
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.case.test_case import TestCase

import refold
from tests.dialects.onnx.models import kinds, run

CACHE = Path.home() / ".cache" / "refold"
CLASSIFIER = "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"


def rep_vgg() -> Any:
    """RepVGG-A0 in training form, with statistics that a training would leave."""
    torch = pytest.importorskip("torch")

    class Block(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            conv, norm = torch.nn.Conv2d, torch.nn.BatchNorm2d
            self.three = torch.nn.Sequential(conv(inputs, outputs, 3, stride, 1, bias=False), norm(outputs))
            self.one = torch.nn.Sequential(conv(inputs, outputs, 1, stride, bias=False), norm(outputs))
            self.same = norm(inputs) if inputs == outputs and stride == 1 else None

        def forward(self, x: Any) -> Any:
            total = self.three(x) + self.one(x)
            return torch.relu(total if self.same is None else total + self.same(x))

    torch.manual_seed(0)
    layers, before = [], 3
    for number, width in zip((1, 2, 4, 14, 1), (48, 48, 96, 192, 1280), strict=True):
        layers += [Block(before if block == 0 else width, width, 2 if block == 0 else 1) for block in range(number)]
        before = width
    model = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(before, 10))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.3, 0.8)
    return model.eval()


@pytest.mark.parametrize("dynamo", [False, True])
def test_rep_vgg_from_torch(tmp_path: Path, dynamo: bool) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    path = tmp_path / "a0.onnx"
    x = torch.randn(2, 3, 64, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            torch.onnx.export(rep_vgg(), (x,), path, dynamo=True, input_names=["x"], verbose=False)
        else:
            preserve = torch.onnx.TrainingMode.PRESERVE
            options = {"dynamo": False, "do_constant_folding": False, "training": preserve, "dynamic_axes": {"x": {0: "n", 2: "h", 3: "w"}}}
            torch.onnx.export(rep_vgg(), (x,), str(path), input_names=["x"], **options)
    result = refold.fold(path)
    out = result.save(tmp_path / "out.onnx")
    counts = Counter(kinds(onnx.load(out)))
    assert (counts["Conv"], counts["Add"], counts["BatchNormalization"]) == (22, 0, 0)
    onnx.checker.check_model(out, full_check=True)
    mine, theirs = run(path, {"x": x.numpy()})[0], run(out, {"x": x.numpy()})[0]
    assert float(np.abs(mine - theirs).max()) <= 1e-5 * float(np.abs(mine).max())
    assert refold.check(out) == ()


@pytest.fixture(scope="session")
def classifier() -> Path:
    """The trained text-direction classifier of the package `rapidocr`, fetched once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    wheels = sorted(CACHE.glob("rapidocr-*.whl"))
    if not wheels:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check", "-d", str(CACHE), "rapidocr"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120)
        except (subprocess.SubprocessError, OSError):
            pytest.skip("the package rapidocr cannot be downloaded here, so its model is not tested")
        wheels = sorted(CACHE.glob("rapidocr-*.whl"))
    with zipfile.ZipFile(wheels[-1]) as wheel:
        if CLASSIFIER not in wheel.namelist():
            pytest.skip("this version of rapidocr does not carry the classifier")
        return Path(wheel.extract(CLASSIFIER, CACHE))


def text_images() -> np.ndarray[Any, Any]:
    """Lines of text as the classifier takes them: (n, 3, 48, 192), upright and upside down, from -1 to 1."""
    image, draw, font = (pytest.importorskip(f"PIL.{name}") for name in ("Image", "ImageDraw", "ImageFont"))
    images = []
    for text in ("train wide", "ship narrow", "fold 1x1", "0123456789"):
        picture = image.new("RGB", (192, 48), "white")
        draw.Draw(picture).text((8, 6), text, fill="black", font=font.load_default(size=30))
        for turned in (picture, picture.rotate(180)):
            images.append(np.asarray(turned, np.float32).transpose(2, 0, 1) / 127.5 - 1)
    return np.stack(images)


def test_a_trained_classifier(classifier: Path, tmp_path: Path) -> None:
    images = text_images()
    result = refold.fold(classifier, {"x": images})
    assert (result.report.before.convolutions, result.report.before.batch_norms) == (53, 35)
    assert result.report.after.batch_norms == 0
    out = result.save(tmp_path / "out.onnx")
    onnx.checker.check_model(out, full_check=True)
    mine, theirs = run(classifier, {"x": images})[0], run(out, {"x": images})[0]
    assert float(np.abs(mine - theirs).max()) < 1e-5
    assert (mine.argmax(1) == theirs.argmax(1)).all()
    assert mine.argmax(1).tolist() == [0, 1] * 4, "the classifier tells upright from upside down, so the images are real to it"


def test_the_models_of_the_onnx_project() -> None:
    """Each operator's own test model goes through, and gives what it gave on the project's own data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [case for case in collect_testcases(None) if case.model is not None]
    assert len(cases) > 1000
    folds = 0
    for case in cases:
        assert case.model is not None
        result = refold.fold(case.model, verify=False)
        skeleton = result.deployed.written.skeleton  # type: ignore[attr-defined]
        if not result.report.folds:
            assert len(skeleton.graph.node) == len(case.model.graph.node), case.name
            continue
        folds += 1
        _same_outputs(case, result.model)
    assert folds > 50


def _same_outputs(case: TestCase, model: Any) -> None:
    import onnx_ir as ir

    new = ir.to_proto(model)
    assert case.model is not None
    for inputs, _ in case.data_sets or []:
        feeds = dict(zip([value.name for value in case.model.graph.input], inputs, strict=False))
        try:
            expected = run(case.model, feeds)
        except Exception:  # this runtime does not know the operator, or not for this type
            return
        for mine, theirs in zip(_flat(expected), _flat(run(new, feeds)), strict=True):
            if mine.dtype.kind == "f":
                np.testing.assert_allclose(theirs.astype(float), mine.astype(float), rtol=1e-3, atol=1e-4, err_msg=case.name)
            else:
                assert (mine == theirs).all(), case.name


def _flat(outputs: list[Any]) -> list[Any]:
    """Tensors, those in sequences too."""
    return [one for output in outputs for one in (output if isinstance(output, list) else [output])]
