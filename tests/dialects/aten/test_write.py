"""What is written: an ordinary module under readable names, that trains, copies, saves, moves, exports and compiles."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import refold
from tests.dialects.aten.nets import EXACT, Net, conv, conv_norm, distance, left, noise, settled, weight


class Branches(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.whole, self.point, self.same = conv_norm(width, width), conv_norm(width, width, 1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.whole(x) + self.point(x) + self.same(x))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stage = conv_norm(3, 4), nn.Sequential(Branches(4), Branches(4))
        self.scale, self.head = weight(4, 1, 1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head((self.stage(torch.relu(self.stem(x))) * self.scale).amax((2, 3)))
        return y


SHAPE = (1, 3, 9, 8)


@pytest.fixture
def original(seed: int) -> Small:
    return settled(Small())


@pytest.fixture
def folded(original: Small) -> Any:
    return refold.fold(original, (noise(*SHAPE),)).model


def test_names_are_near_the_origin(folded: Any) -> None:
    assert sorted(name for name, _ in folded.named_parameters()) == sorted(
        [
            "stem.0.weight",
            "stem.0.bias",
            "stage.0.folded.weight",
            "stage.0.folded.bias",
            "stage.1.folded.weight",
            "stage.1.folded.bias",
            "scale",
            "head.weight",
            "head.bias",
        ]
    )
    assert isinstance(folded.get_submodule("stage.1.folded"), nn.Conv2d)
    assert left(folded) == ["Conv2d", "relu", "Conv2d", "relu", "Conv2d", "relu", "mul", "amax", "linear"]


def test_names_that_are_taken_are_stepped_aside_from(seed: int) -> None:
    taken = Net(lambda s, x: s.folded(torch.relu(s.a(x) + s.b(x))), a=conv(bias=False), b=conv(), folded=nn.Conv2d(6, 2, 1))
    model = settled(taken)
    result = refold.fold(model, (noise(2, 4, 9, 8),))
    assert distance(model(noise(3, 4, 5, 5)), result.model(noise(3, 4, 5, 5))) < EXACT
    assert len(dict(result.model.named_parameters())) == 4


def test_it_trains(folded: Any) -> None:
    x, target = noise(8, *SHAPE[1:]), noise(8, 5, seed=9)
    optimizer = torch.optim.SGD(folded.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = (folded(x) - target).square().mean()
        loss.backward()
        assert all(parameter.grad is not None for parameter in folded.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[1] < losses[0]


def test_what_was_frozen_stays_frozen(original: Small) -> None:
    original.stage[0].requires_grad_(False)
    original.head.bias.requires_grad_(False)
    folded = refold.fold(original, (noise(*SHAPE),)).model
    still = {name for name, parameter in folded.named_parameters() if not parameter.requires_grad}
    assert still == {"stage.0.folded.weight", "stage.0.folded.bias", "head.bias"}


def through_torch_save(module: Any) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": through_torch_save,
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_copies(make: Any, original: Small, folded: Any) -> None:
    twin = make(folded)
    x = noise(5, 3, 12, 7)
    assert torch.equal(twin(x), folded(x))
    with torch.no_grad():
        next(twin.parameters()).zero_()
    assert distance(original(x).detach(), folded(x).detach()) < EXACT


def test_a_saved_state_loads_strictly(original: Small, folded: Any) -> None:
    file = io.BytesIO()
    torch.save(folded.state_dict(), file)
    file.seek(0)
    other = refold.fold(settled(Small()), (noise(*SHAPE),)).model
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(noise(*SHAPE)), folded(noise(*SHAPE)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_moves_to_another_dtype(dtype: torch.dtype, folded: Any) -> None:
    exact = folded(noise(*SHAPE)).detach()
    moved = copy.deepcopy(folded).to(dtype)
    y = moved(noise(*SHAPE, dtype=dtype)).detach()
    assert y.dtype == dtype
    assert float((y.double() - exact).abs().max() / exact.abs().max()) < 40 * torch.finfo(dtype).eps


def test_it_moves_to_another_device(folded: Any) -> None:
    assert folded.to("meta")(noise(*SHAPE).to("meta")).device.type == "meta"


@pytest.mark.parametrize("strict", [False, True])
def test_it_exports_again(strict: bool, original: Small, folded: Any) -> None:
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    program = torch.export.export(folded, (noise(2, 3, 9, 8),), dynamic_shapes=(free,), strict=strict)
    x = noise(5, 3, 12, 7)
    assert distance(original(x).detach(), program.module()(x).detach()) < EXACT


def test_it_folds_again_into_itself(folded: Any) -> None:
    assert refold.check(folded, (noise(*SHAPE),)) == ()
    again = refold.fold(folded, (noise(*SHAPE),))
    assert again.report.folds == ()
    assert again.report.after.operators == again.report.before.operators


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_it_exports_to_onnx(original: Small, folded: Any, tmp_path: Path) -> None:
    folded.float()
    path = tmp_path / "folded.onnx"
    free = ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
    torch.onnx.export(folded, (noise(2, *SHAPE[1:], dtype=torch.float32),), path, dynamo=True, verbose=False, dynamic_shapes=free)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = noise(3, 3, 12, 7, dtype=torch.float32)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert distance(original.float()(x).detach(), torch.from_numpy(found)) < 1e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_it_compiles(folded: Any) -> None:
    compiled: Any = torch.compile(folded, backend="eager", fullgraph=True)
    assert distance(folded(noise(*SHAPE)).detach(), compiled(noise(*SHAPE)).detach()) < EXACT
    torch._dynamo.reset()


def test_channels_last_stays(original: Small) -> None:
    model = original.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = noise(2, 3, 9, 8).to(memory_format=torch.channels_last)
    folded = refold.fold(model, (x,)).model
    assert folded.get_parameter("stage.0.folded.weight").is_contiguous(memory_format=torch.channels_last)
    features = Net(lambda s, x: s.a(x), a=model.stage)
    y = refold.fold(features, (noise(2, 4, 9, 8).to(memory_format=torch.channels_last),)).model(
        noise(2, 4, 9, 8).to(memory_format=torch.channels_last)
    )
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_hooks_can_be_put_on_what_is_written(folded: Any) -> None:
    seen = []
    folded.get_submodule("stage.0.folded").register_forward_hook(lambda _module, _inputs, y: seen.append(y.shape))
    folded(noise(*SHAPE))
    assert seen == [torch.Size([1, 4, 9, 8])]


def test_data_parallel_style_functional_calls(folded: Any) -> None:
    weights = {name: torch.zeros_like(parameter) for name, parameter in folded.named_parameters()}
    assert float(torch.func.functional_call(folded, weights, (noise(*SHAPE),)).abs().max()) == 0.0
