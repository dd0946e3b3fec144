"""Each operator, in a row of its own beside the operators it folds with: what is left of the row, and that it is the same function."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import refold
from tests.dialects.aten.nets import (
    EXACT,
    Net,
    conv,
    conv_norm,
    distance,
    expected_of,
    fold_exactly,
    left,
    noise,
    settled,
    table_left,
    weight,
)

Rows = dict[str, tuple[nn.Module, list[str]]]
ONE = ["Conv2d"]


def test_elementwise_arithmetic(seed: int) -> None:
    a, b = {"a": conv()}, {"a": conv(), "b": conv(bias=False)}
    rows: Rows = {
        "plus": (Net(lambda s, x: s.a(x) + s.b(x), **b), ONE),
        "plus_in_place": (Net(lambda s, x: s.a(x).add_(s.b(x)), **b), ONE),
        "plus_alpha": (Net(lambda s, x: torch.add(s.a(x), s.b(x), alpha=2), **b), ONE),
        "minus": (Net(lambda s, x: s.a(x) - s.b(x), **b), ONE),
        "minus_alpha_in_place": (Net(lambda s, x: s.a(x).sub_(s.b(x), alpha=0.5), **b), ONE),
        "minus_itself": (Net(lambda s, x: s.a(x - x), **a), ONE),
        "twice": (Net(lambda s, x: s.a(x + x), **a), ONE),
        "number_minus": (Net(lambda s, x: 1 - s.a(x), **a), ONE),
        "reversed_alpha": (Net(lambda s, x: torch.rsub(s.a(x), s.b(x), alpha=3), **b), ONE),
        "reversed_number_alpha": (Net(lambda s, x: torch.rsub(s.a(x), 2.5, alpha=3), **a), ONE),
        "negated": (Net(lambda s, x: -s.a(x) / 3, **a), ONE),
        "all_in_place": (Net(lambda s, x: s.a(x).mul_(3).div_(2).sub_(1).neg_(), **a), ONE),
        "python_sum": (Net(lambda s, x: sum([s.a(x), s.b(x)]), **b), ONE),
        "branch_is_0": (Net(lambda s, x: s.a(x) + 0, **a), ONE),
        "times_0": (Net(lambda s, x: s.a(x) * 0 + s.b(x), **b), ONE),
        "over_a_tensor": (Net(lambda s, x: s.a(x) / s.p, p=weight(6, 1, 1), **a), ONE),
        "times_a_tensor_twice": (Net(lambda s, x: s.p * s.a(x) * s.p, p=weight(1, 6, 1, 1), **a), ONE),
        "times_a_scalar_tensor": (Net(lambda s, x: s.p * s.a(x), p=weight(), **a), ONE),
        "add_product": (Net(lambda s, x: torch.addcmul(s.q, s.a(x), s.p, value=2), p=weight(6, 1, 1), q=weight(6, 1, 1), **a), ONE),
        "add_product_of_scalar": (Net(lambda s, x: torch.addcmul(s.q, s.p, s.a(x)), p=weight(1), q=weight(6, 1, 1), **a), ONE),
        "add_product_of_scalars": (Net(lambda s, x: torch.addcmul(s.q, s.p, s.a(x)), p=weight(1), q=weight(1), **a), ONE),
        "add_product_to_branch": (Net(lambda s, x: torch.addcmul(s.b(x), s.a(x), s.p), p=weight(6, 1, 1), **b), ONE),
        # not linear, or not the same shape: left as they are
        "square": (Net(lambda s, x: torch.square(s.a(x)) * s.a(x), **a), ["conv2d", "square", "conv2d", "mul"]),
        "one_over": (Net(lambda s, x: 1 / s.a(x), **a), ["conv2d", "reciprocal", "mul"]),
        "floor": (Net(lambda s, x: torch.div(s.a(x), 2, rounding_mode="floor"), **a), ["conv2d", "div"]),
        "channel_broadcast": (
            Net(lambda s, x: s.a(x) + s.b(x), a=conv(), b=conv(4, 1)),
            ["conv2d", "conv2d", "add"],
        ),
        "place_broadcast": (
            Net(lambda s, x: s.a(x) + s.b(x).mean((2, 3), keepdim=True), **b),
            ["conv2d", "conv2d", "mean", "add"],
        ),
    }
    assert table_left(rows, noise(2, 4, 9, 8), noise(3, 4, 12, 7)) == expected_of(rows)


def test_batch_norms(seed: int) -> None:
    rows: Rows = {
        "plain": (conv_norm(), ONE),
        "epsilon": (Net(lambda s, x: s.n(s.a(x)), a=conv(), n=nn.BatchNorm2d(6, eps=0.1)), ONE),
        "without_affine": (Net(lambda s, x: s.n(s.a(x)), a=conv(), n=nn.BatchNorm2d(6, affine=False)), ONE),
        "cumulative": (Net(lambda s, x: s.n(s.a(x)), a=conv(), n=nn.BatchNorm2d(6, momentum=None)), ONE),
        "synchronized": (Net(lambda s, x: s.n(s.a(x)), a=conv(), n=nn.SyncBatchNorm(6)), ONE),
        "functional": (Net(lambda s, x: F.batch_norm(s.a(x), s.m, s.v), a=conv(), m=weight(6), v=weight(6)), ONE),
        "before": (Net(lambda s, x: s.a(s.n(x)), a=conv(padding=0), n=nn.BatchNorm2d(4)), ONE),
        "before_padding": (Net(lambda s, x: s.a(s.n(x)), a=conv(), n=nn.BatchNorm2d(4)), ["batch_norm", "conv2d"]),
        "twice": (Net(lambda s, x: s.m(s.n(s.a(x))), a=conv(), n=nn.BatchNorm2d(6), m=nn.BatchNorm2d(6)), ONE),
        "of_the_batch": (Net(lambda s, x: s.n(s.a(x)), a=conv(), n=nn.BatchNorm2d(6, track_running_stats=False)), ["conv2d", "batch_norm"]),
        "of_the_instance": (Net(lambda s, x: s.n(s.a(x)), a=conv(), n=nn.InstanceNorm2d(6)), ["conv2d", "instance_norm"]),
        "of_groups": (Net(lambda s, x: s.n(s.a(x)), a=conv_norm(), n=nn.GroupNorm(2, 6)), ["Conv2d", "group_norm"]),
    }
    assert table_left(rows, noise(2, 4, 9, 8), noise(3, 4, 12, 7)) == expected_of(rows)


def test_slices_of_sizes_that_are_known(seed: int) -> None:
    """A reshape fixes the sizes, so that a slice may count from either end, and reach past it."""

    def sliced(cut: Callable[[Tensor], Tensor]) -> nn.Module:
        return Net(lambda s, x: s.n(cut(s.a(x.reshape(-1, 4, 8, 9)))), a=conv(), n=nn.BatchNorm2d(6))

    rows: Rows = {
        "both ends": (sliced(lambda y: y[..., 1:-1, 1:8]), ["reshape", "Conv2d"]),
        "from the end": (sliced(lambda y: y[..., -7:-1, -8:8]), ["reshape", "Conv2d"]),
        "past the end": (sliced(lambda y: y[..., 1:-1, 1:20]), ["reshape", "pad", "Conv2d"]),
        "open": (sliced(lambda y: y[..., 1:, -8:]), ["reshape", "pad", "Conv2d"]),
        "all": (sliced(lambda y: y[..., 0:20, -9:9]), ["reshape", "Conv2d"]),
        "every second": (sliced(lambda y: y[..., ::2, ::2]), ["reshape", "Conv2d"]),
    }
    assert table_left(rows, noise(2, 4, 8, 9), noise(3, 4, 8, 9)) == expected_of(rows)


def test_average_pools(seed: int) -> None:
    def beside(pool: nn.Module, **options: Any) -> nn.Module:
        return Net(lambda s, x: s.a(x) + s.b(s.pool(x)), a=conv(**options), b=conv(4, 6, 1, padding=0), pool=pool)

    kept = ["conv2d", "avg_pool2d", "conv2d", "add"]
    rows: Rows = {
        "branch": (beside(nn.AvgPool2d(3, 1, 1)), ONE),
        "strided": (beside(nn.AvgPool2d(3, 2, 1), stride=2), ONE),
        "divisor": (beside(nn.AvgPool2d(3, 1, 1, divisor_override=5)), ONE),
        "rectangular": (beside(nn.AvgPool2d((1, 3), 1, (0, 1))), ONE),
        "whole_windows_only": (beside(nn.AvgPool2d(3, 1, 0, count_include_pad=False), padding=0), ONE),
        "border_of_its_own": (beside(nn.AvgPool2d(3, 1, 1, count_include_pad=False)), kept),
        "hanging_over": (beside(nn.AvgPool2d(3, 2, 1, ceil_mode=True), stride=2, taps=4, padding=2), kept),
        "dearer_merged": (Net(lambda s, x: s.b(F.avg_pool2d(x, 2)), b=conv(4, 6, 1, padding=0)), ["avg_pool2d", "conv2d"]),
    }
    assert table_left(rows, noise(2, 4, 8, 10), noise(3, 4, 12, 6)) == expected_of(rows)


@pytest.mark.parametrize(("rank", "shape"), [(1, (2, 4, 9)), (3, (2, 4, 5, 6, 4))])
def test_other_ranks(rank: int, shape: tuple[int, ...], seed: int) -> None:
    layer: Any = {1: nn.Conv1d, 3: nn.Conv3d}[rank]
    norm: Any = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}[rank]
    pool: Any = {1: nn.AvgPool1d, 3: nn.AvgPool3d}[rank]
    upward: Any = {1: nn.ConvTranspose1d, 3: nn.ConvTranspose3d}[rank]
    name = layer.__name__
    branches = {"a": layer(4, 6, 3, padding=1), "b": layer(4, 6, 1), "n": norm(6), "m": norm(4), "pool": pool(3, 1, 1)}
    rows: Rows = {
        "branches": (Net(lambda s, x: s.n(s.a(x)) + s.b(s.pool(x)), **branches), [name]),
        "padded": (Net(lambda s, x: s.n(s.a(F.pad(x, (1, 1) * rank))), a=layer(4, 6, 3), n=norm(6)), [name]),
        "reflected": (Net(lambda s, x: s.n(s.a(x)), a=layer(4, 6, 3, padding=1, padding_mode="replicate"), n=norm(6)), [name]),
        "cropped": (
            Net(lambda s, x: s.a(x)[..., 1:-1] + s.b(x), a=layer(4, 6, 3, padding=1), b=layer(4, 6, (1,) * (rank - 1) + (3,))),
            [name],
        ),
        "transposed": (Net(lambda s, x: s.n(s.a(x)), a=upward(4, 6, 3, 2, 1), n=norm(6)), [upward.__name__]),
    }
    other = tuple(size + 2 for size in shape)
    assert table_left(rows, noise(*shape), noise(other[0], 4, *other[2:])) == expected_of(rows)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_paddings(seed: int) -> None:
    def padded(pads: tuple[int, ...], mode: str = "constant", value: float | None = None, inputs: int = 4) -> nn.Module:
        return Net(lambda s, x: s.n(s.a(F.pad(x, pads, mode, value))), a=conv(inputs, padding=0), n=nn.BatchNorm2d(6))

    def padding(module: nn.Module) -> nn.Module:
        return Net(lambda s, x: s.n(s.a(s.p(x))), a=conv(padding=0), n=nn.BatchNorm2d(6), p=module)

    def modes(mode: str) -> nn.Module:
        return Net(lambda s, x: s.n(s.a(x)) + s.b(x), a=conv(padding_mode=mode), b=conv(padding_mode=mode), n=nn.BatchNorm2d(6))

    in_front = ["pad", "Conv2d"]
    rows: Rows = {
        "alike": (padded((1, 1, 2, 2)), ONE),
        "zeros": (padding(nn.ZeroPad2d(1)), ONE),
        "sided": (padded((1, 0, 2, 1)), in_front),
        "a_number": (padded((1, 1, 1, 1), value=0.5), in_front),
        "reflect_sided": (padded((1, 2, 0, 1), "reflect"), in_front),
        "replicate_sided": (padded((1, 2, 0, 1), "replicate"), in_front),
        "circular_sided": (padded((1, 2, 0, 1), "circular"), in_front),
        "cropped": (padded((-1, -1, -1, 0)), in_front),
        "reflection": (padding(nn.ReflectionPad2d(1)), ONE),
        "reflection_itself": (
            Net(lambda s, x: s.n(s.a(torch.ops.aten.reflection_pad2d(x, [1] * 4))), a=conv(padding=0), n=nn.BatchNorm2d(6)),
            ONE,
        ),
        "replication": (padding(nn.ReplicationPad2d(1)), ONE),
        "circular": (padding(nn.CircularPad2d(1)), ONE),
        "channels": (padded((0, 0, 0, 0, 1, 1), inputs=6), in_front),
        "mode_reflect": (modes("reflect"), ONE),
        "mode_replicate": (modes("replicate"), ONE),
        "mode_circular": (modes("circular"), ONE),
        "mixed": (
            Net(lambda s, x: s.a(x) + s.b(x), a=conv(padding_mode="reflect"), b=conv()),
            ["pad", "conv2d", "conv2d", "add"],
        ),
        "by_name_same": (Net(lambda s, x: s.a(x) + s.b(x), a=conv(padding="same"), b=conv(4, 6, 1, padding="valid")), ONE),
        "by_name_dilated": (Net(lambda s, x: s.n(s.a(x)), a=conv(padding="same", dilation=(2, 1)), n=nn.BatchNorm2d(6)), ONE),
        "by_name_even": (Net(lambda s, x: s.n(s.a(x)), a=conv(taps=(4, 3), padding="same"), n=nn.BatchNorm2d(6)), in_front),
    }
    assert table_left(rows, noise(2, 4, 9, 8), noise(3, 4, 12, 7)) == expected_of(rows)


def test_slices(seed: int) -> None:
    rows: Rows = {
        "crop_after": (Net(lambda s, x: s.a(x)[:, :, 1:-1, 1:-1] + s.b(x), a=conv(), b=conv(padding=0)), ONE),
        "crop_before": (Net(lambda s, x: s.a(x[:, :, 1:-1, :]) + s.b(x), a=conv(taps=(1, 3), padding=(0, 1)), b=conv(padding=(0, 1))), ONE),
        "all_of_it": (Net(lambda s, x: s.n(s.a(x)[:, :, :]), a=conv(), n=nn.BatchNorm2d(6)), ONE),
        "strided": (Net(lambda s, x: s.a(x[:, :, ::2, ::2]), a=conv(taps=1, padding=0)), ONE),
        "shifted": (Net(lambda s, x: s.a(x[:, :, ::2, 1::2]), a=conv(taps=1, padding=0)), ["pad", "Conv2d"]),
        "of_the_channels": (Net(lambda s, x: s.n(s.a(x[:, 1:3])), a=conv(2), n=nn.BatchNorm2d(6)), ["slice", "Conv2d"]),
        "to_a_place": (Net(lambda s, x: s.n(s.a(x)[:, :, 1:5]), a=conv(), n=nn.BatchNorm2d(6)), ["Conv2d", "slice"]),
    }
    found = table_left(rows, noise(2, 4, 9, 8), noise(3, 4, 12, 7))
    assert found.pop("of_the_channels")[-1] == "Conv2d"
    assert found.pop("to_a_place").count("slice") >= 1
    assert found == {name: expected for name, expected in expected_of(rows).items() if name in found}


def test_what_is_nothing_but_a_name(seed: int) -> None:
    def between(change: Callable[[Tensor], Tensor]) -> nn.Module:
        return Net(lambda s, x: s.n(change(s.a(x))), a=conv(), n=nn.BatchNorm2d(6))

    rows: Rows = {
        "contiguous": (between(lambda y: y.contiguous()), ONE),
        "channels_last": (between(lambda y: y.contiguous(memory_format=torch.channels_last)), ONE),
        "clone": (between(torch.clone), ONE),
        "detach": (between(lambda y: y.detach()), ONE),
        "identity": (between(nn.Identity()), ONE),
        "to_its_dtype": (between(lambda y: y.to(torch.float64)), ONE),
        "to_like": (between(lambda y: y.type_as(y)), ONE),
        "dropout": (between(nn.Dropout(0.5).eval()), ONE),
        "feature_dropout": (between(nn.Dropout2d(0.5).eval()), ONE),
        "alpha_dropout": (between(nn.AlphaDropout(0.5).eval()), ONE),
        "view_of_itself": (between(lambda y: y.view(y.shape)), ONE),
        "through_float32": (between(lambda y: y.float().double()), ["conv2d", "to", "to", "batch_norm"]),
    }
    assert table_left(rows, noise(2, 4, 9, 8), noise(3, 4, 12, 7)) == expected_of(rows)


def test_linear_layers(seed: int) -> None:
    one = ["Linear"]
    b = nn.Linear(6, 3)
    rows: Rows = {
        "two": (nn.Sequential(nn.Linear(7, 6), nn.Linear(6, 3, bias=False)), one),
        "scaled": (Net(lambda s, x: s.p * s.a(x), a=nn.Linear(7, 6), p=weight(6)), one),
        "matmul": (Net(lambda s, x: s.b(x @ s.w + s.q), w=weight(7, 6), q=weight(6), b=b), one),
        "matmul_transposed": (Net(lambda s, x: s.b(x @ s.w.T), w=weight(6, 7), b=b), one),
        "addmm": (Net(lambda s, x: s.b(torch.addmm(s.q, x, s.w, beta=0.5, alpha=2)), w=weight(7, 6), q=weight(6), b=b), one),
        "normalized": (nn.Sequential(nn.Linear(7, 6), nn.BatchNorm1d(6)), one),
        "low_rank": (Net(lambda s, x: s.a(x) + 2 * s.u(s.d(x)), a=nn.Linear(7, 6), d=nn.Linear(7, 2, bias=False), u=nn.Linear(2, 6)), one),
        "wide_between": (nn.Sequential(nn.Linear(7, 1), nn.Linear(1, 7)), ["linear", "linear"]),
    }
    assert table_left(rows, noise(5, 7), noise(2, 7)) == expected_of(rows)
    for row in ("normalized", "addmm"):  # these take matrices alone
        rows.pop(row)
    assert table_left(rows, noise(5, 3, 7), noise(2, 4, 7)) == expected_of(rows)


TRANSPOSED: list[dict[str, Any]] = [
    {"stride": 2, "padding": 1, "output_padding": 1},
    {"stride": 2, "groups": 2, "padding": 1},
    {"stride": (3, 2), "dilation": (1, 2), "padding": (1, 0), "output_padding": (1, 1)},
    {"stride": 1},
    {"stride": 2, "padding": 2},
    {"stride": 2, "dilation": 2},
    {"stride": 2, "output_padding": 1},
]


def test_transposed_convolutions(seed: int) -> None:
    def upward(**options: Any) -> nn.ConvTranspose2d:
        return nn.ConvTranspose2d(4, 6, 3, **options)

    one = ["ConvTranspose2d"]
    rows: Rows = {
        f"norm_{number}": (Net(lambda s, x: s.n(s.a(x)) * 2 + 1, a=upward(**options), n=nn.BatchNorm2d(6)), one)
        for number, options in enumerate(TRANSPOSED)
    }
    rows["norm_3"] = (rows["norm_3"][0], ["Conv2d"])  # with stride 1 it is a convolution
    rows["two"] = (Net(lambda s, x: s.a(x) + s.b(x), a=nn.ConvTranspose2d(4, 6, 4, 2, 1), b=nn.ConvTranspose2d(4, 6, 2, 2)), one)
    rows["then_pointwise"] = (nn.Sequential(nn.ConvTranspose2d(4, 6, 4, 2, 1), nn.Conv2d(6, 5, 1)), one)
    rows["after_pointwise"] = (nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.ConvTranspose2d(4, 4, 4, 2, 1)), one)
    rows["after_bias"] = (nn.Sequential(nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 4, 4, 2, 1)), ["conv2d", "conv_transpose2d"])
    assert table_left(rows, noise(2, 4, 5, 6), noise(3, 4, 7, 4)) == expected_of(rows)


REFUSED = {
    "of the batch": (nn.BatchNorm2d(6, track_running_stats=False), "no running statistics"),
    "border of its own": (nn.AvgPool2d(3, 1, 1, count_include_pad=False), r"padding \[1, 1\] leaves its padding out of the mean"),
    "hanging over": (nn.AvgPool2d(2, ceil_mode=True), "windows that hang over the border"),
}


@pytest.mark.parametrize(("module", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_could_have_been_linear_is_refused_with_its_reason(module: nn.Module, reason: str, seed: int) -> None:
    result = fold_exactly(nn.Sequential(conv(), module, nn.Conv2d(6, 6, 1)), noise(2, 4, 9, 9))
    refusal = result.report.refusals[0]
    assert refusal.law == "reading"
    assert re.search(reason, refusal.fact)


@pytest.mark.parametrize("what", ["weight", "bias"])
def test_a_map_that_hangs_on_the_input_is_refused(what: str, seed: int) -> None:
    def forward(net: Any, x: Tensor, given: Tensor) -> Any:
        return net.n(F.conv2d(x, given, net.q) if what == "weight" else F.conv2d(x, net.w, given))

    model = Net(forward, n=nn.BatchNorm2d(6), w=weight(6, 4, 3, 3), q=weight(6))
    given = noise(6, 4, 3, 3) if what == "weight" else noise(6)
    result = fold_exactly(model, noise(2, 4, 9, 8), given)
    assert [(refusal.law, refusal.fact) for refusal in result.report.refusals] == [
        ("reading", f"its {what} is computed from the input at run time")
    ]


def test_a_weight_computed_from_the_input_is_refused(seed: int) -> None:
    dynamic = Net(lambda s, x: s.n(F.conv2d(x, s.g(x.mean((0, 2, 3))).view(6, 4, 1, 1))), n=nn.BatchNorm2d(6), g=nn.Linear(4, 24))
    result = fold_exactly(dynamic, noise(2, 4, 9, 8))
    assert any("its weight is computed from the input" in refusal.fact for refusal in result.report.refusals)


@pytest.mark.parametrize("axis", [0, 2, 3])
def test_numbers_along_another_axis_than_the_channels_are_left(axis: int, seed: int) -> None:
    x = noise(6, 4, 6, 6)  # as many items as channels on every axis: sizes alone do not tell them apart
    shape = [1, 1, 1, 1]
    shape[axis] = 6
    result = fold_exactly(Net(lambda s, x: s.p * s.a(x), a=conv(), p=weight(*shape)), x)
    assert left(result.model) == ["conv2d", "mul"]


def test_what_has_no_batch_axis(seed: int) -> None:
    for function, members, expected in (
        (lambda s, x: s.b(s.a(x)), {"a": conv(4, 6, 1, padding=0), "b": conv(6, 5)}, ["conv2d", "conv2d"]),
        (lambda s, x: s.b(s.a(x)), {"a": conv(4, 6, 1, padding=0), "b": conv(6, 5, padding=0)}, ["Conv2d"]),
        (lambda s, x: s.a(x) * s.p, {"a": conv(), "p": weight(6, 1, 1)}, ["Conv2d"]),
        (lambda s, x: s.a(x)[:, 1:] * 2, {"a": conv()}, ["conv2d", "slice", "mul"]),
        (lambda s, x: s.a(F.pad(x, (1, 1, 1, 1))), {"a": conv()}, ["pad", "conv2d"]),
    ):
        result = fold_exactly(Net(function, **members), noise(4, 9, 8), other=(noise(4, 6, 11),))
        assert [name for name in left(result.model) if name != "slice"] == [name for name in expected if name != "slice"]


def test_dropout_that_is_always_on_stays(seed: int) -> None:
    model = settled(Net(lambda s, x: s.n(F.dropout(s.a(x), 0.5, training=True)), a=conv(), n=nn.BatchNorm2d(6)))
    result = refold.fold(model, (noise(2, 4, 9, 8),))
    assert "dropout" in left(result.model)


def test_a_row_that_is_not_the_same_is_noticed(seed: int) -> None:
    model = settled(conv_norm())
    x = noise(2, 4, 9, 8)
    result = refold.fold(model, (x,))
    with torch.no_grad():
        next(result.model.parameters()).view(-1)[0] += 1e-9
        assert distance(model(x), result.model(x)) > 1e-12


def test_a_product_that_is_scaled_by_a_size_is_left_and_right(seed: int) -> None:
    model = settled(Net(lambda s, x: torch.relu(torch.addmm(s.q, x, s.w, alpha=x.shape[0])), w=weight(4, 6), q=weight(6)))
    folded = refold.fold(model, (noise(5, 4),)).model
    for rows in (5, 3):
        assert distance(model(noise(rows, 4)), folded(noise(rows, 4))) <= EXACT
