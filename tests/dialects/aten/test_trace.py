"""Tracing: what forward may take and give, sizes left free or said to be fixed, the original left as it was, errors that name a module."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import refold
from refold.dialects.aten._trace import evaluating
from tests.dialects.aten.nets import EXACT, Net, conv, conv_norm, distance, fold_exactly, left, noise, settled, weight

X, OTHER = (2, 4, 9, 8), (3, 4, 12, 7)


def test_several_inputs_and_outputs(seed: int) -> None:
    model = Net(lambda s, x, y: (s.a(x) + s.b(y), {"b": [s.b(x)]}), a=conv_norm(), b=conv_norm())
    result = fold_exactly(model, noise(*X), noise(*X, seed=4), other=(noise(*OTHER), noise(*OTHER, seed=4)))
    assert left(result.model) == ["Conv2d", "Conv2d", "add", "Conv2d"]
    assert result.report.after.parameters == 2 * (6 * 4 * 9 + 6)  # b is called twice and stored once


def test_a_dict_and_a_list_as_inputs(seed: int) -> None:
    model = Net(lambda s, given: s.a(given["x"]) + s.b(given["y"][0]), a=conv_norm(), b=conv_norm())
    fold_exactly(model, {"x": noise(*X), "y": [noise(*X, seed=4)]}, other=({"x": noise(*OTHER), "y": [noise(*OTHER)]},))


def test_arguments_without_names(seed: int) -> None:
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = conv_norm()

        def forward(self, *xs: Tensor) -> Any:
            return sum(self.layer(x) for x in xs)

    xs, others = (tuple(noise(*shape, seed=n) for n in range(3)) for shape in (X, OTHER))
    fold_exactly(Summed(), *xs, other=others)


class Keyworded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv_norm(), conv_norm()

    def forward(self, x: Tensor, mask: Tensor | None = None, *, other: Tensor, scale: float = 1.0) -> Tensor:
        y: Tensor = self.a(x) + self.b(other) * scale
        return y if mask is None else y * mask


@pytest.mark.parametrize("names", [("other", "scale"), ("scale", "other"), ("other", "mask"), ("other",)])
def test_keyword_arguments(names: tuple[str, ...], seed: int) -> None:
    model = settled(Keyworded())
    every: dict[str, Any] = {"other": noise(*X, seed=4), "scale": 0.5, "mask": noise(2, 1, 9, 8)}
    given = {name: every[name] for name in names}
    x = noise(*X)
    expected = model(x, **given).detach()
    assert distance(expected, refold.fold(model, (x,), kwargs=given).model(x, **given)) < EXACT
    assert distance(expected, refold.fold(model, {"x": x, **given}).model(x=x, **given)) < EXACT


@pytest.mark.parametrize("given", [(None, False), (None, True)])
def test_arguments_that_are_no_tensors(given: tuple[Any, ...], seed: int) -> None:
    model = Net(lambda s, x, mask, flag: s.a(x) if mask is None and flag else s.b(x), a=conv_norm(), b=conv_norm())
    assert left(fold_exactly(model, noise(*X), *given).model) == ["Conv2d"]


def test_outputs_that_are_inputs_parameters_numbers_or_none(seed: int) -> None:
    model = Net(lambda s, x: (x, s.p, s.p * 2, s.a(x), 3, None, x.shape[0]), a=conv_norm(), p=weight(3))
    fold_exactly(model, noise(*X), other=(noise(*OTHER),))


def test_a_size_that_hangs_on_the_data(seed: int) -> None:
    model = Net(
        lambda s, x: s.b(s.a(x).flatten(1)[:, :7][torch.nonzero(x[:, 0, 0, 0] > 0)[:, 0]]),
        a=conv_norm(),
        b=nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 2)),
    )
    result = fold_exactly(model, noise(6, 4, 9, 8), other=(noise(9, 4, 5, 8),))
    assert "nonzero" in left(result.model)
    assert result.report.after.linears == 1


def test_a_batch_of_one_is_not_all_it_takes(seed: int) -> None:
    model = Net(lambda s, x: s.b(torch.flatten(F.adaptive_avg_pool2d(s.a(x), 1), 1)), a=conv_norm(), b=nn.Linear(6, 3))
    result = fold_exactly(model, noise(1, 4, 9, 8), other=(noise(5, 4, 12, 7),))
    assert result.report.notes == ()


def test_sizes_that_the_original_refuses_too_are_refused_in_words_and_are_no_news(seed: int) -> None:
    model = settled(nn.Sequential(conv_norm(), nn.Flatten(), nn.Linear(6 * 9 * 8, 3)))
    result = refold.fold(model, (noise(1, 4, 9, 8),))
    assert result.report.notes == ()
    assert distance(model(noise(3, 4, 9, 8)), result.model(noise(3, 4, 9, 8))) < EXACT
    with pytest.raises(ValueError, match="but the network was traced for inputs where"):
        result.model(noise(1, 4, 9, 9))


def test_a_table_of_positions_fixes_the_size(seed: int) -> None:
    model = settled(Net(lambda s, x: s.n(s.a(x)) + s.p, a=conv(), n=nn.BatchNorm2d(6), p=weight(1, 6, 9, 8)))
    result = refold.fold(model, (noise(1, 4, 9, 8),))
    assert not result.report.notes  # the original takes no other sizes either, but one item that the table is spread over
    for shape in ((1, 4, 1, 8), (3, 4, 9, 1)):
        torch.testing.assert_close(result.model(noise(*shape)), model(noise(*shape)))
    for shape in ((1, 4, 10, 8), (1, 4, 9, 2)):
        with pytest.raises(ValueError, match="but the network was traced for inputs where axis"):
            result.model(noise(*shape))


def test_a_python_number_of_the_size_stays_right_or_is_refused(seed: int) -> None:
    model = settled(Net(lambda s, x: s.a(x) * int(x.shape[2] > 9), a=conv_norm()))
    result = refold.fold(model, (noise(1, 4, 9, 8),))
    for shape in ((1, 4, 9, 8), (1, 4, 16, 8)):
        x = noise(*shape)
        try:
            found = result.model(x)
        except (RuntimeError, ValueError):
            assert result.report.notes
            continue
        assert distance(model(x), found) < EXACT or bool(torch.equal(model(x), found))


def digest(model: nn.Module) -> str:
    told = hashlib.sha256()
    for name, tensor in model.state_dict(keep_vars=True).items():
        told.update(f"{name} {tensor.shape} {tensor.dtype} {tensor.requires_grad} {tensor.is_leaf} {id(tensor)} {tensor.stride()}".encode())
        told.update(tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
    told.update(repr([(name, module.training, id(module)) for name, module in model.named_modules()]).encode())
    return told.hexdigest()


def test_the_original_is_left_as_it_was(seed: int) -> None:
    model: Any = settled(nn.Sequential(conv_norm(), nn.Dropout(0.5), conv_norm(6, 4), nn.BatchNorm2d(4))).train()
    model[2].eval()
    model[0][0].weight.requires_grad_(False)
    model[0][1].bias.grad = torch.ones(6, dtype=torch.float64)
    seen: list[str] = []
    model[0].register_forward_hook(lambda *_: seen.append("forward"))
    model[2].register_forward_pre_hook(lambda *_: seen.append("before"))
    x = noise(*X).requires_grad_()
    before, versions = digest(model), [tensor._version for tensor in model.state_dict(keep_vars=True).values()]
    state = torch.get_rng_state()
    result = refold.fold(model, (x,))
    assert digest(model) == before
    assert [tensor._version for tensor in model.state_dict(keep_vars=True).values()] == versions
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert x.requires_grad
    assert x.grad is None
    assert torch.equal(model[0][1].bias.grad, torch.ones(6, dtype=torch.float64))
    seen.clear()
    model(x)
    assert seen == ["forward", "before"]
    assert not result.model.training
    own = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert own.isdisjoint(tensor.data_ptr() for tensor in result.model.state_dict().values())


def test_inputs_that_forward_writes_to_are_left_as_they_were(seed: int) -> None:
    model, x = settled(Net(lambda s, x: s.a(x.mul_(2)), a=conv_norm())), noise(*X)
    result = refold.fold(model, (x,))
    assert torch.equal(x, noise(*X))
    mine, theirs = noise(*X), noise(*X)
    with torch.no_grad():
        assert distance(model(mine), result.model(theirs)) < EXACT
    assert torch.equal(mine, theirs)


def test_modes_come_back_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3))
    model[1].eval()

    def stop() -> None:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop()
    assert [module.training for module in model.modules()] == [True, True, False]


class Choosing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class PutsAWeightInPlace(nn.Module):
    """Works out a weight on each call and puts it in the place of a parameter's own, as SPAN's blocks do in eval."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(4, 4, 3)
        self.used = nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.used.weight.data = torch.einsum("oihw->oihw", self.wide.weight.data.clone().detach()).contiguous()
        y: Tensor = self.used(x)
        return y


def test_a_forward_that_replaces_a_parameter_is_told_what_to_do() -> None:
    with pytest.raises(refold.FoldError, match="puts a new tensor in the place of a parameter"):
        refold.fold(PutsAWeightInPlace(), (torch.randn(1, 4, 8, 8),))


def test_a_choice_that_hangs_on_the_data_names_the_module() -> None:
    model = nn.Sequential(conv_norm(), nn.Sequential(nn.ReLU(), Choosing())).double()
    with pytest.raises(
        refold.FoldError, match=r"cannot trace the model: .*in module `1\.1`.*take data-dependent control flow out of forward"
    ):
        refold.fold(model, (noise(*X),))


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (noise(2, 3, 9, 8), r"2 x 3 x 9 x 8 float64\): RuntimeError: .*in module `0\.0`"),
        (noise(*X, dtype=torch.float32), r"2 x 4 x 9 x 8 float32\): RuntimeError"),
    ],
)
def test_inputs_that_do_not_fit_are_said(x: Tensor, reason: str) -> None:
    with pytest.raises(refold.FoldError, match=rf"does not run on the example inputs \({reason}"):
        refold.fold(nn.Sequential(conv_norm()).double(), (x,))


def test_no_inputs_at_all() -> None:
    with pytest.raises(refold.FoldError, match="traced on example inputs and none were given"):
        refold.fold(conv_norm())


class WithoutGradients(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv_norm(), conv_norm(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            y = torch.relu(self.a(x))
        z: Tensor = self.b(y)
        return z


def test_no_grad_and_autocast_inside_forward(seed: int) -> None:
    result = fold_exactly(WithoutGradients(), noise(*X), other=(noise(*OTHER),))
    assert (result.report.after.convolutions, result.report.after.batch_norms) == (2, 0)


def test_an_exported_program_is_read_too(seed: int) -> None:
    model = settled(conv_norm())
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (noise(*X),), dynamic_shapes=({0: batch},))
    for given in ((noise(*X),), None):
        result = refold.fold(program, given)
        assert left(result.model) == ["Conv2d"]
        assert distance(model(noise(5, 4, 9, 8)), result.model(noise(5, 4, 9, 8))) < EXACT


def test_buffers_that_forward_sets_anew_come_back(seed: int) -> None:
    class Counting(nn.Module):
        calls: Tensor
        mean: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 6, 3)
            self.register_buffer("calls", torch.zeros(1))
            self.register_buffer("mean", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls + 1
            self.mean.copy_(x.mean())  # written and never read
            y: Tensor = self.conv(x) * 2 + self.calls
            return y

    model = settled(Counting())
    calls = model.calls
    folded = refold.fold(model, (noise(2, 4, 9, 8),)).model
    assert model.calls is calls
    assert float(calls) == float(model.mean) == 0
    x = noise(3, 4, 7, 7)
    assert distance(model(x), folded(x)) < EXACT
    assert float(folded.get_buffer("mean")) == float(x.mean())


def test_inputs_that_are_spread_over_the_batch(seed: int) -> None:
    model = settled(Net(lambda s, x, y: s.a(x) * 2 + y, a=conv()))
    inputs = (noise(2, 4, 9, 8), noise(1, 6, 9, 8))
    assert distance(model(*inputs), refold.fold(model, inputs).model(*inputs)) < EXACT
