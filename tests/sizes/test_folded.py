"""A folded network at other sizes than its example's gives what the original gives, or says in words what it takes."""

from __future__ import annotations

import copy
import enum
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import refold
from refold.dialects.aten._conditions import or_point, read_condition
from refold.dialects.aten._trials import is_nested_alike
from tests.sizes.models import MODELS, Net, Sized


def answer_of(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[list[Any] | None, str]:
    """What a model gives, or what it says where it does not run."""
    with torch.no_grad():
        try:
            return pytree.tree_leaves(model(*inputs)), ""
        except Exception as error:
            return None, str(error)


def assert_same(mine: list[Any], theirs: list[Any]) -> None:
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        if isinstance(one, Tensor):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5, equal_nan=True)
        else:
            assert one == other


@pytest.mark.parametrize("sized", MODELS, ids=lambda one: one.name)
def test_the_same_or_refused_in_words_at_every_other_size(sized: Sized) -> None:
    model = sized.make()
    folded = refold.fold(model, sized.inputs()).model
    compared = 0
    for shapes in sized.others():
        inputs = sized.inputs(shapes, 1)
        expected, _ = answer_of(model, inputs)
        if expected is None:
            continue
        compared += 1
        found, complaint = answer_of(folded, inputs)
        if found is None:
            assert "but the network was traced for inputs where" in complaint
        else:
            assert_same(expected, found)
    assert compared > 0


def branching(asks: Callable[[Tensor], bool]) -> nn.Module:
    """A network that takes another path where its input is such."""

    def forward(net: Any, x: Tensor) -> Tensor:
        y: Tensor = net.norm(net.conv(x))
        return y * 2 if asks(x) else y

    torch.manual_seed(0)
    return Net(forward, conv=nn.Conv2d(3, 4, 3, padding=1), norm=nn.BatchNorm2d(4)).eval()


@pytest.mark.parametrize(
    ("asks", "shape"),
    [
        (lambda x: x.shape[2] * x.shape[3] == 3, (2, 3, 1, 3)),
        (lambda x: x.shape[0] * x.shape[2] == 5, (1, 3, 5, 6)),
        (lambda x: x.shape[2] + x.shape[3] < 4, (2, 3, 2, 1)),
        (lambda x: x.shape[0] * x.shape[2] * x.shape[3] == 1, (1, 3, 1, 1)),
        (lambda x: x.shape[3] == 77, (2, 3, 4, 77)),
        (lambda x: x.shape[3] > 1000, (1, 3, 2, 1001)),
        (lambda x: x.shape[2] * x.shape[3] % 7 == 0, (2, 3, 7, 5)),
        (lambda x: x.shape[2] > 20 and x.shape[2] % 7 == 0, (2, 3, 28, 5)),
        (lambda x: x.shape[2] in (19, 23), (2, 3, 23, 5)),
    ],
    ids=["h w == 3", "n h == 5", "h + w < 4", "n h w == 1", "w == 77", "w > 1000", "h w % 7", "h > 20 and h % 7", "h in 19, 23"],
)
def test_no_path_is_forgotten_however_rare(asks: Callable[[Tensor], bool], shape: tuple[int, ...]) -> None:
    folded = refold.fold(branching(asks), (torch.randn(2, 3, 6, 6),)).model
    with pytest.raises(ValueError, match="but the network was traced for inputs where"):
        folded(torch.randn(shape))


def test_an_argument_that_is_no_tensor_is_held_to_its_value() -> None:
    model = Net(lambda net, x, k, mask: net.conv(x) * k if mask is None else net.conv(x) * mask, conv=nn.Conv2d(3, 4, 1)).eval()
    x = torch.randn(2, 3, 5, 5)
    result = refold.fold(model, (x, 3, None))
    torch.testing.assert_close(result.model(x, 3, None), model(x, 3, None))
    with pytest.raises(ValueError, match="is 5, but the network was traced for inputs where it is 3"):
        result.model(x, 5, None)
    with pytest.raises(ValueError, match=r"is 3\.0, but the network was traced for inputs where it is 3"):
        result.model(x, 3.0, None)
    with pytest.raises(ValueError, match="is a tensor, but the network was traced for inputs where it is None"):
        result.model(x, 3, torch.ones(5))
    assert any("is 3" in note for note in result.report.notes)


def test_a_tensor_is_held_to_its_number_of_axes_and_its_dtype() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y: Tensor = net.linear(x.float() / 255 if x.dtype is torch.uint8 else x)
        return y if x.ndim == 3 else y + 1

    model = Net(forward, linear=nn.Linear(4, 4)).eval()
    folded = refold.fold(model, (torch.randn(2, 3, 4),)).model
    with pytest.raises(ValueError, match="has 2 axes, but the network was traced for inputs where it has 3"):
        folded(torch.randn(3, 4))
    with pytest.raises(ValueError, match="is uint8, but the network was traced for inputs where it is float32"):
        folded(torch.ones(2, 3, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="is None, but the network was traced for inputs where it is a tensor"):
        folded(None)
    half = folded.half()
    assert half(torch.randn(2, 3, 4).half()).dtype is torch.float16
    with pytest.raises(ValueError, match="is float32, but the network was traced for inputs where it is float16"):
        half(torch.randn(2, 3, 4))


def test_dtypes_that_give_the_same_are_taken() -> None:
    model = Net(lambda net, x: net.conv((x / 255).relu()), conv=nn.Conv2d(3, 4, 1)).eval()
    folded = refold.fold(model, (torch.rand(2, 3, 5, 5) * 255,)).model
    x = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    torch.testing.assert_close(folded(x), model(x))
    cast = Net(lambda net, x: net.conv(x.float() / 255), conv=nn.Conv2d(3, 4, 1)).eval()
    with pytest.raises(ValueError, match="is uint8, but the network was traced for inputs where it is float32"):
        refold.fold(cast, (torch.rand(2, 3, 5, 5),)).model(x)
    plain = refold.fold(nn.Conv2d(3, 4, 1), (torch.rand(1, 3, 5, 5),)).model
    with torch.autocast("cpu", torch.bfloat16):
        assert plain(torch.rand(1, 3, 5, 5).bfloat16()).dtype is torch.bfloat16


def test_a_fold_that_takes_fewer_sizes_than_the_original_says_so() -> None:
    model = Net(lambda net, x: net.two(net.one(x)[:, :, 1:-1, 1:-1]), one=nn.Conv2d(3, 4, 3, padding=1), two=nn.BatchNorm2d(4)).eval()
    result = refold.fold(model, (torch.randn(2, 3, 8, 8),))
    short = torch.randn(2, 3, 1, 8)
    assert model(short).numel() == 0
    found, complaint = answer_of(result.model, (short,))
    assert found is None
    assert "axis 2 of `inputs_0` is 1, but the network was traced for inputs where axis 2 of `inputs_0` is" in complaint
    torch.testing.assert_close(result.model(torch.randn(1, 3, 4, 5)).shape, torch.Size((1, 4, 2, 3)))


def test_the_certificate_lists_the_sizes_that_were_shown_and_those_that_are_refused() -> None:
    certificate = refold.fold(branching(lambda x: x.shape[3] == 9), (torch.randn(2, 3, 6, 6),)).report.certificate
    assert certificate is not None
    shapes = [one.shapes["inputs_0"] for one in certificate.sizes if one.refusal is None]
    assert 0 in {shape[0] for shape in shapes}
    assert len(shapes) > 2
    refusals = {one.refusal for one in certificate.sizes if one.refusal is not None}
    assert refusals == {"it takes only inputs where axis 3 of `inputs_0` is not 9"}
    assert "other sizes compared" in str(certificate)
    assert "refused where the original runs" in str(certificate)


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x, y: net.norm(net.conv(x)) * y,
        lambda net, x, y: (net.norm(net.conv(x)) * y).expand(x.shape[0], 4, 6, 6).contiguous().view(x.shape[0], 4, 36),
        lambda net, x, y: nn.functional.dropout(net.norm(net.conv(x)), 0.5, training=True) * y,
    ],
    ids=["gated", "viewed", "random"],
)
def test_a_guard_takes_the_example_that_it_was_made_of(function: Callable[..., Tensor]) -> None:
    model = Net(function, conv=nn.Conv2d(3, 4, 3, padding=1), norm=nn.BatchNorm2d(4)).eval()
    x, y = torch.randn(1, 3, 6, 6), torch.randn(1, 4, 1, 1)
    folded = refold.fold(model, (x, y)).model
    assert folded(x, y).shape == model(x, y).shape


@pytest.mark.parametrize(
    ("asks", "far"),
    [
        (lambda x: x.shape[0] == 1 and x.shape[2] > 20, 21),
        (lambda x: x.shape[0] == 1 and x.shape[2] * x.shape[3] > 1000, 40),
        (lambda x: (x.shape[2] > 20 or x.shape[0] > 0) and x.shape[0] == 1 and x.shape[2] > 40, 41),
    ],
)
@pytest.mark.parametrize("crops", [False, True])
def test_a_batch_of_one_is_held_to_what_the_model_asks_of_it_alone(asks: Callable[[Tensor], bool], far: int, crops: bool) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y: Tensor = net.norm(net.conv(x))
        y = y[:, :, :12] if crops else y
        return y * 2 if asks(x) else y

    model = Net(forward, conv=nn.Conv2d(3, 4, 3, padding=1), norm=nn.BatchNorm2d(4)).eval()
    folded = refold.fold(model, (torch.randn(1, 3, 16, 16),)).model
    for shape in ((1, 3, 17, 16), (2, 3, far, far)):
        x = torch.randn(shape)
        torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="but the network was traced for inputs where"):
        folded(torch.randn(1, 3, far, far))


@pytest.mark.parametrize(
    ("nest", "batch"),
    [
        (lambda x, y: {"odd": y} if x.shape[2] % 2 else {"even": y}, 2),
        (lambda x, y: {"whole": y} if x.shape[2] < 20 else {"tiles": y}, 2),
        (lambda x, y: [y] if x.shape[0] > 1 else (y,), 2),
        (lambda x, y: [y] if x.shape[0] > 1 else y, 1),
        (lambda x, y: (y, x.shape[2:]), 1),
        (lambda x, y: (y, f"{x.shape[2]} x {x.shape[3]}"), 2),
    ],
    ids=["parity", "large", "list or tuple", "list or tensor", "sizes", "text"],
)
def test_how_outputs_are_nested_and_what_is_no_tensor_is_part_of_what_a_network_gives(
    nest: Callable[[Tensor, Tensor], Any], batch: int
) -> None:
    model = Net(lambda net, x: nest(x, net.norm(net.conv(x))), conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4)).eval()
    example = torch.randn(batch, 3, 16, 16)
    folded = refold.fold(model, (example,)).model
    for shape in (tuple(example.shape), (1, 3, 16, 16), (2, 3, 17, 16), (2, 3, 24, 24), (3, 3, 1, 1)):
        x = torch.randn(shape)
        found, complaint = answer_of(folded, (x,))
        if found is None:
            assert shape != tuple(example.shape)
            assert "but the network was traced for inputs where" in complaint
        else:
            assert_same(pytree.tree_leaves(model(x)), found)
            assert is_nested_alike(pytree.tree_structure(folded(x)), pytree.tree_structure(model(x)))


def test_two_inputs_of_other_dtypes_were_not_shown_together() -> None:
    def forward(net: Any, x: Tensor, one: Tensor, other: Tensor) -> Tensor:
        gate = one / 255 + other / 255 if one.dtype == other.dtype == torch.uint8 else one + other
        y: Tensor = net.norm(net.conv(x)) * gate
        return y

    model = Net(forward, conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4)).eval()
    x, gate, pixels = torch.randn(2, 3, 6, 6), torch.rand(2, 1, 6, 6), torch.randint(0, 255, (2, 1, 6, 6), dtype=torch.uint8)
    folded = refold.fold(model, (x, gate, gate.flip(2))).model
    torch.testing.assert_close(folded(x, pixels, gate), model(x, pixels, gate), rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="`inputs_1` is uint8, `inputs_2` is uint8, but the network was traced for inputs where"):
        folded(x, pixels, pixels)


def test_a_condition_allows_one_more_point() -> None:
    condition = read_condition("L['x'].size()[0] != L['x'].size()[1]", {"L['x']": "x"})
    assert condition is not None
    wider = or_point(condition, [1, 1])
    assert wider.holds([1, 1])
    assert not wider.holds([2, 2])
    assert wider.holds([2, 1])


@pytest.mark.parametrize(
    ("asks", "example", "shape"),
    [
        (lambda x: x.shape[2] == 384, (2, 3, 24, 24), (2, 3, 384, 8)),
        (lambda x: x.shape[2] * x.shape[3] == 3136, (2, 3, 60, 60), (2, 3, 56, 56)),
        (lambda x: x.shape[2] % 1021 == 0, (2, 3, 24, 24), (1, 3, 1021, 2)),
        (lambda x: x.shape[0] * x.shape[2] * x.shape[3] == 8 * 49, (2, 3, 24, 24), (8, 3, 7, 7)),
        (lambda x: x.shape[2] == 13 and x.shape[3] == 17, (2, 3, 8, 8), (1, 3, 13, 17)),
        (lambda x: x.shape[2] % 20 == 0 and x.shape[3] % 20 == 0, (2, 3, 8, 8), (2, 3, 20, 20)),
        (lambda x: x.shape[2] == 2 * x.shape[3] + 1 and x.shape[3] > 50, (2, 3, 8, 8), (1, 3, 103, 51)),
        (lambda x: x.numel() == 858, (2, 3, 8, 8), (2, 3, 11, 13)),
        (lambda x: x.shape[3] in (320, 640), (2, 3, 8, 8), (1, 3, 2, 640)),
    ],
    ids=["h == 384", "hw == 3136", "h % 1021", "nhw == 392", "13 x 17", "h, w % 20", "h == 2 w + 1", "numel", "w in 320, 640"],
)
def test_a_path_at_one_native_size_far_away_is_not_forgotten(
    asks: Callable[[Tensor], bool], example: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    result = refold.fold(branching(asks), (torch.randn(example),))
    assert result.report.notes
    with pytest.raises(ValueError, match="but the network was traced for inputs where"):
        result.model(torch.randn(shape))


def test_a_network_that_draws_random_numbers_is_not_traced_at_another_batch() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y: Tensor = net.norm(net.conv(x)) + 1e-6 * torch.rand_like(x[:, :1])
        return y * 2 if x.shape[0] == 1 else y

    model = Net(forward, conv=nn.Conv2d(3, 4, 3, padding=1), norm=nn.BatchNorm2d(4)).eval()
    x = torch.randn(1, 3, 6, 6)
    torch.testing.assert_close(refold.fold(model, (x,), verify=False).model(x), model(x), rtol=1e-4, atol=1e-4)


def test_what_a_fold_cannot_run_at_is_refused_though_it_was_tried_before() -> None:
    model = Net(lambda net, x: net.norm(net.conv(x))[:, :, 5:], conv=nn.Conv1d(3, 4, 1), norm=nn.BatchNorm1d(4)).eval()
    folded = refold.fold(model, (torch.randn(2, 3, 12),)).model
    for size in range(1, 12):
        x = torch.randn(1, 3, size)
        found, complaint = answer_of(folded, (x,))
        if found is None:
            assert "but the network was traced for inputs where" in complaint
        else:
            torch.testing.assert_close(found[0], model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("end", [6, 30, 100])
def test_a_crop_to_a_place_folds(end: int) -> None:
    model = Net(lambda net, x: net.norm(net.conv(x))[:, :, :end], conv=nn.Conv2d(3, 4, 3, padding=1), norm=nn.BatchNorm2d(4)).eval()
    folded = refold.fold(model, (torch.randn(2, 3, 8, 8),)).model
    for size in (7, 9, 29, 31, 101):
        x = torch.randn(1, 3, size, 4)
        found, complaint = answer_of(folded, (x,))
        if found is None:
            assert "but the network was traced for inputs where" in complaint
        else:
            torch.testing.assert_close(found[0], model(x), rtol=1e-4, atol=1e-5)


def test_an_axis_of_one_item_is_not_taken_for_free() -> None:
    model = Net(
        lambda net, x, y: net.norm(net.conv(x)) + y.transpose(2, 3).mean(2, keepdim=True), conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4)
    )
    folded = refold.fold(model.eval(), (torch.randn(2, 3, 6, 6), torch.randn(2, 4, 1, 1))).model
    for shape in ((2, 4, 6, 1), (2, 4, 1, 3)):
        inputs = torch.randn(2, 3, 6, 6), torch.randn(shape)
        torch.testing.assert_close(folded(*inputs), model(*inputs))
    with pytest.raises(
        ValueError, match="axis 2 of `inputs_1` is 6, but the network was traced for inputs where axis 2 of `inputs_1` is 1"
    ):
        folded(torch.randn(2, 3, 6, 6), torch.randn(2, 4, 6, 5))


class Kind(enum.Enum):
    """An argument that is a member."""

    PLAIN = 1
    TWICE = 2


@pytest.mark.parametrize(
    ("function", "example", "other", "says"),
    [
        (lambda net, xs: sum(net.conv(x) for x in xs), ([0],), ([0, 0],), "is a list of 2, but .* it is a list of 1"),
        (lambda net, xs: sum((net.conv(x) for x in xs), torch.ones(1)), ([],), ([0],), "is a list of 1, but .* it is a list of 0"),
        (lambda net, d: net.conv(d["a"]) * (2 if "b" in d else 1), ({"a": 0},), ({"a": 0, "b": 0},), "is a dict of 'a', 'b', but"),
        (lambda net, d: net.conv(d["a"]) * (2 if "b" in d else 1), ({"a": 0},), ({"a": 0, "b": None},), "is a dict of 'a', 'b', but"),
        (lambda net, d: net.conv(next(iter(d.values()))), ({"a": 0, "b": 0},), ({"b": 0, "a": 0},), "is a dict of 'b', 'a', but"),
        (lambda net, xs: net.conv(xs[0]) * (2 if isinstance(xs, list) else 1), ((0,),), ([0],), "is a list of 1, but .* a tuple of 1"),
        (lambda net, x: net.conv(x[0]) if isinstance(x, list) else net.conv(x), (0,), ([0],), "is a list, but .* it is a tensor"),
        (lambda net, x, kind: net.conv(x) * kind.value, (0, Kind.PLAIN), (0, Kind.TWICE), "is Kind.TWICE, but .* it is Kind.PLAIN"),
    ],
    ids=["longer", "from none", "one more key", "one more None", "order", "tuple or list", "a list for a tensor", "a member"],
)
def test_arguments_are_held_to_how_they_were_nested(function: Any, example: Any, other: Any, says: str) -> None:
    def filled(given: Any) -> Any:
        return pytree.tree_map(lambda leaf: torch.ones(2, 3, 4, 4) if leaf == 0 and leaf is not None else leaf, given)

    model = Net(function, conv=nn.Conv2d(3, 4, 1)).eval()
    folded = refold.fold(model, filled(example)).model
    for one in (folded, copy.deepcopy(folded)):
        torch.testing.assert_close(one(*filled(example)), model(*filled(example)))
        with pytest.raises(ValueError, match=says):
            one(*filled(other))
