"""What hangs on parameters alone is worked out first, in float64; what does not is left; numbers that are none are named."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import refold
from refold.dialects.aten import AtenModel
from refold.dialects.aten._constants import Constants
from tests.dialects.aten.nets import Net, conv, conv_norm, distance, expected_of, left, noise, settled, table_left, weight


def test_weights_computed_in_the_graph(seed: int) -> None:
    one = ["Conv2d"]

    def of(make: Any, **members: Any) -> nn.Module:
        return Net(lambda s, x: s.n(F.conv2d(x, make(s), padding=1)), n=nn.BatchNorm2d(6), **members)

    def sobel(net: Any) -> Tensor:
        mask = torch.zeros(6, 4, 3, 3, dtype=torch.float64)
        mask[:, :, 0] = 1.0
        mask[:, :, 2] = -1.0
        kernel: Tensor = net.p * mask
        return kernel

    rows = {
        "scaled": (of(lambda s: s.w * s.p, w=weight(6, 4, 3, 3), p=weight(6, 1, 1, 1)), one),
        "einsum": (of(lambda s: torch.einsum("oi,ihw->oihw", s.w, s.p), w=weight(6, 4), p=weight(4, 3, 3)), one),
        "permuted": (of(lambda s: s.w.permute(3, 2, 0, 1), w=weight(3, 3, 4, 6)), one),
        "padded": (of(lambda s: F.pad(s.w, (1, 1, 1, 1)), w=weight(6, 4, 1, 1)), one),
        "convolved": (of(lambda s: F.conv2d(s.w, s.p.permute(1, 0, 2, 3)), w=weight(6, 5, 3, 3), p=weight(5, 4, 1, 1)), one),
        "identity_buffer": (of(lambda s: s.w + s.i, w=weight(6, 4, 3, 3), i=torch.eye(6)[:, :4, None, None]), one),
        "filled_on_the_fly": (of(sobel, p=weight(6, 1, 1, 1)), one),
        "frozen": (of(lambda s: s.w.detach(), w=weight(6, 4, 3, 3)), one),
        "weight_norm": (Net(lambda s, x: s.n(s.a(x)), a=parametrizations.weight_norm(conv()), n=nn.BatchNorm2d(6)), one),
        "spectral_norm": (Net(lambda s, x: s.n(s.a(x)), a=parametrizations.spectral_norm(conv()), n=nn.BatchNorm2d(6)), one),
        "computed_bias": (Net(lambda s, x: F.conv2d(x, s.w, s.q * 2) * 3, w=weight(6, 4, 3, 3), q=weight(6)), one),
        "computed_statistics": (Net(lambda s, x: F.batch_norm(s.a(x), s.m * 2, s.m.exp()), a=conv(), m=weight(6)), one),
    }
    assert table_left(rows, noise(2, 4, 9, 8), noise(3, 4, 12, 7)) == expected_of(rows)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_older_parametrizations(seed: int) -> None:
    rows = {
        "weight_norm": (Net(lambda s, x: s.n(s.a(x)), a=nn.utils.weight_norm(conv()), n=nn.BatchNorm2d(6)), ["Conv2d"]),
        "spectral_norm": (Net(lambda s, x: s.n(s.a(x)), a=nn.utils.spectral_norm(conv()), n=nn.BatchNorm2d(6)), ["Conv2d"]),
    }
    assert table_left(rows, noise(2, 4, 9, 8), noise(3, 4, 12, 7)) == expected_of(rows)


def test_what_was_computed_can_be_let_go_of(seed: int) -> None:
    model = settled(Net(lambda s, x: F.conv2d(x, s.w * 2), w=weight(6, 4, 3, 3)))
    program = AtenModel(model, (noise(2, 4, 9, 8),)).traced.program
    constants = Constants(program)
    (product,) = [node for node in program.graph.nodes if constants.is_computed(node)]
    held = weakref.ref(constants.value(product))
    assert held() is constants.value(product)
    constants.forget()
    gc.collect()
    assert held() is None
    assert constants.value(product).shape == (6, 4, 3, 3)


def test_weights_drawn_at_random_are_not_constant(seed: int) -> None:
    model = settled(Net(lambda s, x: s.n(F.conv2d(x, torch.randn_like(s.w))), n=nn.BatchNorm2d(6), w=weight(6, 4, 3, 3)))
    assert "conv2d" in left(refold.fold(model, (noise(2, 4, 9, 8),)).model)


def test_a_buffer_that_forward_writes_to_is_not_constant(seed: int) -> None:
    class Counting(nn.Module):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.layer = conv_norm()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls.add_(1)
            y: Tensor = self.layer(x) * self.calls
            return y

    model, x = settled(Counting()), noise(2, 4, 9, 8)
    model.calls.fill_(4)
    result = refold.fold(model, (x,))
    assert float(model.calls) == 4
    with torch.no_grad():
        for _ in range(2):
            assert distance(model(x), result.model(x)) < 1e-12
    assert float(result.model.get_buffer("calls")) == float(model.calls) == 6
    assert (result.report.after.convolutions, result.report.after.batch_norms) == (1, 0)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["stem.0.weight", "stem.1.running_var", "stem.1.bias", "scale"])
def test_numbers_that_are_none_are_named(name: str, number: float, seed: int) -> None:
    model = settled(Net(lambda s, x: s.stem(x) * s.scale, stem=conv_norm(), scale=weight(1)))
    with torch.no_grad():
        model.state_dict()[name].view(-1)[0] = number
    if name.endswith("running_var") and number > 0:  # a variance of infinity is a scale of zero
        return
    with pytest.raises(refold.FoldError, match=rf"the weights of .*{name}.* hold NaN or infinite numbers; mend the checkpoint"):
        refold.fold(model, (noise(2, 4, 9, 8),))


def test_a_division_by_zero_is_named(seed: int) -> None:
    model = settled(Net(lambda s, x: s.a(x) / 0.0, a=conv()))
    with pytest.raises(refold.FoldError, match="hold NaN or infinite numbers"):
        refold.fold(model, (noise(2, 4, 9, 8),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_is_computed_is_rounded_once(dtype: torch.dtype, seed: int) -> None:
    chain = Net(lambda s, x: F.conv2d(x, s.w * s.p / s.q * s.p), w=weight(6, 4, 1, 1), p=weight(6, 1, 1, 1), q=weight(6, 1, 1, 1))
    model = settled(chain, dtype)
    wide = {name: tensor.double() for name, tensor in model.named_parameters()}
    folded = refold.fold(model, (noise(2, 4, 5, 5, dtype=dtype),)).model
    (kernel,) = folded.parameters()
    exact = wide["w"] * wide["p"] / wide["q"] * wide["p"]
    assert kernel.dtype == dtype
    assert bool(((kernel.double() - exact).abs() <= torch.finfo(dtype).eps / 2 * exact.abs() * (1 + 2**-10)).all())


def test_weights_may_be_computed_in_many_steps(seed: int) -> None:
    """Neither the depth of the calls nor the number of ways from a parameter to a weight (here 2 to the 400th) stands in the way."""

    def kernel(net: Any) -> Tensor:
        w = net.w
        for _ in range(400):
            w = w * 0.25 + w * 0.75
        result: Tensor = w
        return result

    model = settled(Net(lambda s, x: s.n(F.conv2d(x, kernel(s))), w=weight(6, 4, 1, 1), n=nn.BatchNorm2d(6)))
    x = noise(2, 4, 5, 5)
    result = refold.fold(model, (x,))
    assert left(result.model) == ["Conv2d"]
    (fold,) = result.report.folds
    assert (fold.before.operators, fold.after.operators) == (2 + 3 * 400, 1)
    assert fold.sources[0] == "w"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_scaled_product_is_rounded_once(dtype: torch.dtype, seed: int) -> None:
    model = settled(Net(lambda s, x: torch.addmm(s.b, x, s.w, alpha=0.3, beta=0.7) * 1.1, w=weight(4, 6), b=weight(6)), dtype)
    wide = {name: tensor.double() for name, tensor in model.named_parameters()}
    folded = refold.fold(model, (noise(2, 4, dtype=dtype),)).model
    for tensor, exact in zip(folded.parameters(), (wide["w"].T * 0.3 * 1.1, wide["b"] * 0.7 * 1.1), strict=True):
        assert bool(((tensor.double() - exact).abs() <= torch.finfo(dtype).eps / 2 * exact.abs() * (1 + 2**-10)).all())


def test_an_original_holds_constants_of_complex_numbers(seed: int) -> None:
    tone = nn.Parameter(torch.randn(1, 6, 1, 1, dtype=torch.complex128))
    model = Net(lambda s, x: torch.view_as_real(torch.fft.rfft2(s.a(x)) * s.p))
    model.a, model.p = settled(conv_norm()), tone
    result = refold.fold(model, (noise(2, 4, 9, 8),))
    assert left(result.model) == ["Conv2d", "fft_rfft2", "mul", "view_as_real"]
