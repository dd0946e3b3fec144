"""Layers of every kind beside convolutions: what can fold does, and the rest stays what it was."""

from __future__ import annotations

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


def test_resampling_shuffling_and_spectra(seed: int) -> None:
    rows: dict[str, tuple[nn.Module, list[str]]] = {
        "bilinear": (
            Net(lambda s, x: s.b(F.interpolate(s.a(x), scale_factor=2, mode="bilinear")), a=conv_norm(), b=conv_norm(6)),
            ["Conv2d", "upsample_bilinear2d", "Conv2d"],
        ),
        "nearest": (Net(lambda s, x: F.interpolate(s.a(x), size=x.shape[2:]), a=conv_norm()), ["Conv2d", "upsample_nearest2d"]),
        "pixel_shuffle": (Net(lambda s, x: F.pixel_shuffle(s.a(x), 2), a=conv_norm(4, 8)), ["Conv2d", "pixel_shuffle"]),
        "adaptive": (Net(lambda s, x: F.adaptive_avg_pool2d(s.a(x), 1), a=conv_norm()), ["Conv2d", "adaptive_avg_pool2d"]),
        "max_pool": (Net(lambda s, x: s.b(F.max_pool2d(s.a(x), 2)), a=conv_norm(), b=conv_norm(6)), ["Conv2d", "max_pool2d", "Conv2d"]),
        "spectrum": (
            Net(lambda s, x: s.b(torch.fft.irfft2(torch.fft.rfft2(s.a(x)) * 2, s=x.shape[-2:])), a=conv_norm(), b=conv_norm(6)),
            ["Conv2d", "fft_rfft2", "mul", "fft_irfft2", "Conv2d"],
        ),
        "complex_output": (Net(lambda s, x: torch.fft.rfft2(s.a(x)), a=conv_norm()), ["Conv2d", "fft_rfft2"]),
        "classes": (Net(lambda s, x: s.a(x).softmax(1).argmax(1), a=conv_norm()), ["Conv2d", "softmax", "argmax"]),
        "nothing": (nn.ReLU(), ["relu"]),
    }
    assert table_left(rows, noise(2, 4, 9, 8), noise(3, 4, 12, 7)) == expected_of(rows)


def test_parts_of_the_channels(seed: int) -> None:
    part = nn.Sequential(nn.Conv2d(2, 6, 1, bias=False), nn.BatchNorm2d(6))
    result = fold_exactly(Net(lambda s, x: torch.cat([s.a(one) for one in x.chunk(2, 1)], 1), a=part), noise(2, 4, 9, 8))
    assert (result.report.after.convolutions, result.report.after.batch_norms) == (2, 0)


def test_a_masked_assignment(seed: int) -> None:
    def clipped(net: Any, x: Any) -> Any:
        y = net.a(x)
        y[y < 0] = 0
        return y

    result = fold_exactly(Net(clipped, a=conv_norm()), noise(2, 4, 9, 8), other=(noise(3, 4, 5, 5),))
    assert result.report.after.batch_norms == 0


ATTENTION = {
    "attention": (lambda: nn.MultiheadAttention(8, 2, batch_first=True), lambda s, x: s.m(s.a(x), x, x)[0]),
    "attention without weights": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        lambda s, x: s.m(x, x, s.a(x), need_weights=False)[0],
    ),
    "encoder layer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), lambda s, x: s.m(s.a(x))),
    "norm first": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu"),
        lambda s, x: s.m(s.a(x)),
    ),
}


@pytest.mark.parametrize(("make", "function"), ATTENTION.values(), ids=ATTENTION)
def test_transformers(make: Any, function: Any, seed: int) -> None:
    model = Net(function, m=make(), a=nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
    result = fold_exactly(model, noise(2, 5, 8), other=(noise(3, 7, 8),))
    assert result.report.after.linears < result.report.before.linears


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(kind: Any, seed: int) -> None:
    stem = nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6))
    model = Net(lambda s, x: s.m(s.a(x).transpose(1, 2)), a=stem, m=kind(6, 5, batch_first=True, bidirectional=True))
    result = fold_exactly(model, noise(2, 4, 9), other=(noise(3, 4, 9),))
    assert (result.report.after.convolutions, result.report.after.batch_norms) == (1, 0)


def test_an_embedding_in_front_of_linear_layers(seed: int) -> None:
    model = settled(Net(lambda s, i: s.b(s.a(s.e(i))), e=nn.Embedding(9, 4), a=nn.Linear(4, 8), b=nn.Linear(8, 3)))
    words = torch.randint(0, 9, (2, 5))
    result = refold.fold(model, (words,))
    assert left(result.model) == ["embedding", "Linear"]
    assert distance(model(words.T), result.model(words.T)) < EXACT


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype(dtype: torch.dtype, seed: int) -> None:
    model = settled(Net(lambda s, x: torch.relu(s.a(x) + s.b(x)) * s.p, a=conv_norm(), b=conv_norm(4, 6, 1), p=weight(6, 1, 1)), dtype)
    result = refold.fold(model, (noise(2, 4, 9, 8, dtype=dtype),))
    assert {tensor.dtype for tensor in result.model.parameters()} == {dtype}
    assert left(result.model) == ["Conv2d", "relu", "mul"]
    assert result.report.certificate is not None
    assert result.report.certificate.passed


def test_a_folded_weight_that_leaves_the_range_of_float16_is_refused(seed: int) -> None:
    model = settled(Net(lambda s, x: s.a(x) * 300.0 * 300.0, a=conv()), torch.float16)
    with torch.no_grad():
        model.get_parameter("a.weight").fill_(1.0)
    result = refold.fold(model, (noise(2, 4, 5, 5, dtype=torch.float16) * 1e-4,))
    assert any(refusal.law == "rounding" and "leave the range of float16" in refusal.fact for refusal in result.report.refusals)


def test_layers_called_twice_are_stored_once(seed: int) -> None:
    twice = Net(lambda s, x: s.b(torch.relu(s.b(torch.relu(s.a(x))))), a=conv_norm(), b=conv_norm(6))
    result = fold_exactly(twice, noise(2, 4, 9, 8), other=(noise(3, 4, 5, 5),))
    assert left(result.model) == ["Conv2d", "relu", "Conv2d", "relu", "Conv2d"]
    assert {name for name, _ in result.model.named_parameters()} == {"a.0.weight", "a.0.bias", "b.0.weight", "b.0.bias"}


def test_layers_called_twice_with_another_norm_are_folded_at_each(seed: int) -> None:
    twice = Net(lambda s, x: s.n(s.b(torch.relu(s.b(x)))), b=conv_norm(4, 4), n=nn.BatchNorm2d(4))
    result = fold_exactly(twice, noise(2, 4, 9, 8), other=(noise(3, 4, 5, 5),))
    assert left(result.model) == ["Conv2d", "relu", "Conv2d"]
    assert len(list(result.model.parameters())) == 4


def test_a_max_pooling_padded_by_minus_infinity_keeps_its_padding(seed: int) -> None:
    net = Net(lambda s, x: F.max_pool2d(F.pad(s.a(x), (1, 1, 1, 1), value=-torch.inf), 3), a=conv_norm())
    fold_exactly(net, noise(2, 4, 9, 8), other=(noise(3, 4, 10, 7),))


def test_parameters_of_the_model_itself(seed: int) -> None:
    result = fold_exactly(
        Net(lambda s, x: x * s.scale * s.gain + s.shift, scale=weight(4, 1, 1), gain=weight(1), shift=weight(4, 1, 1)), noise(2, 4, 5, 5)
    )
    assert list(result.model.state_dict()) == ["folded.weight", "folded.bias"]


@pytest.mark.parametrize(
    "function",
    [
        lambda s, x: torch.sub(s.a(x), s.b(x), alpha=x.shape[2]),
        lambda s, x: torch.addcmul(s.a(x), s.b(x), s.w, value=x.shape[2]),
        lambda s, x: F.linear(s.a(x), s.row),
        lambda s, x: torch.addmm(s.one, s.a(x).flatten(1), s.tall),
        lambda s, x: torch.cat([s.a(x), s.b(x)[:, :0]], 1) * 2,
        lambda s, x: F.pad(s.a(x)[:, :0], (1, 1)) * s.w[:0],
        lambda s, x: (s.a(x) + s.mask).softmax(-1),
    ],
)
def test_operands_that_no_map_is_made_of_stay(function: Any, seed: int) -> None:
    """A factor that is a size, a weight that is a vector, one bias for all, no channels at all, classes ruled out."""
    mask = nn.Parameter(torch.tensor([0.0, -torch.inf, 0.0, 0.0, 0.0]))
    members = {"w": weight(6, 1, 1), "row": weight(5), "one": weight(1), "tall": weight(6 * 25, 3), "mask": mask}
    fold_exactly(Net(function, a=conv_norm(), b=conv_norm(), **members), noise(2, 4, 5, 5))


def test_weights_that_float64_would_change_are_those_of_the_model(seed: int) -> None:
    edge = nn.Parameter(torch.full((6, 4, 3, 3), 0.1))
    rows = {
        "few bits": Net(lambda s, x: F.conv2d(x, s.w.bfloat16().float()) * 2, w=weight(6, 4, 3, 3)),
        "threshold": Net(lambda s, x: F.conv2d(x, s.w * (s.w.abs() > 0.1).float() + 1) * 2, w=edge),
        "bits": Net(lambda s, x: F.conv2d(x, (s.w.detach().view(torch.int32) & -65536).view(torch.float32)) * 2, w=weight(6, 4, 3, 3)),
    }
    x = noise(2, 4, 9, 8, dtype=torch.float32)
    for model in rows.values():
        folded = refold.fold(model, (x,)).model
        assert distance(model(x), folded(x)) < 1e-6


def test_a_write_to_what_an_idle_dropout_gives_is_a_write_to_its_input(seed: int) -> None:
    def written(net: Any, x: Tensor) -> Tensor:
        y = net.a(x)
        z = F.dropout(y, 0.5, net.training)
        z += 1
        result: Tensor = y * 2 + z
        return result

    fold_exactly(Net(written, a=conv_norm()), noise(2, 4, 9, 8))


def test_long_chains_of_skip_connections(seed: int) -> None:
    """Each doubles the ways from the input to the output, so that the merged map would be worked out twice as long."""

    def chain(net: Any, x: Tensor) -> Tensor:
        for _ in range(24):
            x = net.a(x) / 2 + x / 2
        return x

    settled(model := Net(chain, a=conv(4, 4, 1, padding=0)))
    x = noise(2, 4, 5, 5)
    assert distance(model(x), refold.fold(model, (x,)).model(x)) < EXACT
