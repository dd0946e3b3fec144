"""What an invalid model is told, and that valid ones are not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

import refold
from tests.dialects.onnx.models import model_of, random, rep_block
from tests.hostile.files import hostile_files

SAYS = {
    "graphs-opset-99": "opset 99 is newer than",
    "graphs-two-opsets": "it states 2 opsets for the domain 'ai.onnx'",
    "graphs-no-output": "its graph has no output",
    "graphs-input-of-type-55": "input `x` has the element type 55, which is none",
    "graphs-input-of-size--2": "input `x` has the size -2; sizes cannot be negative",
    "attributes-cast-to-77": "casts to the element type 77, which is none",
    "attributes-constant-with-two-values": "has 2 values where it takes one",
    "axes-softmax-1099511627776": "has the axis 1099511627776 and reads a value of 4 axes",
    "broadcasts-Add-of-int64": "reads float and int64, where all that it reads must be of one type",
    "tensors-type--1": "reads float and the unknown type -1, where all that it reads must be of one type",
    "windows-conv-stride-0": "Conv `y` has strides [0, 0], which must be at least 1",
    "windows-conv-pads-of-3": "Conv `y` has 3 pads where its 2 spatial axes take 4",
    "windows-conv-pad-named-oddly": "has auto_pad 'SOME', which is none of NOTSET",
    "windows-conv-kernel-too-large": "states the kernel_shape [11, 3] and has a weight of [3, 3]",
    "windows-average-kernel-too-large": "has windows of 11 items on an axis of 9 padded by 0 and 0",
    "windows-conv-group-3": "has a weight for 4 channels in each of its groups (=3) and reads 4",
    "windows-conv-group-0": "has group 0, which must be at least 1",
    "windows-conv-group-4": "has group 4, which does not divide its 6 output channels",
    "windows-conv-bias-3": "has a bias of shape [3] for 4 output channels",
    "windows-conv-weight-4x4": "has a weight of 2 axes and reads a value of 4",
    "windows-conv-of-a-matrix": "reads a value of 2 axes, where it takes a batch, channels and one axis at least",
    "windows-transposed-weight": "has a weight for 3 channels and reads 4",
    "sizes-input-1x1099511627776x3x3": "holds 9,895,604,649,984 numbers, more than 68,719,476,736",
    "shapes-concat-1x4x9x8": "ShapeInferenceError",
}


@pytest.mark.parametrize("name", list(SAYS))
def test_the_fact_is_told(name: str, tmp_path: Path) -> None:
    file = next(one for one in hostile_files() if one.name == name)
    file.write(tmp_path / "m.onnx")
    with pytest.raises(refold.FoldError, match=re.escape(SAYS[name]) + ".*; mend the model before folding it"):
        refold.check(tmp_path / "m.onnx")


def odd_but_valid() -> dict[str, Any]:
    node = helper.make_node
    conv = {"w": random(4, 4, 3, 3)}
    custom = model_of([node("Relu", ["x"], ["y"])], {})
    custom.graph.node[0].domain = "nobody.knows"
    custom.opset_import.append(helper.make_opsetid("nobody.knows", 1))
    over: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}
    unstated = model_of(*rep_block(), x=("N", 4, -1, -1))
    return {
        "stride-beyond-the-input": model_of([node("Conv", ["x", "w"], ["y"], strides=[1 << 40, 1 << 40])], conv),
        "unknown-sizes-as-minus-1": unstated,
        "operator-of-another-domain": custom,
        "empty-batch": model_of([node("Conv", ["x", "w"], ["y"])], conv, (0, 4, 9, 9)),
        "window-over-the-end": model_of([node("MaxPool", ["x"], ["y"], **over)], {}, (1, 4, 2, 2)),
        "window-one-too-long": model_of([node("LpPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])], {}, (1, 4, 1, 1)),
        "axis-from-the-end": model_of([node("Softmax", ["x"], ["y"], axis=-4)], {}),
        "pads-with-auto-pad": model_of([node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER")], {"w": random(4, 4, 11, 11)}),
    }


@pytest.mark.parametrize("name", list(odd_but_valid()))
def test_what_is_odd_and_valid_is_not_refused(name: str, tmp_path: Path) -> None:
    onnx.save(odd_but_valid()[name], tmp_path / "m.onnx")
    refold.check(tmp_path / "m.onnx")
    refold.fold(tmp_path / "m.onnx").save(tmp_path / "y.onnx")
