"""Bad files, weights beside the model, and files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

import refold
from tests.dialects.onnx.models import kinds, model_of, random, rep_block, run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model of enough weight that tensors are taken out of it."""
    place = tmp_path / "model.onnx"
    onnx.save(model_of(*rep_block(32), x=("N", 32, "H", "W")), place)
    return place


def save_external(path: Path, **options: Any) -> Path:
    target = path.with_name("external.onnx")
    onnx.save(onnx.load(path), target, save_as_external_data=True, location="weights.bin", size_threshold=64, **options)
    return target


def test_a_file_is_folded(path: Path) -> None:
    out = refold.fold(path).save(path.with_name("out.onnx"))
    onnx.checker.check_model(out, full_check=True)
    assert kinds(onnx.load(out)) == ["Conv", "Relu"]
    x = {"x": random(1, 32, 6, 7)}
    np.testing.assert_allclose(run(path, x)[0], run(out, x)[0], rtol=1e-3, atol=1e-3)
    assert sorted(one.name for one in path.parent.iterdir()) == ["model.onnx", "out.certificate.json", "out.onnx"]


@pytest.mark.parametrize("content", [b"", b"\x00", b"random bytes that are no model", b"\xff" * 200, os.urandom(5000)])
def test_bytes_that_are_no_model(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "bad.onnx"
    place.write_bytes(content)
    with pytest.raises(refold.FoldError, match=r"bad.onnx is not an? (valid )?ONNX model"):
        refold.fold(place)


def test_a_message_that_is_no_model(tmp_path: Path) -> None:
    place = tmp_path / "tensor.onnx"
    place.write_bytes(TensorProto(name="t", dims=[2], data_type=1, float_data=[1, 2]).SerializeToString())
    with pytest.raises(refold.FoldError, match=r"not a.* ONNX model"):
        refold.fold(place)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(refold.FoldError, match=r"model.onnx is not an? "):
        refold.fold(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(refold.FoldError, match=r"cannot read .*none.onnx: No such file or directory; name an ONNX file that exists"):
        refold.fold(tmp_path / "none.onnx")
    with pytest.raises(refold.FoldError, match="cannot read"):
        refold.fold(tmp_path)


def test_a_cycle_and_a_missing_initializer() -> None:
    with pytest.raises(refold.FoldError, match=r"not a valid ONNX model: .*; mend the model before folding it"):
        refold.fold(
            _unchecked(
                [helper.make_node("Relu", ["b"], ["a"]), helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Relu", ["b"], ["y"])]
            )
        )
    with pytest.raises(refold.FoldError, match="not a valid ONNX model"):
        refold.fold(_unchecked([helper.make_node("Conv", ["x", "nowhere"], ["y"])]))


def test_wrong_shapes() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    model = _unchecked(nodes, {"w": random(4, 3, 3, 3)})
    with pytest.raises(refold.FoldError, match=r"Conv `c` has a weight for 3 channels in each of its groups \(=1\) and reads 4; mend"):
        refold.fold(model, {"x": random(1, 4, 9, 9)})


def test_a_tensor_with_too_few_bytes(path: Path) -> None:
    model = onnx.load(path)
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    with pytest.raises(refold.FoldError, match=r"tensor `three.weight` of shape \[32, 32, 3, 3\] holds 36,860 bytes where .* take 36,864"):
        refold.fold(model)


def test_weights_beside_the_model(path: Path) -> None:
    source = save_external(path)
    out = refold.fold(source).save(path.with_name("out.onnx"))
    (data,) = path.parent.glob("out.onnx.*.data")
    assert data.stat().st_size > 36_000
    assert hashlib.sha256(data.read_bytes()).hexdigest().startswith(data.name.split(".")[2])  # named after its content
    assert out.stat().st_size < 36_000 / 4  # the graph and its certificate
    onnx.checker.check_model(out, full_check=True)
    x = {"x": random(1, 32, 6, 7)}
    np.testing.assert_allclose(run(source, x)[0], run(out, x)[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("entry", "value", "says"),
    [
        ("location", "elsewhere.bin", "is not there; copy it beside the model"),
        ("location", "../weights.bin", "is not a file in the model's folder"),
        ("location", "/etc/hosts", "is not a file in the model's folder"),
        ("location", "", "is not a file in the model's folder"),
        ("offset", "100000000", "is too short: tensor `three.weight` ends at byte"),
        ("offset", "-5", "is too short"),
        ("offset", "many", "that is no number"),
        ("length", "12", "has 12 bytes of external data where its shape and type take 36,864"),
    ],
)
def test_external_data_that_is_not_as_it_should_be(path: Path, entry: str, value: str, says: str) -> None:
    source = save_external(path)
    model = onnx.load(source, load_external_data=False)
    tensor = next(one for one in model.graph.initializer if one.name == "three.weight")
    next(one for one in tensor.external_data if one.key == entry).value = value
    source.write_bytes(model.SerializeToString())
    with pytest.raises(refold.FoldError, match=says):
        refold.fold(source)


def test_a_link_that_leaves_the_folder(path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    source = save_external(path)
    away = tmp_path_factory.mktemp("away") / "weights.bin"
    weights = path.with_name("weights.bin")
    weights.rename(away)
    weights.symlink_to(away)
    with pytest.raises(refold.FoldError, match="not a file in the model's folder"):
        refold.fold(source)


def test_external_data_that_is_cut_off(path: Path) -> None:
    source = save_external(path)
    weights = path.with_name("weights.bin")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(refold.FoldError, match=r"external data weights.bin is too short"):
        refold.fold(source)


def test_the_original_is_replaced_only_in_place(path: Path) -> None:
    source = save_external(path)
    weights = path.with_name("weights.bin")
    before = source.read_bytes(), weights.read_bytes()
    result = refold.fold(source)
    with pytest.raises(refold.FoldError, match="is the original, or holds its data"):
        result.save(source)
    weights.rename(weights.with_name("out.onnx.data"))
    other = onnx.load(source, load_external_data=False)
    for tensor in other.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "out.onnx.data" if entry.key == "location" else entry.value
    source.write_bytes(other.SerializeToString())
    refold.fold(source).save(path.with_name("out.onnx"))  # named after what it holds, its data is beside the original's
    assert path.with_name("out.onnx.data").read_bytes() == before[1]
    refold.fold(source).save(source, in_place=True)
    assert kinds(onnx.load(source)) == ["Conv", "Relu"]


def test_a_failed_write_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_external(path)
    result = refold.fold(source)
    out = path.with_name("out.onnx")
    first = refold.fold(source).save(out)
    (data,) = path.parent.glob("out.onnx.*.data")
    kept = first.read_bytes(), data.read_bytes()
    names = sorted(one.name for one in path.parent.iterdir())
    real = os.replace

    def failing(a: Any, b: Any) -> None:
        if Path(b) == out:
            raise OSError(28, "No space left on device")
        real(a, b)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(refold.FoldError, match="No space left on device; what stood there before is untouched"):
        result.save(out)
    assert (out.read_bytes(), data.read_bytes()) == kept
    assert sorted(one.name for one in path.parent.iterdir()) == names


def test_other_endings_and_other_things(path: Path) -> None:
    with pytest.raises(refold.FoldError, match="cannot be written as a file of kind 'pt2'"):
        refold.fold(path).save(path.with_suffix(".pt2"))
    with pytest.raises(refold.FoldError, match="a GraphProto is not an ONNX model"):
        refold.fold(onnx.load(path).graph)


def _unchecked(nodes: list[onnx.NodeProto], constants: dict[str, Any] | None = None) -> ModelProto:
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, None, None]) for name in ("x", "y")]
    return helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
