"""Where two ONNX files part, or a PyTorch model and the file that was exported of it: the same faults, named in the same words."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from refold.cli import main
from refold.errors import FoldError
from refold.verification import SEED

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
import onnx
import torch
from torch import Tensor, nn

from refold.locate import locate
from tests.test_locate import FAULTS, NETS, Block, Fault, X, convert, settled

IN_ONNX = {"mean": "ReduceMean", "conv2d": "Conv", "relu": "Relu", "sigmoid": "Sigmoid", "mul": "Mul", "batch_norm": "BatchNormalization"}
SEEN = [fault for fault in FAULTS if fault.name not in ("dilation", "alpha left out", "train mode, another batch", "bfloat16")]
"""One of each kind: exporting takes its time."""


def exported(model: nn.Module, example: tuple[Tensor, ...] = (X,), **options: Any) -> onnx.ModelProto:
    """As `torch.onnx.export` writes it: the batch norms merged where it is to optimize."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model.eval(), example, dynamo=True, verbose=False, **options)
    assert program is not None
    return program.model_proto


def in_onnx(text: str) -> str:
    """With the operators of ONNX for those of PyTorch."""
    if text.startswith(("left out", "batch_norm folded")):
        for word, other in IN_ONNX.items():
            text = re.sub(rf"\b{word}\b", other, text)
    return text


@pytest.mark.parametrize("fault", SEEN, ids=lambda fault: fault.name)
def test_a_fault_is_found_in_exported_files_too(fault: Fault, seed: int) -> None:
    position = 1
    original, deployed = fault.pair(position)
    file, kept, merged = exported(deployed), exported(original, optimize=False), exported(original, optimize=True)
    assert {"BatchNormalization", "Conv"} <= {node.op_type for node in kept.graph.node}
    for first, second, says in (
        (original, file, fault.says),
        (kept, file, in_onnx(fault.says)),
        (merged, file, in_onnx(fault.merged or fault.says)),
        (kept, deployed, in_onnx(fault.says)),
    ):
        found = locate(first, second, X)
        assert found is not None
        assert says in found.cause, str(found)
        operation = IN_ONNX[fault.at] if second is file else fault.at
        assert (found.operation, found.folder) == (operation, f"{position}.conv" if fault.at == "conv2d" else str(position)), str(found)
        assert found.difference > found.allowed


@pytest.mark.parametrize("options", [{"groups": 2}, {"se": True}, {"mode": "reflect", "alpha": 0.0, "identity": False}])
def test_a_right_conversion_departs_nowhere_in_exported_files(options: dict[str, Any], seed: int) -> None:
    block: Any = settled(Block(**options))
    deployed = convert(block).eval()
    first, second = exported(block), exported(deployed)
    for one, other in ((first, second), (block, second), (first, deployed)):
        assert locate(one, other, X) is None
    assert locate(first, second) is None  # on inputs of the sizes that the file states


class Weighed(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x - y / 2


def test_models_that_take_other_inputs_are_both_told() -> None:
    x = torch.ones(1, 4, 6, 6)
    two, one, three = exported(Weighed(), (x, 2 * x)), exported(nn.Conv2d(4, 2, 3), (x,)), exported(nn.Conv2d(3, 2, 3), (x[:, :3],))
    of_two, of_one = r"`x` \(1 x 4 x 6 x 6\), `y` \(1 x 4 x 6 x 6\)", r"`input` \(1 x 4 x 6 x 6\)"
    for first, second, given, says in (
        (two, one, (x, x), f"the first model takes {of_two} and the second {of_one}; compare models that take the same inputs"),
        (Weighed(), one, (x, x), f"the first model takes {of_two} and the second {of_one}; compare models that take the same inputs"),
        (one, two, x, f"the first model takes {of_one} and the second {of_two}; compare models that take the same inputs"),
        (one, three, x, rf"takes {of_one} and the second `input` \(1 x 3 x 6 x 6\); compare models that take inputs of the same shapes"),
        (
            one,
            Weighed(),
            x,
            rf"takes {of_one}, which the second, a Weighed, does not run on: .*missing 1 required positional argument: 'y'",
        ),
        (one, nn.Conv2d(3, 2, 3), x, rf"takes {of_one}, which the second, a Conv2d, does not run on: .*weight of size \[2, 3, 3, 3\]"),
        (two, Weighed(), x, "input 'y' is not given; the model takes x, y"),
    ):
        with pytest.raises(FoldError, match=says):
            locate(first, second, given)


def test_inputs_go_by_name_where_the_names_are_the_same() -> None:
    class Turned(nn.Module):
        def forward(self, y: Tensor, x: Tensor) -> Tensor:
            return x - y / 2

    x, y = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(3))
    straight, turned = exported(Weighed(), (x, y)), exported(Turned(), (y, x))
    for first, second in ((straight, turned), (straight, Turned()), (straight, torch.export.export(Turned(), (y, x))), (Weighed(), turned)):
        assert locate(first, second, (x, y)) is None
    assert locate(straight, Weighed(), kwargs={"y": y, "x": x}) is None
    assert locate(straight, exported(Turned(), (y, x), input_names=["a", "b"]), (x, y)) is not None


def test_a_model_in_another_dtype_departs_at_its_weights(seed: int) -> None:
    layer = nn.Conv2d(8, 4, 3)
    file = exported(layer)
    found = locate(file, layer.bfloat16(), X)
    assert found is not None
    assert (found.operation, found.cause) == ("conv2d", "dtype: the weights are no finer than bfloat16")


def test_the_command_line_reads_exported_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faulty.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    nets: Any = importlib.import_module("faulty")
    torch.manual_seed(SEED)  # as the command line seeds a factory
    right, wrong = nets.right(), nets.wrong()
    nn.init.zeros_(wrong[0].bias)
    wrong[0].weight = right[0][0].weight
    onnx.save(exported(right[0], right[1]), "right.onnx")
    onnx.save(exported(wrong, right[1]), "wrong.onnx")
    for first in ("right.onnx", "faulty:right"):
        result = CliRunner().invoke(main, ["verify", first, "wrong.onnx", "--locate"])
        assert result.exit_code == 3, result.output
        assert "departs at conv2d (Conv in `0`), which should be conv2d in `0`" in result.stdout
        assert "likely cause: dropped bias of a layer" in result.stdout
        same = CliRunner().invoke(main, ["verify", first, "right.onnx", "--locate", "--json"])
        assert (same.exit_code, json.loads(same.stdout)["departure"]) == (0, None)
    turned = CliRunner().invoke(main, ["verify", "wrong.onnx", "faulty:right", "--locate"])
    assert turned.exit_code == 2
    assert "wrong.onnx is an ONNX file and faulty:right is not; name the PyTorch model first" in turned.stderr
    sys.modules.pop("faulty", None)
