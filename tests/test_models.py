"""Models, weights and inputs as the command line names them: what is read, and what each bad one is told."""

from __future__ import annotations

import io
import os
import pickle
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from refold.errors import FoldError
from refold.models import NamedModel, load_weights, make_inputs, pair_up, read_model

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x):
        return self.bn(self.conv(x))

class Zoo:
    make = staticmethod(Net)

ready = Net()
number = 3

def net(): return Net()
def pair(): return Net(), (torch.zeros(1, 3, 8, 8),)
def lone(): return Net(), torch.zeros(1, 3, 8, 8)
def listed(): return Net(), [torch.zeros(1, 3, 8, 8)]
def named(): return Net(), {"x": torch.zeros(1, 3, 8, 8)}
def needs(width): return Net(width)
def leaves(): raise SystemExit("usage: train.py")
def nothing(): pass
def text(): return "resnet"
def refuses():
    raise RuntimeError("no dataset at data/\\nand more")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own that holds `nets.py` and is the current one."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "broken.py").write_text("import json\n\nraise KeyError('licence')\n")
    (tmp_path / "hungry.py").write_text("import no_such_dependency\n")
    (tmp_path / "garbled.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in ("nets", "broken", "hungry", "garbled", "timm"):
        if name not in before:
            sys.modules.pop(name, None)


def fitting() -> Any:
    return read_model("nets:Net").model


def plain(error: pytest.ExceptionInfo[FoldError]) -> str:
    return str(error.value).replace("\N{MULTIPLICATION SIGN}", "x")


def state(seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return dict(fitting().state_dict())


# Names


@pytest.mark.parametrize("name", ["nets:net", "nets:Net", "nets:ready", "nets:Zoo.make"])
def test_a_factory_may_be_a_function_a_class_or_a_module(name: str) -> None:
    named = read_model(name)
    assert isinstance(named.model, nn.Module)
    assert (named.name, named.example_inputs, named.is_onnx) == (name, None, False)


@pytest.mark.parametrize("name", ["nets:pair", "nets:lone", "nets:listed"])
def test_a_factory_may_bring_inputs(name: str) -> None:
    named = read_model(name)
    (x,) = make_inputs(named)
    assert x.shape == (1, 3, 8, 8)
    assert isinstance(named.example_inputs, tuple)


def test_a_factory_may_bring_named_inputs() -> None:
    assert list(make_inputs(read_model("nets:named"))) == ["x"]


def test_random_weights_are_the_same_in_every_run_and_disturb_no_other_random_numbers() -> None:
    torch.manual_seed(3)
    first = read_model("nets:net").model.conv.weight
    after = torch.rand(1)
    torch.manual_seed(4)
    assert torch.equal(first, read_model("nets:net").model.conv.weight)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nets", "`nets` is not the name of a model; write file.onnx, file.pt2, package.module:factory or timm:name"),
        ("nets.py", "nets.py is a file of code; name the factory in it, as in nets:factory"),
        ("best.pth", "best.pth holds weights alone; name the network too, as in: package.module:factory --weights best.pth"),
        ("best.safetensors", "holds weights alone"),
        ("zoo/nets.py:net", "write its module with dots and then the factory, as in zoo.nets:net"),
        ("nets:", "`nets:` does not name a factory"),
        (":net", "as in package.module:net"),
        ("nest:net", "there is no module `nest`; did you mean nets?"),
        ("faraway:net", "there is no module `faraway`; install it, or run refold in the folder that holds it"),
        ("nets.zoo:net", "there is no module `nets.zoo`; install it"),
        ("nets:nett", "nets has no `nett`; did you mean net"),
        ("nets:Zoo.mkae", "nets has no `Zoo.mkae`; did you mean make?"),
        ("nets:zzz", "nets has no `zzz`; name a function of it that returns a module"),
        ("nets:number", "nets:number is a int, neither a torch.nn.Module nor a function"),
        ("nets:needs", "the factory nets:needs raised TypeError: needs() missing 1 required positional argument: 'width'"),
        ("nets:refuses", r"the factory nets:refuses raised RuntimeError: no dataset at data/ (nets.py, line 30); it is called without"),
        ("nets:leaves", "the factory nets:leaves raised SystemExit: usage: train.py (nets.py, line"),
        ("nets:nothing", "the factory nets:nothing returned None, not a torch.nn.Module; let it return the network, or (network, inputs)"),
        ("nets:text", "returned a str, not a torch.nn.Module"),
        ("broken:net", "importing broken raised KeyError: 'licence' (broken.py, line 3); it must import without error"),
        ("hungry:net", "importing hungry raised ModuleNotFoundError: No module named 'no_such_dependency' (hungry.py, line 1)"),
        ("garbled:net", "importing garbled raised SyntaxError: invalid syntax (garbled.py, line 1)"),
        ("model.onnx", "there is no file model.onnx; correct the path"),
        ("gone/model.pt2", "there is no file gone/model.pt2: its folder does not exist either; correct the path"),
    ],
)
def test_a_name_that_is_no_model_is_told_why(name: str, says: str) -> None:
    with pytest.raises(FoldError) as caught:
        read_model(name)
    assert says in plain(caught)
    assert "\n" not in plain(caught)


def test_a_missing_file_suggests_its_neighbour(folder: Path) -> None:
    (folder / "deploy.onnx").touch()
    with pytest.raises(FoldError, match=r"there is no file deplyo\.onnx; did you mean deploy\.onnx\?"):
        read_model("deplyo.onnx")


def test_a_folder_is_not_a_model(folder: Path) -> None:
    (folder / "saved.pt2").mkdir()
    with pytest.raises(FoldError, match=r"saved\.pt2 is a folder; name a file in it"):
        read_model("saved.pt2")


def test_a_file_that_may_not_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "secret.onnx").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read everything
    with pytest.raises(FoldError, match=r"secret\.onnx may not be read by this user; change its permissions"):
        read_model("secret.onnx")


def test_an_onnx_file_is_left_to_its_dialect(folder: Path) -> None:
    (folder / "model.onnx").touch()
    named = read_model("model.onnx")
    assert named.is_onnx
    assert make_inputs(named) is None


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(FoldError, match=r'PyTorch models need PyTorch .*; install it: pip install "refold\[torch\]"'):
        read_model("nets:net")


# Exported programs


@pytest.fixture
def program(folder: Path) -> Path:
    """The network of `nets:net`, exported."""
    path = folder / "net.pt2"
    torch.export.save(torch.export.export(fitting().eval(), (torch.zeros(2, 3, 8, 8),)), path)
    return path


def test_a_program_brings_its_inputs(program: Path) -> None:
    named = read_model(str(program))
    assert isinstance(named.model, torch.export.ExportedProgram)
    assert named.example_inputs[0].shape == (2, 3, 8, 8)
    assert make_inputs(named) is None  # it has them at hand itself
    (x,) = make_inputs(named, ["2,3,8,8"])
    assert x.shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("shapes", "dtype", "says"),
    [
        (["2,4,8,8"], None, "does not run on the inputs (2x4x8x8 float32): "),
        (["2,3,8,8"], "float64", "(2x3x8x8 float64): "),
        (["2,3,8,8", "2"], None, "(2x3x8x8 float32, 2 float32): "),
        ([], "float64", "(2x3x8x8 float64): "),
    ],
)
def test_a_program_says_which_inputs_it_takes(program: Path, shapes: list[str], dtype: str | None, says: str) -> None:
    with pytest.raises(FoldError) as caught:
        make_inputs(read_model(str(program)), shapes, dtype=dtype)
    assert says in plain(caught)
    assert plain(caught).endswith("; it takes `x` 2x3x8x8 float32")


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"garbage" * 99, lambda data: data[: len(data) // 2]])
def test_a_broken_program_is_told_so(program: Path, damage: Any, caplog: pytest.LogCaptureFixture) -> None:
    program.write_bytes(damage(program.read_bytes()))
    with pytest.raises(FoldError, match=r"net\.pt2 cannot be read as an exported program: .*; write it anew with torch\.export\.save"):
        read_model(str(program))
    assert not caplog.records


def test_a_program_carries_its_own_weights(program: Path) -> None:
    with pytest.raises(FoldError, match=r"net\.pt2 carries its own weights; leave out --weights"):
        read_model(str(program), Path("w.pth"))


def test_no_code_is_run_from_a_program(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    load = torch.load

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append(os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD"))
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", spy)
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    read_model(str(program))
    assert seen
    assert set(seen) == {"1"}
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


# Two models


def test_inputs_that_came_with_one_serve_both(program: Path) -> None:
    first, _ = pair_up(read_model("nets:net"), read_model(str(program)))
    assert make_inputs(first)[0].shape == (2, 3, 8, 8)


def test_a_pytorch_model_is_named_before_an_onnx_file(folder: Path) -> None:
    (folder / "model.onnx").touch()
    with pytest.raises(FoldError, match=r"model\.onnx is an ONNX file and nets:net is not; name the PyTorch model first"):
        pair_up(read_model("model.onnx"), read_model("nets:net"))


def test_an_onnx_file_that_does_not_run(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(FoldError, match=r"model\.onnx cannot be run by ONNX Runtime: .*; export it anew"):
        pair_up(read_model("nets:net"), read_model("model.onnx"))


# Weights


def test_weights_fill_the_model(folder: Path) -> None:
    wanted = {name: tensor + 1 for name, tensor in state().items()}
    torch.save(wanted, folder / "w.pth")
    save_file(wanted, folder / "w.safetensors")
    for file in ("w.pth", "w.safetensors"):
        found = read_model("nets:net", Path(file)).model.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"state_dict": weights, "epoch": 3},
        lambda weights: {"model": weights, "optimizer": {"lr": 0.1}},
        lambda weights: {"model": {"state_dict": weights}},
        lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()},
        lambda weights: {"model": {f"_orig_mod.module.{name}": tensor for name, tensor in weights.items()}},
        lambda weights: {"state_dict": {f"model.{name}": tensor for name, tensor in weights.items()}},
        lambda weights: {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")},
    ],
)
def test_wrappers_are_seen_through(folder: Path, wrap: Any) -> None:
    weights = {name: tensor + 1 for name, tensor in state().items()}
    torch.save(wrap(weights), folder / "w.pth")
    assert torch.equal(read_model("nets:net", Path("w.pth")).model.conv.weight, weights["conv.weight"])


def test_a_prefix_that_the_model_has_too_stays(folder: Path) -> None:
    model = nn.Sequential()
    model.add_module("module", nn.Linear(2, 2))
    torch.save(model.state_dict(), folder / "w.pth")
    load_weights(model, folder / "w.pth", "it")


def test_a_weight_under_two_names_may_be_stored_once(folder: Path) -> None:
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    save_model(tied, str(folder / "w.safetensors"))
    load_weights(tied, folder / "w.safetensors", "it")


def test_weights_that_do_not_fit_name_the_keys(folder: Path) -> None:
    weights = state()
    wrong = {"conv.weight": torch.zeros(8, 3, 5, 5), "bn.weight": weights["bn.weight"], "head.bias": torch.zeros(2)}
    wrong |= {f"extra.{i}": torch.zeros(1) for i in range(4)}
    torch.save(wrong, folder / "w.pth")
    with pytest.raises(FoldError) as caught:
        read_model("nets:net", Path("w.pth"))
    said = plain(caught)
    assert said.startswith("w.pth does not fit nets:net, which has 6 keys where the file has 7: 3 missing from the file: bn.bias, ")
    assert "; 5 unknown to the model: extra.0, extra.1, extra.2 and 2 more; " in said
    assert "; 1 of another shape: conv.weight (8x3x5x5 in the file, 4x3x3x3 in the model); " in said
    assert said.endswith("build the network with the options that it was trained with, or give the weights of this one")


def test_one_missing_key_is_enough(folder: Path) -> None:
    weights = state()
    del weights["bn.running_var"]
    torch.save(weights, folder / "w.pth")
    with pytest.raises(FoldError, match=r"6 keys where the file has 5: 1 missing from the file: bn\.running_var; build"):
        read_model("nets:net", Path("w.pth"))


def test_a_module_may_object_in_its_own_words(folder: Path) -> None:
    class Proud(nn.Linear):
        def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("not these")

    torch.save(Proud(2, 2).state_dict(), folder / "w.pth")
    with pytest.raises(FoldError, match="RuntimeError: not these; build"):
        load_weights(Proud(2, 2), folder / "w.pth", "it")


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch evil-was-here",)


def single_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones(2))
    return file.getvalue()


def scripted(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(str(path))


RUNS_NO_CODE = "refold never runs code from a weights file"


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (
            lambda path: torch.save(nn.Linear(2, 2), path),
            "holds the Python object `torch.nn.modules.linear.Linear` and not plain weights; ",
        ),
        (lambda path: torch.save({"a": Evil()}, path), ".system` and not plain weights; "),
        (lambda path: torch.save({"a": np.ones(2)}, path), "_reconstruct` and not plain weights; "),
        (scripted, "holds a TorchScript program and not plain weights; "),
        (lambda path: path.write_bytes(pickle.dumps({"a": Evil()})), "is no checkpoint of PyTorch, or a pickle that is not plain weights"),
        (lambda path: path.write_bytes(b"garbage" * 99), "is no checkpoint of PyTorch, or a pickle that is not plain weights"),
    ],
)
def test_a_pickle_that_is_not_plain_weights_is_not_run(folder: Path, write: Any, says: str) -> None:
    write(folder / "w.pth")
    with pytest.raises(FoldError) as caught:
        read_model("nets:net", Path("w.pth"))
    assert says in plain(caught)
    assert RUNS_NO_CODE in plain(caught)
    assert not (folder / "evil-was-here").exists()


@pytest.mark.parametrize(
    ("name", "cut", "says"),
    [
        ("w.pth", 0.5, "bytes) is corrupt or cut off: RuntimeError: PytorchStreamReader failed"),
        ("w.pth", 0.0, r"w.pth (0 bytes) is corrupt or cut off: EOFError"),
        ("w.safetensors", 0.5, "w.safetensors is corrupt or cut off: SafetensorError: "),
        ("w.safetensors", 0.0, "w.safetensors is corrupt or cut off: SafetensorError: "),
    ],
)
def test_a_corrupt_checkpoint_is_told_so(folder: Path, name: str, cut: float, says: str) -> None:
    path = folder / name
    save_file(state(), path) if path.suffix == ".safetensors" else torch.save(state(), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    with pytest.raises(FoldError) as caught:
        read_model("nets:net", Path(name))
    assert says in plain(caught)
    assert plain(caught).endswith("; copy or download it again")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "w.pth holds no weights but nothing; give a file of model.state_dict()"),
        ({"epoch": 3, "lr": 0.1}, "holds no weights but epoch, lr; "),
        ({"state_dict": {"epoch": 3}}, "holds no weights but epoch; "),
        ([torch.ones(1)], "holds no weights but a list; "),
    ],
)
def test_a_file_without_weights_is_told_so(folder: Path, content: Any, says: str) -> None:
    torch.save(content, folder / "w.pth")
    with pytest.raises(FoldError) as caught:
        read_model("nets:net", Path("w.pth"))
    assert says in plain(caught)


def test_weights_have_known_endings(folder: Path) -> None:
    (folder / "w.h5").touch()
    with pytest.raises(FoldError, match=r"weights are read from \.safetensors, \.pth, .*, not from w\.h5; save model\.state_dict\(\)"):
        read_model("nets:net", Path("w.h5"))


def test_missing_weights_are_told_before_the_factory_runs() -> None:
    with pytest.raises(FoldError, match=r"there is no file w\.pth"):
        read_model("nets:refuses", Path("w.pth"))


# timm


FAKE_TIMM = """
import torch
__version__ = "1.2.3"
def list_models(): return ["resnet18", "resnet34", "vit_tiny"]
def is_model(name): return name in list_models()
def create_model(name, pretrained):
    assert not pretrained
    if name == "vit_tiny":
        raise RuntimeError("needs a newer torch")
    model = torch.nn.Conv2d(3, 4, 3)
    if name == "resnet18":
        model.default_cfg = {"input_size": (3, 32, 48)}
    return model
"""


def pretend_timm(folder: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "timm.py").write_text(source)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(folder)


def test_a_timm_model_brings_its_input_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_timm(folder, FAKE_TIMM, monkeypatch)
    named = read_model("timm:resnet18")
    assert make_inputs(named)[0].shape == (1, 3, 32, 48)
    assert make_inputs(named, dtype="float64")[0].dtype == torch.float64
    assert named.notes == ("timm:resnet18 has random weights; give the trained ones with --weights FILE",)
    torch.save(named.model.state_dict(), folder / "w.pth")
    assert read_model("timm:resnet34", Path("w.pth")).notes == ()


@pytest.mark.parametrize(
    ("source", "name", "says"),
    [
        (FAKE_TIMM, "resnet81", "timm 1.2.3 has no model `resnet81`; did you mean resnet18"),
        (FAKE_TIMM, "zzz", "timm 1.2.3 has no model `zzz`; timm.list_models() lists them"),
        (FAKE_TIMM, "vit_tiny", "timm cannot build `vit_tiny`: RuntimeError: needs a newer torch; name another model"),
        ("import no_torchvision", "resnet18", "timm cannot be imported: ModuleNotFoundError: No module named 'no_torchvision'; mend"),
        ("raise OSError('libcudart.so is missing')", "resnet18", "timm cannot be imported: OSError: libcudart.so is missing; mend"),
    ],
)
def test_what_timm_cannot_do_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, name: str, says: str) -> None:
    pretend_timm(folder, source, monkeypatch)
    with pytest.raises(FoldError) as caught:
        read_model(f"timm:{name}")
    assert says in plain(caught)


def test_timm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nobody:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "timm":
                raise ModuleNotFoundError("No module named 'timm'", name="timm")

    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Nobody(), *sys.meta_path])
    with pytest.raises(FoldError, match="timm is not installed; install it: pip install timm"):
        read_model("timm:resnet18")


# Inputs


def named(model: nn.Module | None = None) -> NamedModel:
    return NamedModel("it", model or nn.Linear(2, 2))


def test_inputs_have_the_shapes_and_dtypes_that_are_asked_for() -> None:
    image, ids, mask = make_inputs(named(), ["1,3,8,8", "1,16:int64", "16:bool"])
    assert (image.shape, image.dtype) == ((1, 3, 8, 8), torch.float32)
    assert (ids.shape, ids.dtype) == ((1, 16), torch.int64)
    assert (mask.shape, mask.dtype) == ((16,), torch.bool)
    again = make_inputs(named(), ["1,3,8,8"])[0]
    assert torch.equal(image, again)


def test_inputs_have_the_dtype_of_the_model() -> None:
    assert make_inputs(named(nn.Linear(2, 2).bfloat16()), ["1,2"])[0].dtype == torch.bfloat16
    assert make_inputs(named(nn.Linear(2, 2).bfloat16()), ["1,2"], dtype="float16")[0].dtype == torch.float16
    assert make_inputs(named(nn.ReLU()), ["1,2"])[0].dtype == torch.float32


def test_ids_are_known_to_every_embedding() -> None:
    ids = make_inputs(named(nn.Sequential(nn.Embedding(50, 4), nn.Embedding(7, 4))), ["9,99:int64"])[0]
    assert set(ids.flatten().tolist()) == set(range(7))


def test_inputs_for_an_onnx_file_are_arrays() -> None:
    image, half, ids = make_inputs(NamedModel("m.onnx", Path("m.onnx")), ["1,3", "4:bfloat16", "2:int32"])
    assert [type(one) for one in (image, half, ids)] == [np.ndarray] * 3
    assert [str(one.dtype) for one in (image, half, ids)] == ["float32", "bfloat16", "int32"]
    assert make_inputs(NamedModel("m.onnx", Path("m.onnx")), dtype="float16") is None


def test_inputs_from_a_file(folder: Path) -> None:
    np.savez(folder / "order.npz", np.zeros(2), np.ones(3))
    first, second = make_inputs(named(), file=Path("order.npz"))
    assert (first.shape, second.shape) == ((2,), (3,))
    np.savez(folder / "names.npz", mask=np.zeros(2), x=np.ones(3))
    assert sorted(make_inputs(named(), file=Path("names.npz"))) == ["mask", "x"]


@pytest.mark.parametrize(
    ("shapes", "dtype", "says"),
    [
        ([], None, "it says nothing of its inputs; give a shape for each, as in --input 1,3,224,224"),
        (["1x3"], None, "`1x3` is not a shape; write sizes of at least 1 with commas between them, as in 1,3,224,224 or 1,16:int64"),
        (["1,0"], None, "`1,0` is not a shape"),
        (["1,-3"], None, "`1,-3` is not a shape"),
        ([""], None, "`` is not a shape"),
        (["1,3:int"], None, "`int` in `1,3:int` is not a dtype for inputs; choose one of float16, bfloat16, float32"),
        (["1,3:"], None, "`` in `1,3:` is not a dtype"),
        (["1,3"], "single", "`single` is not a dtype for inputs; choose one of float16"),
    ],
)
def test_inputs_that_cannot_be_had(shapes: list[str], dtype: str | None, says: str) -> None:
    with pytest.raises(FoldError) as caught:
        make_inputs(named(), shapes, dtype=dtype)
    assert says in plain(caught)


def test_inputs_come_from_one_place(folder: Path) -> None:
    with pytest.raises(FoldError, match="inputs are given by --input or by --inputs, not by both; leave one out"):
        make_inputs(named(), ["1,3"], Path("x.npz"))


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: path.write_bytes(b"garbage"), "x.npz cannot be read as an .npz of arrays: "),
        (lambda path: path.write_bytes(b""), "cannot be read as an .npz of arrays: EOFError"),
        (lambda path: path.write_bytes(b"PK\x03\x04"), "cannot be read as an .npz of arrays: BadZipFile"),
        (lambda path: path.write_bytes(single_array()), "ValueError: it is a single array; write it with numpy.savez"),
        (lambda path: np.savez(path, np.array([Evil()])), "Object arrays cannot be loaded"),
        (lambda path: np.savez(path), "x.npz holds no arrays; write one for each input with numpy.savez"),
        (lambda path: np.savez(path, np.array(["text"])), "x.npz holds an array that PyTorch cannot take: TypeError: "),
    ],
)
def test_a_file_of_inputs_that_cannot_be_read(folder: Path, write: Any, says: str) -> None:
    write(folder / "x.npz")
    with pytest.raises(FoldError) as caught:
        make_inputs(named(), file=Path("x.npz"))
    assert says in plain(caught)
    assert not (folder / "evil-was-here").exists()
