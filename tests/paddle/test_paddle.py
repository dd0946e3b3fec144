"""Against PaddlePaddle itself, which trains, saves and exports in an environment of its own; `make test-paddle` makes it."""

from __future__ import annotations

import math
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

import refold
from refold.interop.paddle import Unmatched, load_into, load_state
from refold.nn import CSPResNet, RepVggBlock

PADDLE = os.environ.get("REFOLD_PADDLE", "")
"""The Python of the environment that has PaddlePaddle."""
BLOCKS = {"block": 1, "backbone": 6}
CONVOLUTIONS = {"block": 2, "backbone": 3 + 4 * 5 + 6 * 3}
BATCH_NORMS = {"block": 2, "backbone": 3 + 4 * 4 + 6 * 3}
RESIDUALS = 6
NETWORKS = tuple(BLOCKS)
SIZES = ("fixed", "free")
BAR = 1e-5
"""Of the output's scale: what a folded file may differ from Paddle by."""

pytestmark = pytest.mark.skipif(not PADDLE, reason="needs PaddlePaddle in an environment of its own; run `make test-paddle`")


class Classifier(nn.Module):
    def __init__(self, features: nn.Module, channels: int) -> None:
        super().__init__()
        self.features = features
        self.hidden = nn.Linear(channels, channels)
        self.logits = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.features(x)
        maps = maps if isinstance(maps, tuple) else (maps,)
        logits = self.logits(self.hidden(maps[-1].mean((2, 3))).relu())
        return {"logits": logits} | {f"map{i}": one for i, one in enumerate(maps)}


def build(name: str) -> Classifier:
    if name == "block":
        return Classifier(RepVggBlock(3, 12, "swish", alpha=True), 12).eval()
    return Classifier(CSPResNet("S"), 512).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Paddle wrote: digits of 64 x 64 in, weights, networks and answers out."""
    place = tmp_path_factory.mktemp("paddle")
    digits = load_digits()
    small = (digits.images[:128] / 16).astype(np.float32)
    images = np.repeat(small.repeat(8, 1).repeat(8, 2)[:, None], 3, axis=1)
    np.savez(place / "digits.npz", images=images, labels=digits.target[:128])
    script = Path(__file__).with_name("in_paddle.py")
    done = subprocess.run([PADDLE, str(script), str(place)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place


def answers(folder: Path, name: str) -> dict[str, NDArray[Any]]:
    with np.load(folder / f"{name}.npz") as file:
        return dict(file)


def loaded(folder: Path, name: str) -> Classifier:
    network = build(name)
    assert load_into(network, load_state(folder / f"{name}.pdparams")) == Unmatched((), ())
    return network


def run(network: nn.Module, x: NDArray[Any], dtype: torch.dtype) -> dict[str, NDArray[Any]]:
    with torch.no_grad():
        return {key: one.double().numpy() for key, one in network.to(dtype)(torch.from_numpy(x).to(dtype)).items()}


def run_onnx(path: Path, x: NDArray[Any]) -> list[NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # it warns of the constants that paddle2onnx leaves unused
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: x}))


def distance(one: NDArray[Any], other: NDArray[Any]) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(np.float64) - other).max() / np.abs(other).max())


def disagreements(network: nn.Module, found: dict[str, NDArray[Any]]) -> list[str]:
    """The outputs of Paddle that are further from the float64 truth of the torch network than rounding in float32 explains.

    That is what torch is off by itself, or, where it is luckier, what a sum of so many places as are averaged is off by.
    """
    narrow, truth = (run(network, found["x"], dtype) for dtype in (torch.float32, torch.float64))
    last = max(key for key in truth if key.startswith("map"))
    averaged = {"logits": math.prod(truth[last].shape[2:])}
    roundings = {key: float(np.finfo(np.float32).eps) / 2 * math.sqrt(averaged.get(key, 1)) for key in truth}
    return [key for key, exact in truth.items() if distance(found[key], exact) > 4 * max(distance(narrow[key], exact), roundings[key])]


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("name", NETWORKS)
def test_training_moved_every_parameter(folder: Path, name: str) -> None:
    assert answers(folder, name)["still"].tolist() == []
    state = load_state(folder / f"{name}.pdparams")
    alphas = [array for key, array in state.items() if key.endswith("alpha")]
    assert len(alphas) == BLOCKS[name]
    assert all(array.shape == (1,) and array.item() != 1 for array in alphas)


@pytest.mark.parametrize("name", NETWORKS)
def test_torch_and_paddle_agree_in_train_form(folder: Path, name: str) -> None:
    assert disagreements(loaded(folder, name), answers(folder, name)) == []


@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_that_is_loaded_wrongly_is_noticed(folder: Path, name: str) -> None:
    network = loaded(folder, name)
    network.hidden.weight.data = network.hidden.weight.data.T.contiguous()
    assert disagreements(network, answers(folder, name)) == ["logits"]
    network = loaded(folder, name)
    block = next(module for module in network.modules() if isinstance(module, RepVggBlock))
    assert block.alpha is not None
    block.alpha.data += 1e-4
    assert "map0" in disagreements(network, answers(folder, name))


@pytest.mark.parametrize("name", NETWORKS)
def test_paddles_weights_folded_in_torch_agree_with_paddle(folder: Path, name: str) -> None:
    network, found = loaded(folder, name), answers(folder, name)
    features = network.features
    assert isinstance(features, (RepVggBlock, CSPResNet))
    features.convert_to_deploy()
    for key, one in run(network, found["x"], torch.float32).items():
        assert distance(one, found[key]) < BAR


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", NETWORKS)
def test_paddles_export_still_has_every_branch(folder: Path, name: str, sizes: str) -> None:
    found = operators(folder / f"{name}-{sizes}.onnx")
    assert (found["Conv"], found["BatchNormalization"]) == (CONVOLUTIONS[name], BATCH_NORMS[name])


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", NETWORKS)
def test_folding_leaves_one_convolution_a_block_and_agrees_with_paddle(folder: Path, tmp_path: Path, name: str, sizes: str) -> None:
    original = folder / f"{name}-{sizes}.onnx"
    result = refold.fold(original)
    assert result.report.certificate is not None
    assert result.report.certificate.passed
    path = result.save(tmp_path / "folded.onnx")
    left = operators(path)
    assert (left["Conv"], left["BatchNormalization"]) == (CONVOLUTIONS[name] - BLOCKS[name], 0)
    assert refold.check(path) == ()
    found = answers(folder, name)
    maps = [found[key] for key in sorted(found) if key.startswith("map")]
    for one, expected in zip(run_onnx(path, found["x"]), maps, strict=True):
        assert distance(one, expected) < BAR
    if sizes == "free":
        other = np.random.default_rng(0).random((1, 3, 97, 64), np.float32)
        for one, expected in zip(run_onnx(path, other), run_onnx(original, other), strict=True):
            assert distance(one, expected) < BAR


def test_nothing_is_added_but_the_residuals(folder: Path) -> None:
    after = refold.fold(folder / "backbone-fixed.onnx").report.after
    assert after.additions == RESIDUALS


def test_files_of_older_protocols_are_read(folder: Path) -> None:
    state, expected = load_state(folder / "protocol2.pdparams"), answers(folder, "protocol2")
    assert state.keys() == expected.keys()
    assert all(np.array_equal(state[key], expected[key]) for key in expected)


def test_bfloat16_is_read_from_its_bits(folder: Path) -> None:
    block, rounded = (RepVggBlock(3, 12, "swish", alpha=True) for _ in range(2))
    load_into(block, load_state(folder / "bfloat16.pdparams"))
    load_into(rounded, load_state(folder / "protocol2.pdparams"))
    for name, tensor in rounded.bfloat16().float().state_dict().items():
        assert torch.equal(block.state_dict()[name], tensor), name


def test_a_checkpoint_of_several_parts_says_what_to_save(folder: Path) -> None:
    with pytest.raises(refold.FoldError, match=r"the entry 'model' of the state is a \w+, not an array of numbers; pass layer\.state_dict"):
        load_state(folder / "nested.pdparams")
