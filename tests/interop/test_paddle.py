from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import refold
from refold.interop.paddle import Unmatched, load_into, load_state
from refold.nn import CSPResNet, RepVggBlock
from tests.nn.blocks import settle

FROM_TORCH = {"running_mean": "_mean", "running_var": "_variance"}


def as_paddle(module: nn.Module) -> dict[str, Any]:
    """The state of a module as Paddle would have it, written out by hand for the layers of these tests."""
    state = {}
    for name, tensor in module.state_dict().items():
        path, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        array = tensor.numpy()
        if isinstance(module.get_submodule(path), nn.Linear) and leaf == "weight":
            array = array.T
        if leaf == "alpha":
            array = array.reshape(1)
        state[f"{path}.{FROM_TORCH.get(leaf, leaf)}".removeprefix(".")] = array.copy()
    return state


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items() if not name.endswith("tracked"))


def block() -> RepVggBlock:
    return RepVggBlock(3, 4, "relu", alpha=True)


@pytest.fixture
def trained(seed: int) -> RepVggBlock:
    return settle(block(), torch.randn(2, 3, 6, 6))


def test_a_block_comes_over_a_file(trained: RepVggBlock, tmp_path: Path) -> None:
    state = as_paddle(trained)
    assert sorted(state)[:4] == ["alpha", "conv1.bn._mean", "conv1.bn._variance", "conv1.bn.bias"]
    names = {name: f"p_{i}" for i, name in enumerate(state)}
    path = tmp_path / "block.pdparams"
    path.write_bytes(pickle.dumps(state | {"StructuredToParameterName@@": names}, 4))
    found = load_state(path)
    assert found.keys() == state.keys()
    other = block()
    assert load_into(other, found) == Unmatched((), ())
    assert same(other, trained)


def test_a_backbone_comes_over_by_name(seed: int) -> None:
    layout: dict[str, Any] = {"depths": (1, 2), "widths": (4, 8, 16), "out_stages": (1,)}
    one, other = CSPResNet(**layout).eval(), CSPResNet(**layout).eval()
    for parameter in one.parameters():
        nn.init.normal_(parameter)
    state = as_paddle(one)
    assert "stages.1.blocks.0.conv2.conv1.conv.weight" in state
    load_into(other, state)
    assert same(other, one)
    deployed = one.convert_to_deploy()
    third = CSPResNet(**layout, deploy=True).eval()
    load_into(third, as_paddle(deployed))
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(third(x)[0], deployed(x)[0])


def test_a_linear_is_transposed_even_where_it_is_square_and_nothing_else_is(seed: int) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.table = nn.Embedding(3, 3)
            self.own = nn.Parameter(torch.randn(3, 3))

    matrix = np.arange(9, dtype=np.float32).reshape(3, 3)
    module = Mixed()
    load_into(module, {"linear.weight": matrix, "linear.bias": matrix[0], "table.weight": matrix, "own": matrix})
    assert torch.equal(module.linear.weight, torch.from_numpy(matrix.T.copy()))
    assert torch.equal(module.table.weight, torch.from_numpy(matrix))
    assert torch.equal(module.own, torch.from_numpy(matrix))


def test_a_prelu_has_its_name_of_paddle() -> None:
    layer = nn.PReLU(2)
    load_into(layer, {"_weight": np.array([0.5, 0.25])})
    assert layer.weight.tolist() == [0.5, 0.25]


def test_numbers_take_on_the_dtype_of_the_module_and_bfloat16_is_read_from_its_bits(trained: RepVggBlock) -> None:
    wide = block().double()
    load_into(wide, as_paddle(trained))
    assert same(wide.float(), trained)
    bits = {
        name: torch.from_numpy(array).bfloat16().view(torch.int16).numpy().view(np.uint16) for name, array in as_paddle(trained).items()
    }
    narrow = block()
    load_into(narrow, bits)
    assert same(narrow, trained.bfloat16().float())


def test_what_trained_goes_on_training_and_shares_no_memory(trained: RepVggBlock) -> None:
    state = as_paddle(trained)
    other = block().requires_grad_(False)
    other.conv1.conv.weight.requires_grad_(True)
    load_into(other, state)
    assert [name for name, one in other.named_parameters() if one.requires_grad] == ["conv1.conv.weight"]
    state["conv1.conv.weight"][:] = 0
    assert same(other, trained)


def test_parts_of_a_large_array_are_joined(tmp_path: Path) -> None:
    whole = np.arange(12.0).reshape(3, 4)
    held = {"w@@.0": whole.ravel()[:7], "w@@.1": whole.ravel()[7:], "b": np.ones(2)}
    path = tmp_path / "large.pdparams"
    path.write_bytes(pickle.dumps(held | {"UnpackBigParamInfor@@": {"w": {"OriginShape": (3, 4), "slices": ["w@@.0", "w@@.1"]}}}, 2))
    found = load_state(path)
    assert sorted(found) == ["b", "w"]
    assert np.array_equal(found["w"], whole)


def test_an_open_npz_is_a_state(tmp_path: Path) -> None:
    np.savez(tmp_path / "state.npz", a=np.ones(2))
    with np.load(tmp_path / "state.npz") as file:
        assert load_state(file)["a"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": None}, "the state does not fit RepVggBlock; 1 missing: alpha$"),
        ({"extra": np.ones(1)}, "1 unexpected: extra$"),
        ({"alpha": np.ones(2)}, r"1 of another shape than wanted: alpha \(2,\) for \(\)$"),
        (
            {f"conv1.bn.{name}": np.ones(3) for name in ("weight", "bias", "_mean", "_variance")},
            r"4 of another shape than wanted: conv1\.bn\.weight \(3,\) for \(4,\), .* and 1 more$",
        ),
        (
            {f"conv1.bn.{name}": None for name in ("weight", "bias", "_mean", "_variance")} | {"running_mean": np.ones(4)},
            r"4 missing: conv1\.bn\.weight, conv1\.bn\.bias, conv1\.bn\._mean and 1 more; 1 unexpected: running_mean$",
        ),
    ],
)
def test_what_does_not_fit_is_counted_and_named_and_nothing_is_loaded(change: dict[str, Any], message: str, trained: RepVggBlock) -> None:
    state = {name: array for name, array in (as_paddle(trained) | change).items() if array is not None}
    other = block()
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(refold.FoldError, match=message):
        load_into(other, state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_without_strict_what_matches_is_loaded_and_the_rest_is_said(trained: RepVggBlock) -> None:
    state = as_paddle(trained)
    alpha = state.pop("alpha")
    other = block()
    assert load_into(other, state | {"head.weight": np.ones(2)}, strict=False) == Unmatched(("alpha",), ("head.weight",))
    assert torch.equal(other.conv2.conv.weight, trained.conv2.conv.weight)
    with pytest.raises(refold.FoldError, match=r"1 of another shape than wanted: conv1\.conv\.weight"):
        load_into(other, state | {"alpha": alpha, "conv1.conv.weight": np.ones((1, 1))}, strict=False)


def test_a_state_of_the_other_form_says_what_to_do(trained: RepVggBlock) -> None:
    state = {f"0.{name}": array for name, array in as_paddle(trained).items()}
    with pytest.raises(refold.FoldError, match=r"it is of the train form and the module in deploy form: load it with deploy=False, then"):
        load_into(nn.Sequential(RepVggBlock(3, 4, deploy=True)), state)
    with pytest.raises(refold.FoldError, match=r"it is of the deploy form and the module in train form: build the module with deploy=True"):
        load_into(block(), as_paddle(trained.convert_to_deploy()))


def test_a_layer_whose_order_in_paddle_is_not_known_is_refused() -> None:
    with pytest.raises(refold.FoldError, match="1 is a LSTM, whose parameters Paddle may keep in another order; load it by hand"):
        load_into(nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2)), {})
    with pytest.raises(refold.FoldError, match="the module is a LSTM"):
        load_into(nn.LSTM(2, 2), {})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"model": {"a": np.ones(1)}},
            r"the entry 'model' of the state is a dict, not an array of numbers; pass layer\.state_dict\(\) alone",
        ),
        ({"a": [[1.0], [1.0, 2.0]]}, "the entry 'a' of the state is a list, not an array of numbers"),
        ({"a": "text"}, "the entry 'a' of the state is a str"),
        ({3: np.ones(1)}, "the state has the key 3, and names were expected"),
    ],
)
def test_an_entry_that_is_no_array_is_named(state: dict[Any, Any], message: str) -> None:
    with pytest.raises(refold.FoldError, match=message):
        load_state(state)


def test_a_class_in_the_file_is_named_and_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "state.pdparams"
    path.write_bytes(pickle.dumps({"a": Path("x")}))
    with pytest.raises(refold.FoldError, match=r"names pathlib[\w.]*Path, which is neither an array nor a plain container"):
        load_state(path)


def test_paddle_is_not_loaded() -> None:
    code = "import sys; sys.modules['paddle'] = None; import refold.interop.paddle as p; print(p.load_state({'a': [1.0]})['a'].shape)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "(1,)"
