"""Sizes that shape inference loses are those of one run on small inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

import refold
from refold.dialects.onnx._load import load
from refold.dialects.onnx._measure import measured
from refold.dialects.onnx._scopes import make_scopes
from refold.runtime import RuntimeDied
from tests.dialects.onnx.models import model_of, random, run


def lossy(x: tuple[Any, ...] = ("N", 4, "H", "W")) -> Any:
    """A convolution, its result reshaped by sizes that went through a Max, which inference does not follow, and scaled twice."""
    node = helper.make_node
    constants = {
        "w": random(8, 4, 1, 1), "zero": np.array([0]), "two": np.array([2]), "four": np.array([4]), "end": np.array([4]),
        "flat": np.array([-1]), "s": random(1, 8, 1), "t": random(1, 8, 1), "v": random(8, 8, 1),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "w"], ["c"]), node("Shape", ["c"], ["all"]), node("Max", ["all", "zero"], ["again"]),
        node("Slice", ["again", "zero", "two"], ["front"]),
        node("Slice", ["again", "two", "end"], ["back"]), node("Concat", ["front", "flat"], ["shape"], axis=0),
        node("Reshape", ["c", "shape"], ["r"]), node("Mul", ["r", "s"], ["m"]), node("Add", ["m", "t"], ["a"]),
        node("Conv", ["a", "v"], ["k"]), node("Concat", ["front", "back"], ["whole"], axis=0), node("Reshape", ["k", "whole"], ["b"]),
        node("Add", ["b", "c"], ["y"]),
    ]  # fmt: skip
    return model_of(nodes, constants, x)


def test_lost_sizes_are_measured_and_belong_together() -> None:
    source = load(lossy())
    top, _ = make_scopes(source.skeleton)
    assert "r" in top.lost
    assert top.types["r"].example[2] == 1
    found = measured(source, top).types
    n, channels, h, w = found["c"].example
    assert found["r"].example == (n, channels, h * w)
    assert found["k"].example == (n, channels, h * w)
    assert found["b"].example == (n, channels, h, w)
    assert h > 1


def test_a_model_with_lost_sizes_folds_and_is_proven() -> None:
    model = lossy()
    result = refold.fold(model)
    assert result.report.certificate is not None
    assert result.report.certificate.passed
    assert result.report.folds


@pytest.mark.parametrize("size", [3, 8])
def test_the_folded_model_takes_other_sizes(size: int, tmp_path: Any) -> None:
    model = lossy()
    x = {"x": np.random.default_rng(size).standard_normal((2, 4, size, size + 1)).astype(np.float32)}
    np.testing.assert_allclose(run(refold.fold(model).save(tmp_path / "y.onnx"), x)[0], run(model, x)[0], rtol=1e-4, atol=1e-4)


def test_where_it_does_not_run_at_the_first_sizes_others_are_tried() -> None:
    model = lossy()
    model.graph.node.extend([helper.make_node("Reshape", ["c", "only"], ["z"])])
    model.graph.initializer.append(helper.make_tensor("only", 7, [3], [-1, 8, 32 * 32]))
    model.graph.output.append(helper.make_tensor_value_info("z", 1, None))
    source = load(model)
    found = measured(source, make_scopes(source.skeleton)[0])
    assert found.types["c"].example[2:] in [(64, 64), (224, 224), (32, 32)]
    assert found.types["r"].example[2] == found.types["c"].example[2] * found.types["c"].example[3]


def test_where_the_runtime_dies_sizes_stay_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    source = load(lossy())
    top, _ = make_scopes(source.skeleton)

    def die(*_: Any) -> Any:
        raise RuntimeDied("dead")

    monkeypatch.setattr("refold.runtime.OpenSession.run", die)
    assert measured(source, top) is top
    assert top.types["r"].example[2] == 1
