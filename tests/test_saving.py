"""What a save leaves beside the model: nothing of the old, nothing of a dead process, and all that is somebody else's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from refold import certificates
from refold.errors import FoldError, VerificationError
from refold.files import Side, Switch, _locks, drafting, locked, replacing, standing
from refold.saving import files_of
from tests.files.kills import fold, outputs, whole

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="there are no locks of this kind"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]


@pytest.fixture
def train(tmp_path: Path) -> Path:
    place = tmp_path / "train"
    place.mkdir()
    return place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "out"
    place.mkdir()
    return place


def names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


def data_of(place: Path) -> Path:
    _, data = files_of(place)
    return data


def test_old_data_goes_and_what_another_model_reads_stays(folder: Path, train: Path) -> None:
    place = fold("external", train, 1).save(folder / "deploy.onnx")
    first = data_of(place)
    shutil.copy(place, folder / "copy.onnx")
    before = outputs(folder / "copy.onnx")
    fold("external", train, 2).save(place)
    second = data_of(place)
    assert names(folder) == {"deploy.onnx", first.name, second.name, "deploy.certificate.json", "copy.onnx"}
    assert np.array_equal(outputs(folder / "copy.onnx"), before)
    fold("external", train, 3).save(place)
    assert names(folder) == {"deploy.onnx", first.name, data_of(place).name, "deploy.certificate.json", "copy.onnx"}


def test_data_of_a_former_name_goes_and_that_of_others_stays(folder: Path, train: Path) -> None:
    for location in ("deploy.onnx.data", "weights.bin"):
        fold("inline", train, 1).save(folder / "plain.onnx")
        onnx.save(
            onnx.load(folder / "plain.onnx"), folder / "deploy.onnx", save_as_external_data=True, location=location, size_threshold=64
        )
        (folder / "plain.onnx").unlink()
    onnx.save(onnx.load(folder / "deploy.onnx"), folder / "deploy.onnx", save_as_external_data=True, location="deploy.onnx.data")
    fold("inline", train, 2).save(folder / "deploy.onnx")
    assert names(folder) == {"deploy.onnx", "weights.bin", "deploy.certificate.json", "plain.certificate.json"}


def test_the_same_model_again_changes_nothing(folder: Path, train: Path) -> None:
    result = fold("external", train, 1)
    place = result.save(folder / "deploy.onnx")
    before, number = whole(place), data_of(place).stat().st_ino
    result.save(place)
    assert whole(place) == before
    assert data_of(place).stat().st_ino == number  # another model may be reading it
    assert names(folder) == {*before, "deploy.certificate.json"}


def test_in_place_over_data_that_is_being_read(train: Path, tmp_path: Path) -> None:
    result = fold("external", train, 1)
    source = train / "train1external.onnx"
    truth = outputs(source)
    data_of(source).rename(source.with_name("train1external.onnx.data"))
    model = onnx.load(source, load_external_data=False)
    for tensor in model.graph.initializer:
        next(one for one in tensor.external_data if one.key == "location").value = "train1external.onnx.data"
    source.write_bytes(model.SerializeToString())
    import refold

    result = refold.fold(source)
    result.save(source, in_place=True)
    assert not source.with_name("train1external.onnx.data").exists()
    again = result.save(tmp_path / "again.onnx")  # from maps of files that have no name any more
    assert np.array_equal(outputs(again), outputs(source))
    assert np.allclose(outputs(source), truth, rtol=1e-3, atol=1e-3)
    assert certificates.demand(source) is not None


def test_what_is_not_verified_takes_the_certificate_of_what_it_replaces(folder: Path, train: Path) -> None:
    place = fold("external", train, 1).save(folder / "deploy.onnx")
    fold("bare", train, 2).save(place)
    assert names(folder) == {"deploy.onnx", data_of(place).name}
    assert certificates.demand(place) is None
    (folder / "deploy.certificate.json").write_text("of another")
    fold("bare", train, 1).save(place)
    assert (folder / "deploy.certificate.json").read_text() == "of another"


@pytest.fixture
def half_way(folder: Path, train: Path) -> tuple[Path, Switch, dict[str, bytes], dict[str, bytes]]:
    """A model that stands, and the certificate of it and of another beside it."""
    place = fold("external", train, 1).save(folder / "deploy.onnx")
    fold("external", train, 2).save(train / "deploy.onnx")
    sides = []
    for one in (place, train / "deploy.onnx"):
        text = certificates.beside(one).read_text()
        sides.append(Side(json.loads(text)["output"]["files"], text))
    switch = Switch("deploy.onnx", "deploy.certificate.json", sides[0], sides[1])
    certificates.beside(place).write_bytes(switch.dump())
    return place, switch, whole(place), whole(train / "deploy.onnx")


def test_a_certificate_of_both_takes_either_whole_and_no_mixture(half_way: Any) -> None:
    place, switch, old, new = half_way
    for files, side in ((old, switch.old), (new, switch.new)):
        for name in {*old, *new}:
            (place.parent / name).unlink(missing_ok=True)
        for name, content in files.items():
            (place.parent / name).write_bytes(content)
        assert standing(place.parent, switch) == side
        found = certificates.demand(place)
        assert found is not None
        assert found[1] == json.loads(side.certificate)
    (old_data,) = (name for name in old if name != "deploy.onnx")
    (new_data,) = (name for name in new if name != "deploy.onnx")
    (place.parent / new_data).write_bytes(old[old_data])
    with pytest.raises(VerificationError, match=r"are neither those that stood when .* was written nor those that were to replace them"):
        certificates.demand(place)
    certificates.beside(place).write_bytes(switch.dump().replace(b"deploy.onnx", b"deplox.onnx", 1))
    with pytest.raises(VerificationError, match="is not a certificate of this format: it says 'refold switch 1'"):
        certificates.demand(place)


def in_a_fork(function: Any) -> int:
    child = os.fork()
    if child == 0:
        try:
            function()
        finally:
            os._exit(0)
    return child


def test_drafts_of_the_living_stay_and_those_of_the_dead_go(folder: Path) -> None:
    def write() -> None:
        with drafting(folder) as drafts:
            (drafts / "half").write_text("half")
            time.sleep(60)

    child = in_a_fork(write)
    while not list(folder.glob(".refold-*/files/half")):
        time.sleep(0.01)
    (hidden,) = folder.iterdir()
    with replacing(folder / "one.txt") as draft:
        draft.touch()
    assert names(folder) == {hidden.name, "one.txt"}
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with replacing(folder / "one.txt") as draft:
        draft.touch()
    assert names(folder) == {"one.txt"}


def test_a_folder_that_is_not_a_draft_of_ours_stays(folder: Path) -> None:
    (folder / ".deploy.onnx.abcd1234").mkdir()
    with replacing(folder / "one.txt") as draft:
        draft.touch()
    assert names(folder) == {"one.txt", ".deploy.onnx.abcd1234"}


def test_savers_to_one_name_at_once(folder: Path, train: Path) -> None:
    results = [fold("external", train, seed) for seed in (1, 2, 3)]

    def often(number: int) -> None:
        for _ in range(8):
            results[number].save(folder / "deploy.onnx")

    children = [in_a_fork(lambda number=number: often(number)) for number in range(3)]
    place = folder / "deploy.onnx"
    seen = 0
    while children:
        done, status = os.waitpid(-1, os.WNOHANG)
        if done:
            assert status == 0
            children.remove(done)
        if place.exists():
            assert certificates.demand(place) is not None  # whatever is moved meanwhile
            seen += 1
    assert seen > 3
    assert names(folder) == {*whole(place), "deploy.certificate.json"}
    assert certificates.demand(place) is not None


def test_a_folder_that_another_holds_for_long(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_locks, "PATIENCE", 0.05)
    says = r"cannot write .*one\.txt: another process has been moving files in .* for 0 s; end it, or write to another folder"
    with locked(folder), pytest.raises(FoldError, match=says), replacing(folder / "one.txt"):
        pass
    assert names(folder) == set()
