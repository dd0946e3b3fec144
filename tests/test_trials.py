"""The sizes at which regions are run: every residue of every free axis, the smallest, and what is fixed as it is; faults that they find."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from torch import nn

import refold
from refold.dialects.aten import AtenModel
from refold.dialects.onnx import OnnxModel
from refold.geometry import Window
from refold.plan import make_plan
from refold.trials import run_trials, share
from refold.verification import SEED, Certificate, RegionEvidence, certify, demand, does_not_run, judge_region
from tests.dialects.aten.nets import Net, settled
from tests.dialects.onnx.models import batch_norm, model_of, random

TEN = 10


def in_torch(model: nn.Module, *shape: int) -> Certificate:
    network = AtenModel(settled(model, torch.float32), (torch.randn(*shape),))
    return certify(network.write(make_plan(network.graph, network.target)).region_evidence(SEED), ())


def in_onnx(nodes: Any, constants: dict[str, Any], x: Any) -> Certificate:
    network = OnnxModel(model_of(nodes, constants, x))
    return certify(network.write(make_plan(network.graph, network.target)).region_evidence(SEED), ())


def sizes_along(certificate: Certificate, axis: int = -1) -> set[int]:
    return {int(size.split("x")[axis]) for region in certificate.regions for size in region.sizes}


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_every_residue_of_a_free_axis_is_shown(stride: int) -> None:
    block = Net(lambda s, x: s.n(s.a(x)) + s.b(x), a=nn.Conv1d(3, 5, 3, stride, 1), b=nn.Conv1d(3, 5, 1, stride), n=nn.BatchNorm1d(5))
    found = in_torch(block, 2, 3, TEN)
    assert found.passed
    assert {size % stride for size in sizes_along(found) if size > 3} == set(range(stride))
    assert {1, 2} <= sizes_along(found)
    constants: dict[str, Any] = {"w": random(5, 4, 3)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], strides=[stride], pads=[1, 1]), batch_norm("c", "y", 5, constants)]
    found = in_onnx(nodes, constants, ("N", 4, "L"))
    assert found.passed
    assert {size % stride for size in sizes_along(found) if size > 3} == set(range(stride))
    assert {1, 2} <= sizes_along(found)


def test_every_residue_of_both_axes_is_shown() -> None:
    block = Net(lambda s, x: s.n(s.a(x)), a=nn.Conv2d(3, 5, (3, 5), (2, 3), (1, 2)), n=nn.BatchNorm2d(5))
    found = in_torch(block, 2, 3, TEN, TEN)
    assert found.passed
    for axis, stride in ((-2, 2), (-1, 3)):
        assert {size % stride for size in sizes_along(found, axis) if size > 5} == set(range(stride))


def test_a_fixed_axis_stays_congruent_to_its_size() -> None:
    constants: dict[str, Any] = {"w": random(5, 4, 3)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], strides=[3], pads=[1, 1]), batch_norm("c", "y", 5, constants)]
    found = in_onnx(nodes, constants, ("N", 4, 50))
    assert {size % 3 for size in sizes_along(found)} == {50 % 3}
    found = in_onnx(nodes, constants, ("N", 4, 5))
    assert sizes_along(found) == {5}


def test_terms_of_different_spatial_rank_are_proven() -> None:
    """The channels of one term are a spatial axis of the other."""

    def forward(s: Any, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return torch.relu(s.b(s.a(x)) + s.n(s.c(z)))

    model = Net(forward, a=nn.Linear(7, 9), b=nn.Linear(9, 8), c=nn.Conv1d(4, 6, 3, 1, 1), n=nn.BatchNorm1d(6))
    settled(model, torch.float32)
    x, z = torch.randn(2, 6, 7), torch.randn(2, 4, 8)
    result = refold.fold(model, (x, z))
    assert result.report.certificate is not None
    assert result.report.certificate.passed
    (region,) = result.report.certificate.regions
    assert all(size.endswith(("x4x8", "x6x7")) for size in region.sizes)


# ------------------------------------------------------------------------------------------------------- faults of the arithmetic


def reads_after_at_the_example(self: Window, n: int | None = None) -> bool:
    """The fault that was planted first: a size that is free is taken for that of the example."""
    n = TEN if n is None else n
    return self.stride * (self.output_size(n) - 1) + self.span - 1 - self.before >= self.places(n)


def strides_of_the_larger(self: Window, second: Window) -> Window:
    return replace(THEN(self, second), stride=max(self.stride, second.stride))


def crossed_strides(self: Window, second: Window) -> Window:
    return replace(THEN(self, second), before=self.before + second.before, after=self.after + second.after)


THEN = Window.then

# By name: what is planted in `Window`, the padding of the convolution behind a batch norm, and the size of the input where it is fixed.
FAULTS: dict[str, tuple[dict[str, Any], tuple[int, int], int | None]] = {
    "what lies behind is looked for at the example's size": ({"reads_after": reads_after_at_the_example}, (0, 1), None),
    "nothing is read behind": ({"reads_after": lambda self, n=None: False}, (0, 1), None),
    "nothing is read in front": ({"reads_before": lambda self: False}, (1, 0), None),
    "no borders": ({"reads_before": lambda self: False, "reads_after": lambda self, n=None: False}, (1, 1), None),
    "nothing is read behind, the size fixed": ({"reads_after": lambda self, n=None: False}, (0, 1), 8),
    "sizes off as well": ({"reads_after": reads_after_at_the_example, "places": lambda self, n: n + 2}, (0, 1), None),
    "excess off as well": (
        {"reads_after": reads_after_at_the_example, "excess": property(lambda self: self.before + self.after - self.span - 1)},
        (0, 1),
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_a_fault_in_the_arithmetic_of_windows_is_found(form: str, fault: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch norm in front of a padded convolution may pass it only where no window reads the padding."""
    planted, pads, fixed = FAULTS[fault]
    constants: dict[str, Any] = {"w": random(5, 4, 3)}
    nodes = [batch_norm("x", "n", 4, constants), helper.make_node("Conv", ["n", "w"], ["y"], strides=[3], pads=[*pads])]
    model = settled(nn.Sequential(nn.BatchNorm1d(4), nn.ConstantPad1d(pads, 0.0), nn.Conv1d(4, 5, 3, 3)), torch.float32)
    x = torch.randn(2, 4, fixed or TEN)

    def proven() -> Certificate:
        if form == "onnx":
            return in_onnx(nodes, constants, (1, 4, fixed or "L"))
        network = AtenModel(torch.export.export(model, (x,)) if fixed else model, (x,))
        deployed = network.write(make_plan(network.graph, network.target))
        assert deployed.folds or not planted
        return certify(deployed.region_evidence(SEED), ())

    for name, wrong in planted.items():
        monkeypatch.setattr(Window, name, wrong)
    with pytest.raises(refold.VerificationError, match=r"changed its function|does not run where the original does"):
        demand(proven())
    monkeypatch.undo()
    planted = {}
    demand(proven())


@pytest.mark.parametrize(("form", "wrong"), [("torch", strides_of_the_larger), ("onnx", strides_of_the_larger), ("onnx", crossed_strides)])
def test_a_fault_in_the_composition_of_windows_is_found(form: str, wrong: Any, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Window, "then", wrong)
    first: dict[str, Any] = {"strides": [2], "pads": [1, 1]}
    constants: dict[str, Any] = {"v": random(5, 4, 3), "w": random(3, 5, 1)}
    nodes = [helper.make_node("Conv", ["x", "v"], ["c"], **first), helper.make_node("Conv", ["c", "w"], ["y"], strides=[2])]
    layers: list[nn.Module] = [nn.Conv1d(4, 5, 3, 2, 1), nn.Conv1d(5, 3, 1, 2)]
    if wrong is crossed_strides:
        nodes.insert(1, helper.make_node("Pad", ["c", "cut"], ["d"]))
        nodes[2].input[0] = "d"
        constants["cut"] = np.array([0, 0, 1, 0, 0, 0])
    with pytest.raises(refold.VerificationError, match=r"changed its function|does not run where the original does"):
        demand(in_onnx(nodes, constants, ("N", 4, "L")) if form == "onnx" else in_torch(nn.Sequential(*layers), 2, 4, TEN))


# ------------------------------------------------------------------------------------------------- faults of what was written


def rep_block() -> tuple[list[Any], dict[str, Any]]:
    """B K3 x + B K1 x with strides and groups, and what a crop takes off behind it."""
    constants: dict[str, Any] = {"three": random(6, 4, 3, 3), "one": random(6, 4, 1, 1), "bias": random(6)}
    nodes = [
        helper.make_node("Conv", ["x", "three", "bias"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1], dilations=[1, 1]),
        batch_norm("c", "n", 6, constants),
        helper.make_node("Conv", ["x", "one"], ["d"], strides=[2, 2]),
        batch_norm("d", "m", 6, constants),
        helper.make_node("Add", ["n", "m"], ["y"]),
    ]
    return nodes, constants


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pads", [0, 0, 0, 0]),
        ("pads", [1, 1, 1, 0]),
        ("pads", [0, 1, 2, 1]),
        ("strides", [1, 2]),
        ("strides", [2, 3]),
        ("dilations", [1, 2]),
    ],
)
def test_a_wrong_setting_of_a_written_node_is_found(name: str, value: list[int]) -> None:
    network = OnnxModel(model_of(*rep_block(), ("N", 4, "H", "W")))
    deployed = network.write(make_plan(network.graph, network.target))
    demand(certify(deployed.region_evidence(SEED), ()))
    ((node,),) = deployed.written.emitted.values()
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])
    with pytest.raises(refold.VerificationError, match=r"changed its function|does not run where the original does"):
        demand(certify(deployed.region_evidence(SEED), ()))


@pytest.mark.parametrize(
    ("name", "value"),
    [("padding", (0, 0)), ("padding", (1, 0)), ("stride", (2, 3)), ("dilation", (1, 2)), ("padding", (2, 0))],
)
def test_a_wrong_setting_of_a_written_layer_is_found(name: str, value: tuple[int, int], seed: int) -> None:
    def forward(s: Any, x: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = s.n(s.a(x)) + s.b(x)
        return total

    block = Net(forward, a=nn.Conv2d(4, 6, 3, 2, 1), b=nn.Conv2d(4, 6, 1, 2), n=nn.BatchNorm2d(6))
    network = AtenModel(settled(block, torch.float32), (torch.randn(2, 4, TEN, TEN),))
    deployed = network.write(make_plan(network.graph, network.target))
    demand(certify(deployed.region_evidence(SEED), ()))
    (layer,) = [one for one in deployed.model.modules() if isinstance(one, nn.Conv2d)]
    setattr(layer, name, value)
    with pytest.raises(refold.VerificationError, match=r"changed its function|does not run where the original does"):
        demand(certify(deployed.region_evidence(SEED), ()))


@pytest.mark.parametrize("groups", [1, 4])
def test_wrong_groups_are_found(groups: int, seed: int) -> None:
    """The same weights, their input channels taken from other groups."""
    network = AtenModel(settled(nn.Sequential(nn.Conv1d(8, 8, 3, groups=2), nn.BatchNorm1d(8)), torch.float32), (torch.randn(2, 8, TEN),))
    deployed = network.write(make_plan(network.graph, network.target))
    (layer,) = [one for one in deployed.model.modules() if isinstance(one, nn.Conv1d)]
    layer.groups = groups
    layer.weight = nn.Parameter(layer.weight.detach().repeat(1, 2, 1)[:, : 8 // groups])
    with pytest.raises(refold.VerificationError, match=r"changed its function|does not run where the original does"):
        demand(certify(deployed.region_evidence(SEED), ()))


@pytest.mark.parametrize("part", ["fill", "crop"])
def test_a_border_without_its_bias_and_a_wrong_crop_are_found(part: str, seed: int) -> None:
    """What is wrong at one border alone: the constant that it is filled with, or where it is cut."""
    pads = (1, 1) if part == "fill" else (0, -2)
    layers = [nn.Conv1d(1, 1, 1), nn.ConstantPad1d(pads, 0.0), nn.Conv1d(1, 5, 3)]
    if part == "fill":
        with torch.no_grad():
            assert isinstance(layers[0], nn.Conv1d)
            assert layers[0].bias is not None
            layers[1] = nn.ConstantPad1d(pads, 0.75)
            layers[0].bias.fill_(0.5)
    network = AtenModel(nn.Sequential(*layers).eval(), (torch.randn(2, 1, TEN),))
    deployed = network.write(make_plan(network.graph, network.target))
    demand(certify(deployed.region_evidence(SEED), ()))
    (made,) = deployed.written.emitted.values()
    (border,) = [node for node in made if node.target is torch.ops.aten.constant_pad_nd.default or "pad" in str(node.target)]
    arguments: Any = border.args
    amounts, *fill = arguments[1:]
    wrong = [*fill[:-1], 0.0] if part == "fill" else fill
    border.args = (border.args[0], amounts if part == "fill" else [*list(amounts)[:-1], -1], *wrong)
    with pytest.raises(refold.VerificationError, match=r"changed its function|does not run where the original does"):
        demand(certify(deployed.region_evidence(SEED), ()))


# --------------------------------------------------------------------------------------------- regions that hang on sizes of the inputs


def tokens_in_torch() -> nn.Module:
    """A convolution whose result becomes tokens in front of a linear layer: the sizes between are worked out from the input's."""

    def forward(s: Any, x: torch.Tensor) -> torch.Tensor:
        y = s.a(x)
        total: torch.Tensor = s.b(y.reshape(y.shape[0], 5, y.shape[2] * y.shape[3]).transpose(1, 2))
        return total

    return settled(Net(forward, a=nn.Conv2d(4, 5, 1), b=nn.Linear(5, 6)), torch.float32)


def test_sizes_that_a_graph_works_out_are_tried_as_others(seed: int) -> None:
    network = AtenModel(tokens_in_torch(), (torch.randn(2, 4, TEN, TEN + 2),))
    deployed = network.write(make_plan(network.graph, network.target))
    found = certify(deployed.region_evidence(SEED), ())
    demand(found)
    (region,) = found.regions
    assert len(region.sizes) > 3
    assert region.sizes[0] == "2x4x10x12"
    baked = [node for node in next(iter(deployed.written.emitted.values())) if "reshape" in str(node.target) or "view" in str(node.target)]
    for node in baked:
        x, shape = node.args
        assert isinstance(shape, (list, tuple))
        node.args = (x, [-1 if position == 0 else 120 if isinstance(size, torch.fx.Node) else size for position, size in enumerate(shape)])
    assert baked
    with pytest.raises(refold.VerificationError, match=r"changed its function|does not run where the original does"):
        demand(certify(deployed.region_evidence(SEED), ()))


def test_shapes_that_a_file_works_out_are_tried_as_others() -> None:
    constants: dict[str, Any] = {"w": random(5, 4, 1, 1), "m": random(5, 6), "wanted": np.array([0, 5, -1])}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Reshape", ["c", "wanted"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "m"], ["y"]),
    ]
    found = in_onnx(nodes, constants, ("N", 4, "H", "W"))
    demand(found)
    (region,) = found.regions
    assert len(set(region.sizes)) == 3


# ------------------------------------------------------------------------------------------------------------- the logic itself


def evidence(name: str, *shapes: tuple[int, ...], error: float = 0.0) -> RegionEvidence:
    y = np.ones(3)
    return RegionEvidence(name, ("conv",), y, y + error, y, 1.0, 1, 2.0**-24, shapes=shapes)


def test_the_worst_of_all_sizes_is_what_counts() -> None:
    right = evidence("r", (1, 2))
    assert judge_region(replace(right, further=(evidence("r", (1, 3)),))).passed
    proof = judge_region(replace(right, further=(evidence("r", (1, 3), (4,)), evidence("r", (1, 5), error=1e-3))))
    assert not proof.passed
    assert proof.sizes == ("1x2", "1x3 and 4", "1x5")


def test_sizes_that_the_original_does_not_take_are_passed_over() -> None:
    """And axes alone are tried where they do not run together."""
    asked = []

    def run(shapes: Any) -> RegionEvidence | None:
        asked.append(shapes["x"])
        return None if shapes["x"] == (1, 1) or shapes["x"][0] > 8 else evidence("r", shapes["x"])

    found = run_trials(run, [{"x": (9, 9)}, {"x": (4, 4)}], [[{"x": (1, 1)}, {"x": (1, 4)}, {"x": (4, 1)}], [{"x": (2, 3)}, {"x": (2, 4)}]])
    assert found is not None
    assert judge_region(found).sizes == ("4x4", "1x4", "4x1", "2x3")
    assert asked == [(9, 9), (4, 4), (1, 1), (1, 4), (4, 1), (2, 3)]
    assert run_trials(run, [{"x": (9, 9)}]) is None


def test_what_fails_at_a_fixed_axis_made_smaller_is_decided_at_its_own_size() -> None:
    def runner(right_at: int, raises: bool = False) -> Callable[[Any], RegionEvidence]:
        def run(shapes: Any) -> RegionEvidence:
            if shapes["x"][1] != right_at and raises:
                raise does_not_run("r", ValueError("no such place"))
            return evidence("r", shapes["x"], error=0.0 if shapes["x"][1] == right_at else 1.0)

        return run

    small, stated = [{"x": (5, 3)}], {"x": (None, 12)}
    for raises in (False, True):
        found = run_trials(runner(12, raises), small, [[{"x": (6, 3)}]], stated)
        assert found is not None
        assert judge_region(found).passed
        assert judge_region(found).sizes == ("5x12", "6x12")
    assert not judge_region(run_trials(runner(3), [{"x": (5, 12)}], (), stated) or evidence("r", (1,))).passed
    assert not judge_region(run_trials(runner(12), small) or evidence("r", (1,))).passed
    with pytest.raises(refold.VerificationError, match="does not run where the original does"):
        run_trials(runner(12, raises=True), small)


def test_the_lightest_of_equal_regions_stands_for_them() -> None:
    assert share({"a": 1, "b": 2, "c": 1}, {"a": 5, "b": 1, "c": 3}) == {"a": "c", "b": "b", "c": "c"}


def test_a_bound_is_a_number() -> None:
    y = np.ones(3)
    for wrong in ({"length": float("nan")}, {"length": None}, {"peak": 3}, {"rounding": math.nan}):
        given: dict[str, Any] = {"peak": 1.0, "length": 1, "rounding": 2.0**-24, **wrong}
        with pytest.raises(
            refold.VerificationError, match=r"no bound can be derived for r: its longest sum is .*; please report this model"
        ):
            RegionEvidence("r", ("conv",), y, y, y, **given)
