"""Saved files beside the originals at other sizes: a few networks of each kind; `python -m tests.sizes.saved` runs all of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import refold
from refold.dialects.aten._settle import LABEL, Settling, Untried, alike
from refold.dialects.aten._tries import Example
from refold.errors import FoldError, VerificationError
from refold.folding import FoldResult
from tests.sizes.models import MODELS, Net, norm
from tests.sizes.saved import RUNTIMES, is_same, outcomes

BY_NAME = {one.name: one for one in MODELS}
ONNX_RUNTIMES = [name for name, (kind, _) in RUNTIMES.items() if kind == "onnx"]
# The first were wrong in silence in a file once: what tracing took for granted is no guard of the network's, or none that a file can state.
SAVED = ("steps by a loop", "a branch on square maps", "a branch on the batch", "adaptive pooling to three", "frames in the batch")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[FoldResult, Path]]:
    """A network by name, folded, and the ONNX file that it was saved to."""

    @cache
    def make(name: str) -> tuple[FoldResult, Path]:
        one = BY_NAME[name]
        result = refold.fold(one.make(), one.inputs(), verify=False)
        return result, result.save(tmp_path_factory.mktemp("saved") / "deploy.onnx")

    return make


Saved = Callable[[str], "tuple[FoldResult, Path]"]


def stated(path: Path) -> dict[str, list[Any]]:
    """The sizes of inputs and outputs as a file states them: numbers, or names."""
    graph = onnx.load(path).graph
    return {
        value.name: [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }


def told(path: Path) -> dict[str, Any]:
    (text,) = [entry.value for entry in onnx.load(path).metadata_props if entry.key == LABEL]
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_file_gives_what_the_original_gives_or_does_not_run(name: str, saved: Saved) -> None:
    _, path = saved(name)
    counts: Counter[tuple[str, str]] = Counter()
    for runtime, shapes, outcome in outcomes(BY_NAME[name], {"onnx": path}, ONNX_RUNTIMES):
        assert outcome != "wrong", (runtime, shapes)
        assert outcome == "same" or shapes != BY_NAME[name].example, (runtime, shapes)
        counts[runtime, outcome] += 1
    assert all(counts[runtime, "same"] >= (30 if name == "frames in the batch" else 2) for runtime in ONNX_RUNTIMES)
    named = [size for sizes in stated(path).values() for size in sizes if isinstance(size, str)]
    assert not any(not name or name.isdigit() for name in named)


def test_an_exported_program_gives_what_the_original_gives_or_raises(tmp_path: Path) -> None:
    one = BY_NAME["a branch on the batch"]
    path = refold.fold(one.make(), one.inputs(), verify=False).save(tmp_path / "deploy.pt2")
    found = {outcome for _, _, outcome in outcomes(one, {"pt2": path}, ["torch.export"])}
    assert found == {"same", "refused"}
    torch.export.load(path, extra_files=(files := {LABEL: ""}))
    assert json.loads(files[LABEL])["shown"]


def test_fixed_sizes_are_numbers_and_the_file_says_why(saved: Saved) -> None:
    """One that the weights fix, and one relation between axes that no file can state."""
    result, path = saved("a branch on square maps")
    ((name, sizes), (_, made)) = stated(path).items()
    assert (sizes[1:], made[1:]) == ([3, 16, 16], [6, 16, 16])
    assert isinstance(sizes[0], str)
    assert any(
        f"axis 2 of `{name}` is 16: with " in note and "something else than the original" in note
        for note in result.file_notes["deploy.onnx"]
    )
    what = told(path)
    assert {(one["axis"], one["size"]) for one in what["fixed"]} == {(1, 3), (2, 16), (3, 16)}
    assert what["free"] == [{"input": name, "axis": 0}]
    assert {shape[name][0] for shape in what["shown"]} >= {1, 2, 3}


def test_a_relation_that_the_original_demands_leaves_the_axes_free_and_is_told(saved: Saved) -> None:
    result, path = saved("sizes asserted to be multiples")
    sizes = next(iter(stated(path).values()))
    assert [type(size) for size in sizes] == [str, int, str, str]
    assert any("the original takes only inputs where" in note and "a multiple of 4" in note for note in result.file_notes["deploy.onnx"])
    assert any("a multiple of 4" in text for text in told(path)["not_checked"])


def test_what_the_exporter_cannot_write_with_free_sizes_is_written_with_numbers(saved: Saved) -> None:
    result, path = saved("rolled by half")
    sizes = next(iter(stated(path).values()))
    assert sizes[1:] == [3, 8, 8]
    assert any("could not be written with it free" in note for note in result.file_notes["deploy.onnx"])


def test_an_example_of_zeros_shows_the_same(tmp_path: Path) -> None:
    """Nothing could be told by zeros, so other numbers are drawn."""
    one = BY_NAME["a branch on length"]
    result = refold.fold(one.make(), (torch.zeros(one.example[0]),), verify=False)
    sizes = next(iter(stated(result.save(tmp_path / "zeros.onnx")).values()))
    assert sizes[1:] == [4, 16]


def test_an_onnx_file_folded_states_what_it_stated(saved: Saved, tmp_path: Path) -> None:
    one = BY_NAME["frames in the batch"]
    _, original = saved("frames in the batch")
    model = onnx.load(original)
    folded = refold.fold(original, {model.graph.input[0].name: one.inputs()[0].numpy()}).save(tmp_path / "folded.onnx")
    assert stated(folded) == stated(original)
    run, net = RUNTIMES["ONNX Runtime"][1](folded), one.make()
    for shapes in list(one.others())[::4]:
        (x,) = one.inputs(shapes)
        try:
            expected = net(x).detach().numpy()
        except RuntimeError:
            continue
        assert is_same(run([x.numpy()])[0], expected), shapes


class Recorded:
    """A file in memory that gives what a function makes of its input."""

    groups = ()

    def __init__(self, function: Any) -> None:
        self.function = function

    def run(self, args: tuple[Any, ...], kwargs: Any) -> list[Any]:
        return [self.function(*args)]


@pytest.mark.parametrize("length", [40, 128])
def test_a_table_that_ends_far_beyond_the_example_leaves_the_axis_free(length: int, tmp_path: Path) -> None:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = net.norm(net.conv(x))
        y = y + net.table[:, :, : y.shape[2]]
        return y

    torch.manual_seed(0)
    table = nn.Parameter(torch.randn(1, 8, 512))
    model = Net(forward, conv=nn.Conv1d(4, 8, 3, padding=1), norm=nn.BatchNorm1d(8), table=table).eval()
    result = refold.fold(model, torch.randn(2, 4, length))
    result.save(tmp_path / "net.onnx")
    (stated,) = onnx.load(tmp_path / "net.onnx").graph.input
    assert [bool(size.dim_param) for size in stated.type.tensor_type.shape.dim] == [True, False, True]


def test_the_judge_objects_to_another_function_and_to_another_shape() -> None:
    x = torch.randn(3, 4)
    assert alike([x.clone()], [x])
    assert alike([x * (1 + 1e-6)], [x])
    assert not alike([x * 1.01], [x])
    assert not alike([x[:2]], [x])
    assert not alike([x.double()], [x])
    assert not alike([x, x], [x])
    assert not alike([x * torch.nan], [x])
    assert not is_same(x.numpy() * 1.01, x.numpy())
    assert not is_same(np.zeros((2, 4), np.float32), x.numpy())


def test_a_file_that_is_not_the_network_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = refold.fold(nn.Sequential(*norm()), (torch.randn(2, 3, 8, 8),))
    monkeypatch.setattr("refold.dialects.aten._files.OnnxDraft.run", lambda self, args, kwargs: [args[0].new_zeros(2, 6, 8, 8)])
    with pytest.raises(VerificationError, match="wrote a file that gives something else than the original on the example inputs"):
        result.save(tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()


def test_a_file_that_cannot_be_tried_has_numbers_alone(tmp_path: Path) -> None:
    """Dropout that stays on draws random numbers, so that no two runs are alike."""
    net = Net(lambda net, x: nn.functional.dropout(net.a(x), 0.5, training=True), a=norm())
    result = refold.fold(net, (torch.randn(2, 3, 8, 8),), verify=False)
    path = result.save(tmp_path / "random.onnx")
    assert next(iter(stated(path).values())) == [2, 3, 8, 8]
    assert any("could not be tried: the network draws random numbers" in note for note in result.file_notes["random.onnx"])


def test_axes_at_which_no_other_size_is_taken_are_numbers() -> None:
    def original(args: tuple[Any, ...], kwargs: Any) -> Any:
        raise FoldError("no other size")

    example = Example(("x",), (torch.randn(2, 3),), {})
    drafts: list[set[int]] = []

    def make(is_free: Any) -> Any:
        drafts.append({axis for axis in (0, 1) if is_free(("x", axis))})
        program = torch.export.export(
            nn.ReLU(), example.args, dynamic_shapes=(dict.fromkeys(drafts[-1], torch.export.Dim.AUTO),) if drafts[-1] else None
        )
        draft = Recorded(torch.relu)
        from refold.dialects.aten._files import _groups

        draft.groups = _groups(program, example)  # type: ignore[assignment]
        return draft

    settled = Settling(make, original, lambda draft: None, example, ()).settle()
    assert drafts == [{0, 1}, set()]
    assert set(settled.fixed) == {("x", 0), ("x", 1)}
    assert "no other size was seen" in settled.fixed["x", 0]


def test_a_draft_that_is_never_the_original_is_an_error() -> None:
    def demand(draft: Any) -> None:
        raise VerificationError("it is another function")

    with pytest.raises(VerificationError, match="it is another function"):
        Settling(lambda free: Recorded(torch.relu), lambda *given: None, demand, Example(("x",), (torch.randn(2),), {}), ()).settle()
    with pytest.raises(Untried, match="no runtime"):
        raise Untried("no runtime")
