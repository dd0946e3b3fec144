"""Certificates: written beside and within what was folded, and any change of weights, files or fields is found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

import refold
from refold import certificates
from refold.agreement import Agreement, measure_agreement
from refold.cli import main
from refold.datasets import Dataset
from refold.errors import FoldError, VerificationError

pytest.importorskip("torch")
import torch
from torch import nn

NETS = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))

def block(): return Block(), (torch.randn(2, 3, 8, 8),)
def bare(): return Block()

def other():
    net = Block()
    net.conv.weight.data[0, 0, 0, 0] = torch.nextafter(net.conv.weight.data[0, 0, 0, 0], torch.tensor(9.0))
    return net, (torch.randn(2, 3, 8, 8),)

def far():
    net = Block()
    net.head.weight.data.mul_(1.5)
    return net, (torch.randn(2, 3, 8, 8),)
"""


def refold_(*words: str) -> Result:
    return CliRunner().invoke(main, words)


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `nets.py`, and the block of it folded into files of every kind, the ONNX one once more from an ONNX file."""
    folder = tmp_path_factory.mktemp("folded")
    (folder / "nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        for name in ("a.pt2", "b.onnx", "c.safetensors"):
            assert refold_("fold", "nets:block", "-o", name, "-q").exit_code == 0
        model = onnx.load("b.onnx")
        onnx.save(model, "wide.onnx", save_as_external_data=True, location="wide.bin", size_threshold=64)
        assert refold_("fold", "wide.onnx", "-o", "d.onnx", "-q").exit_code == 0
    yield folder
    sys.modules.pop("nets", None)


@pytest.fixture
def folder(folded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that may be spoilt."""
    shutil.copytree(folded, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("nets", None)
    return tmp_path


def data_of(folder: Path) -> Path:
    """The data of `d.onnx`."""
    (data,) = folder.glob("d.onnx.*.data")
    return data


PAIRS = [("nets:block", "a.pt2"), ("nets:block", "b.onnx"), ("wide.onnx", "d.onnx")]


@pytest.mark.parametrize(("original", "deploy"), PAIRS)
@pytest.mark.parametrize("place", ["beside", "within", "given"])
def test_what_was_folded_is_found_to_be_what_was_certified(folder: Path, original: str, deploy: str, place: str) -> None:
    outside = certificates.beside(folder / deploy)
    words: list[str] = []
    if place == "within":
        outside.unlink()
    if place == "given":
        words = ["--certificate", str(outside.rename(folder / "elsewhere.json"))]
    result = refold_("verify", original, deploy, *words)
    assert result.exit_code == 0, result.output
    assert "these are the weights that were certified" in result.stdout
    found = json.loads(refold_("verify", original, deploy, *words, "--json").stdout)
    assert found["passed"]
    assert "these are the weights that were certified" in found["certified"]


def test_a_certificate_says_what_was_done(folder: Path) -> None:
    content = json.loads((folder / "a.certificate.json").read_text())
    assert content["original"]["name"] == "Block"
    assert content["output"]["files"].keys() == {"a.pt2"}
    assert content["inputs"] == {"given": ["2 x 3 x 8 x 8 float32"]}
    (region,) = content["regions"]
    assert (region["operations"], region["laws"], region["passed"]) == (["conv2d", "batch_norm"], ["composition"], True)
    assert 0 <= region["residual"] <= region["bound"]
    (output,) = content["outputs"]
    assert output["agreement"] == 1.0
    assert output["relative"] == output["difference"] / output["scale"] < 1e-6
    assert output["times_the_original_error"] == output["folded_error"] / output["original_error"]
    assert content["versions"]["refold"] == refold.__version__
    assert json.loads((folder / "d.certificate.json").read_text())["output"]["files"].keys() == {"d.onnx", data_of(folder).name}
    assert str(folder) not in (folder / "d.certificate.json").read_text()


def test_the_text_within_is_found_by_the_formats_own_tools(folder: Path) -> None:
    extra = {"refold.certificate": ""}
    torch.export.load(folder / "a.pt2", extra_files=extra)
    props = {entry.key: entry.value for entry in onnx.load(folder / "b.onnx").metadata_props}
    onnx.checker.check_model(folder / "b.onnx")
    for text, name in ((extra["refold.certificate"], "a.pt2"), (props["refold.certificate"], "b.onnx")):
        content = certificates.load(text, "it")
        assert content["output"]["name"] == name
        assert "files" not in content["output"]


def test_a_file_that_is_folded_again_has_one_certificate(folder: Path) -> None:
    assert refold_("fold", "b.onnx", "-o", "e.onnx", "-q").exit_code == 0
    (entry,) = (one for one in onnx.load(folder / "e.onnx").metadata_props if one.key == "refold.certificate")
    assert certificates.load(entry.value, "it")["original"]["name"] == "b.onnx"
    assert refold_("fold", "b.onnx", "-o", "f.onnx", "-q", "--no-verify").exit_code == 0
    assert "refold.certificate" not in {one.key for one in onnx.load(folder / "f.onnx").metadata_props}
    assert not (folder / "f.certificate.json").exists()


def test_the_hash_of_weights_does_not_hang_on_the_layout(folder: Path) -> None:
    inline, outside = certificates.weights_of(folder / "b.onnx"), certificates.weights_of(folder / "wide.onnx")
    assert inline == outside
    model = onnx.load(folder / "b.onnx")
    tensors = list(model.graph.initializer)
    del model.graph.initializer[:]
    for tensor in reversed(tensors):
        numbers = onnx.numpy_helper.to_array(tensor)
        floats = tensor.data_type == onnx.TensorProto.FLOAT
        model.graph.initializer.append(
            onnx.helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, numbers.ravel()) if floats else tensor
        )
    assert certificates.weights_of(model) == inline
    layer = nn.Conv2d(2, 3, 3)
    before = certificates.weights_of(layer)
    layer.weight.data = layer.weight.data.to(memory_format=torch.channels_last)
    assert certificates.weights_of(layer) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.bool, torch.int64, torch.complex64])
def test_every_dtype_and_shape_is_hashed(dtype: torch.dtype) -> None:
    def of(*shape: int) -> certificates.Weights:
        module = nn.Module()
        module.register_buffer("b", torch.ones(shape, dtype=dtype))
        return certificates.weights_of(module)

    assert len({of(), of(1), of(2, 3), of(3, 2), of(0)}) == 5
    assert of(2, 3) == of(2, 3)


# Tampering


def flipped(data: bytes, position: int, bit: int = 0) -> bytes:
    return data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]


@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize("deploy", ["a.pt2", "b.onnx", "c.safetensors", "d.onnx", "data of d.onnx"])
def test_one_bit_of_an_output_is_found(folder: Path, deploy: str, bit: int) -> None:
    output = folder / deploy.removeprefix("data of ")
    deploy = deploy if (folder / deploy).exists() else data_of(folder).name
    data = (folder / deploy).read_bytes()
    found = certificates.find(output)
    assert found is not None
    certificates.demand_file(found, output)
    for position in np.random.default_rng(bit).integers(0, len(data), 20):
        (folder / deploy).write_bytes(flipped(data, int(position), bit))
        with pytest.raises(VerificationError, match=f"{deploy} is not the file that .* was written for .*: its sha256 is"):
            certificates.demand_file(found, output)


@pytest.mark.parametrize("deploy", ["a.pt2", "b.onnx"])
def test_one_bit_of_an_output_ends_with_3(folder: Path, deploy: str) -> None:
    data = (folder / deploy).read_bytes()
    (folder / deploy).write_bytes(flipped(data, len(data) // 2))
    result = refold_("verify", "nets:block", deploy)
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"{deploy} is not the file that" in result.stderr


@pytest.mark.parametrize("bit", [0, 7])
def test_one_bit_of_a_weight_is_found_without_a_certificate_beside(folder: Path, bit: int) -> None:
    (folder / "b.certificate.json").unlink()
    data = (folder / "b.onnx").read_bytes()
    weight = next(tensor.raw_data for tensor in onnx.load(folder / "b.onnx").graph.initializer if len(tensor.raw_data) == 4 * 108)
    (folder / "b.onnx").write_bytes(flipped(data, data.index(weight), bit))
    result = refold_("verify", "nets:block", "b.onnx")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "Error: the weights of b.onnx are not those that the certificate in b.onnx was written for (b.onnx): " in result.stderr
    assert "give the output that was certified, or fold anew" in result.stderr
    again = refold_("verify", "nets:block", "b.onnx", "--no-certificate")
    assert "was certified" not in again.stderr
    assert "of its scale" in again.stdout  # compared by what it computes: it is another function, or one lowest bit is a rounding
    both = refold_("verify", "nets:block", "b.onnx", "--no-certificate", "--certificate", "x.json")
    assert (both.exit_code, both.stderr.splitlines()[-1]) == (
        2,
        "Error: --certificate and --no-certificate ask for opposite things; give one",
    )


def test_one_bit_of_a_weight_of_a_program_is_found(folder: Path) -> None:
    (folder / "a.certificate.json").unlink()
    program = torch.export.load(folder / "a.pt2")
    weight = next(tensor for tensor in program.state_dict.values() if tensor.ndim == 4)
    with torch.no_grad():
        weight.view(torch.int32)[0, 0, 0, 0] ^= 1
    archive = zipfile.ZipFile(folder / "a.pt2")
    (text,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("/extra/refold.certificate"))
    torch.export.save(program, folder / "a.pt2", extra_files={"refold.certificate": text})
    result = refold_("verify", "nets:block", "a.pt2")
    assert result.exit_code == 3
    assert "the weights of a.pt2 are not those that the certificate in a.pt2 was written for" in result.stderr


def test_one_bit_of_a_weight_of_the_original_is_found() -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    hashes = {certificates.weights_of(module)}
    for tensor in [*module.parameters(), *module.buffers()]:
        for bit in range(8):
            with torch.no_grad():
                tensor.reshape(-1).view(torch.uint8)[0] ^= 1 << bit
            hashes.add(certificates.weights_of(module))
    assert len(hashes) == 1 + 8 * 7


def test_an_original_of_almost_the_same_weights_ends_with_3(folder: Path) -> None:
    result = refold_("verify", "nets:other", "a.pt2")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("Error: the weights of nets:other are not those that ")
    assert "give the original that was certified" in result.stderr


def fields(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    match content:
        case dict() if content:
            for name, value in content.items():
                yield from fields(value, (*path, name))
        case list() if content:
            for position, value in enumerate(content):
                yield from fields(value, (*path, position))
        case _:
            yield path


def test_every_field_that_is_changed_is_found(folder: Path) -> None:
    text = (folder / "a.certificate.json").read_text()
    paths = list(fields(json.loads(text)))
    assert len(paths) > 30
    for path in paths:
        content = json.loads(text)
        inner = content
        for part in path[:-1]:
            inner = inner[part]
        value = inner[path[-1]]
        inner[path[-1]] = (
            (not value) if isinstance(value, bool) else value + "x" if isinstance(value, str) else 1 if value is None else 7e-9
        )
        with pytest.raises(VerificationError, match=r"it has been changed since it was written|it is not a certificate of this format"):
            certificates.load(json.dumps(content), "it")
        del inner[path[-1]]
        with pytest.raises(VerificationError, match=r"it has been changed since it was written|it is not a certificate of this format"):
            certificates.load(json.dumps(content), "it")
    assert certificates.load(json.dumps(json.loads(text), indent=7), "it") == json.loads(text)  # how it is laid out is no change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace('"passed": true', '"passed": false', 1), "has been changed since it was written: its content hashes to"),
        (lambda text: text[: len(text) // 2], "is damaged: it is not JSON"),
        (lambda text: "[]", "is not a certificate of this format: it says 'list', not 'refold certificate 1'"),
        (lambda text: "\x00\xff", "is damaged: it is not JSON"),
    ],
)
def test_a_certificate_that_was_changed_ends_with_3(folder: Path, change: Callable[[str], str], says: str) -> None:
    place = folder / "a.certificate.json"
    place.write_text(change(place.read_text()))
    result = refold_("verify", "nets:block", "a.pt2")
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"a.certificate.json {says}" in result.stderr


def test_a_damaged_text_within_is_found(folder: Path) -> None:
    (folder / "a.certificate.json").unlink()
    data = (folder / "a.pt2").read_bytes()
    (folder / "a.pt2").write_bytes(data.replace(b"refold certificate 1", b"refold certificate 2"))
    result = refold_("verify", "nets:block", "a.pt2")
    assert result.exit_code == 3
    assert "Error: the certificate in a.pt2 is damaged: Bad CRC-32" in result.stderr


def test_a_field_of_the_text_within_is_found(folder: Path) -> None:
    (folder / "b.certificate.json").unlink()
    data = (folder / "b.onnx").read_bytes()
    (folder / "b.onnx").write_bytes(data.replace(b'"seed": 20261', b'"seed": 20262'))
    result = refold_("verify", "nets:block", "b.onnx")
    assert result.exit_code == 3
    assert "Error: the certificate in b.onnx has been changed since it was written" in result.stderr


def test_numbers_that_json_does_not_know_become_text() -> None:
    sealed = certificates.seal({"format": certificates.FORMAT, "bound": float("inf")})
    assert sealed["bound"] == "Infinity"
    assert certificates.load(certificates.dump(sealed), "it") == sealed


def test_files_of_onnx_are_verified_without_torch(folder: Path) -> None:
    code = "import sys; sys.modules['torch'] = None\nfrom refold.cli import main\nmain(['verify', 'wide.onnx', 'd.onnx'])"
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "these are the weights that were certified" in result.stdout


def test_a_certificate_of_other_files(folder: Path) -> None:
    result = refold_("verify", "nets:block", "a.pt2", "--certificate", "b.certificate.json")
    assert result.exit_code == 3
    assert "Error: a.pt2 is not the file that b.certificate.json was written for (b.onnx): its sha256 is" in result.stderr
    (folder / "b.certificate.json").rename(folder / "a.certificate.json")  # beside it, but of another file: its own is within
    assert refold_("verify", "nets:block", "a.pt2").exit_code == 0
    shutil.copy(folder / "a.certificate.json", folder / "c.certificate.json")  # which a file of weights has not
    with pytest.raises(VerificationError, match=r"c\.safetensors is not the file that .* was written for \(b\.onnx\)"):
        certificates.demand_file(certificates.find(folder / "c.safetensors") or ("", {}), folder / "c.safetensors")


def test_data_beside_that_is_gone(folder: Path) -> None:
    name = data_of(folder).name
    (folder / name).unlink()
    result = refold_("verify", "wide.onnx", "d.onnx")
    assert result.exit_code == 3
    assert f"{name} is not the file that d.certificate.json was written for ({name}): its sha256 is nothing" in result.stderr


def test_certificates_that_are_not_there(folder: Path) -> None:
    gone = refold_("verify", "nets:block", "a.pt2", "--certificate", "gone.json")
    assert gone.exit_code == 2
    assert "Error: cannot read the certificate gone.json: No such file or directory; name a file that exists" in gone.stderr
    factory = refold_("verify", "nets:block", "nets:block", "--certificate", "a.certificate.json")
    assert factory.exit_code == 2
    assert "Error: nets:block is not a file, so no certificate can be of it; give the file that was certified" in factory.stderr
    (folder / "a.certificate.json").unlink()
    torch.export.save(torch.export.load(folder / "a.pt2"), folder / "a.pt2")
    plain = refold_("verify", "nets:block", "a.pt2", "--json")
    assert (plain.exit_code, json.loads(plain.stdout)["certified"]) == (0, None)


def test_a_result_that_was_not_verified_has_no_certificate(tmp_path: Path) -> None:
    refold.fold(nn.Linear(2, 2), (torch.zeros(1, 2),), verify=False).save(tmp_path / "a.pt2")
    assert [one.name for one in tmp_path.iterdir()] == ["a.pt2"]
    assert certificates.find(tmp_path / "a.pt2") is None


# Data


@pytest.fixture
def data(folder: Path, rng: np.random.Generator) -> Path:
    """A folder of images and arrays of 3 x 8 x 8."""
    image = pytest.importorskip("PIL.Image")
    place = folder / "data"
    (place / "sub").mkdir(parents=True)
    for position in range(5):
        image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(place / "sub" / f"{position}.png")
    np.save(place / "z.npy", rng.standard_normal((3, 8, 8)))
    return place


@pytest.mark.parametrize(("original", "deploy"), PAIRS)
def test_a_folder_of_images_and_arrays(data: Path, original: str, deploy: str) -> None:
    result = refold_("verify", original, deploy, "--data", "data", "--batch", "2")
    assert result.exit_code == 0, result.output
    assert "6 samples of data: largest difference " in result.stdout
    assert "the same class for 6 (100.00%)" in result.stdout


def test_an_archive_of_samples(folder: Path, rng: np.random.Generator) -> None:
    np.savez(folder / "x.npz", rng.standard_normal((70, 3, 8, 8)))
    found = json.loads(refold_("verify", "nets:bare", "b.onnx", "--data", "x.npz", "--json").stdout)
    assert (found["data"]["samples"], found["data"]["top_1"], found["passed"]) == (70, 1.0, True)
    assert 0 < found["data"]["relative"] < 1e-6
    wrong = refold_("verify", "nets:bare", "nets:far", "--data", "x.npz")
    assert wrong.exit_code == 3
    assert "nets:far is not the function of nets:bare: 1 of 1 output out of bounds" in wrong.stderr


def test_what_only_the_data_shows_fails_too(folder: Path) -> None:
    class Clipped(nn.Module):
        def __init__(self, most: float) -> None:
            super().__init__()
            self.most = most

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.clamp(max=self.most)

    from refold.models import NamedModel
    from refold.recheck import Findings, Pair, compare, compare_over

    np.savez(folder / "x.npz", np.linspace(0, 100, 40, dtype=np.float32).reshape(20, 2))
    pair = Pair(NamedModel("a", Clipped(1e9)), NamedModel("b", Clipped(50.0)), (torch.ones(2, 2),), None)
    assert compare(pair).passed
    found: Findings = compare_over(compare(pair), Dataset(folder / "x.npz", 4))
    assert not found.passed
    assert found.complaint == "b is not the function of a: 1 of 1 output out of bounds on the data (output); " + (
        "compare models of the same weights, or fold anew"
    )
    assert found.agreement is not None
    assert found.agreement.difference == 50.0
    assert isinstance(found.agreement, Agreement)


def test_samples_by_name_and_by_columns(tmp_path: Path, rng: np.random.Generator) -> None:
    left, right = rng.standard_normal((5, 4, 3)), np.asfortranarray(rng.standard_normal((5, 2)))
    np.savez_compressed(tmp_path / "x.npz", left=left, right=right)
    batches = list(Dataset(tmp_path / "x.npz", 2))
    assert [len(one["left"]) for one in batches if isinstance(one, dict)] == [2, 2, 1]
    for name, whole in (("left", left), ("right", right)):
        assert np.array_equal(np.concatenate([one[name] for one in batches if isinstance(one, dict)]), whole)
    np.savez(tmp_path / "y.npz", *(np.full((2, 1), number) for number in range(12)))
    (batch,) = Dataset(tmp_path / "y.npz")
    assert isinstance(batch, tuple)
    assert [int(one[0, 0]) for one in batch] == list(range(12))


def test_files_that_cannot_be_read_are_named_and_counted(data: Path) -> None:
    (data / "broken.png").write_bytes(b"no image")
    whole = (data / "sub" / "0.png").read_bytes()
    (data / "cut.png").write_bytes(whole[: len(whole) // 2])
    (data / "y.npy").write_bytes(b"no array")
    result = refold_("verify", "nets:block", "a.pt2", "--data", "data")
    assert result.exit_code == 2
    assert "Error: 3 of 9 files cannot be read: broken.png (" in result.stderr
    assert "cut.png (" in result.stderr
    assert "in data; mend them, or pass them over with --skip-bad" in result.stderr
    passed = refold_("verify", "nets:block", "a.pt2", "--data", "data", "--skip-bad")
    assert passed.exit_code == 0, passed.output
    assert "6 samples of data" in passed.stdout
    assert "note: 3 of 9 files cannot be read: broken.png" in passed.stderr
    for file in (*data.glob("sub/*"), data / "z.npy"):
        file.unlink()
    nothing = refold_("verify", "nets:block", "a.pt2", "--data", "data", "--skip-bad")
    assert nothing.exit_code == 2
    assert "Error: 3 of 3 files cannot be read" in nothing.stderr


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"arr_0": (4, 2, 8, 8)}, "the model does not run on the example inputs (4 x 2 x 8 x 8 float32)"),
        ({"arr_0": (4, 3, 8, 8), "arr_1": (3, 1)}, "equally many; found arr_0 4 x 3 x 8 x 8, arr_1 3 x 1"),
        ({"arr_0": ()}, "equally many; found arr_0 scalar"),
        ({"arr_0": (0, 3)}, "equally many; found arr_0 0 x 3"),
        ({}, "x.npz holds no arrays"),
    ],
)
def test_samples_that_do_not_fit(folder: Path, arrays: dict[str, tuple[int, ...]], says: str) -> None:
    np.savez(folder / "x.npz", **{name: np.ones(shape) for name, shape in arrays.items()})  # type: ignore[arg-type]
    result = refold_("verify", "nets:block", "a.pt2", "--data", "x.npz")
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr


def test_images_of_several_sizes(data: Path) -> None:
    np.save(data / "zz.npy", np.ones((3, 9, 8)))
    result = refold_("verify", "nets:block", "a.pt2", "--data", "data")
    assert result.exit_code == 2
    assert f"zz.npy in data is 3 x 9 x 8 where {Path('sub') / '0.png'} is 3 x 8 x 8; bring all to one shape" in result.stderr


def test_images_have_the_channels_that_the_model_takes(data: Path) -> None:
    (batch,) = Dataset(data / "sub", channels=1)
    assert isinstance(batch, tuple)
    assert batch[0].shape == (5, 1, 8, 8)
    assert 0 <= batch[0].min() < batch[0].max() <= 1


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda place: None, "the data .* does not exist; give a folder"),
        (lambda place: place.touch(), "the data .* is neither a folder nor an .npz; give a folder"),
        (lambda place: place.mkdir(), "holds no sample; put .npy files or images"),
    ],
)
def test_data_that_is_none(tmp_path: Path, make: Callable[[Path], None], says: str) -> None:
    make(tmp_path / "x")
    with pytest.raises(FoldError, match=says):
        Dataset(tmp_path / "x")


def test_archives_that_are_none(tmp_path: Path) -> None:
    place = tmp_path / "x.npz"
    place.write_bytes(b"no archive")
    with pytest.raises(FoldError, match=r"cannot be read as an \.npz of arrays: .*; write it with numpy\.savez"):
        Dataset(place)
    np.savez(place, np.array([None]))
    with pytest.raises(FoldError, match=r"array `arr_0` of .* cannot be read: it holds Python objects; write it with numpy\.savez"):
        Dataset(place)
    with pytest.raises(FoldError, match=r"a batch \(=0\) must hold at least 1 sample"):
        Dataset(place, 0)
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (9,), }"
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("arr_0.npy", header.ljust(127) + b"\n" + bytes(16))
    with pytest.raises(FoldError, match=r"array `arr_0` of .* is cut off: .*; write or copy it again"):
        list(Dataset(place))


def test_images_without_pillow(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(FoldError, match=r"0\.png is an image, which needs Pillow; install it: pip install pillow"):
        list(Dataset(data / "sub"))


def test_outputs_that_do_not_match() -> None:
    batch = (np.ones((2, 3), np.float32),)
    with pytest.raises(FoldError, match="the two models give outputs of 2 x 4 and 2 x 5; compare models that give the same"):
        measure_agreement(nn.Linear(3, 4), nn.Linear(3, 5), [batch])
    with pytest.raises(FoldError, match="the data set holds no sample; give one with at least one"):
        measure_agreement(nn.Linear(3, 4), nn.Linear(3, 4), [])


def test_a_number_that_is_lost_is_an_infinite_difference() -> None:
    class Lost(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.masked_fill(x == 1, float("nan"))

    batch = (np.array([[1.0, 2.0]], np.float32),)
    assert measure_agreement(nn.Identity(), Lost(), [batch]).difference == float("inf")
    assert measure_agreement(Lost(), Lost(), [batch]).difference == 0.0


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from refold.terminal import bar

    done: list[float] = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("rich.progress.Progress.advance", lambda self, task, advance: done.append(advance))
    with bar("comparing", 5, quiet=False) as advance:
        advance(2)
        advance(3)
    with bar("comparing", 5, quiet=True) as advance:
        advance(7)
    assert done == [2, 3]


def test_a_file_that_goes_while_it_is_looked_at_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another process replaces it: no error of the system, and it is looked at once more under the lock."""
    looked: list[Path] = []

    def gone(path: Path) -> str:
        looked.append(path)
        raise FileNotFoundError(path)

    monkeypatch.setattr(certificates, "digest_of", gone)
    with pytest.raises(refold.VerificationError, match=r"b\.onnx is not the file .* its sha256 is nothing"):
        certificates.demand(folder / "b.onnx")
    assert len(looked) == 2
