"""Models that replace each other, and what must hold of a folder in which that was cut short: old or new, whole, certified, no strays.

`make kills` kills at every call that changes a file, before and after it, and at 300 random moments with a printed seed:
`python -m tests.files.kills [SEED]`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import refold
from refold import certificates
from refold.files import replacing
from refold.folding import FoldResult
from refold.saving import files_of
from tests.files import tracing

CASES = {
    "inline over inline": ("inline", "inline"),
    "external over external": ("external", "external"),
    "external over inline": ("inline", "external"),
    "inline over external": ("external", "inline"),
    "external in a new place": (None, "external"),
    "external over external, not certified": ("external", "bare"),
    "pt2 over pt2": ("pt2", "pt2"),
    "safetensors over safetensors": ("safetensors", "safetensors"),
}
X = np.random.default_rng(0).standard_normal((1, 16, 5, 5)).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """A folder in which the old model stands, and the fold that replaces it."""

    folder: Path
    name: str
    result: FoldResult
    old: Mapping[str, bytes]
    new: Mapping[str, bytes]

    def save(self, folder: Path) -> Callable[[], object]:
        """What is killed."""
        return lambda: self.result.save(folder / self.name)


def make_case(title: str, room: Path) -> Case:
    """The case of that title, in a new folder; both models are run once, and differ."""
    before, after = CASES[title]
    ending = after if after in ("pt2", "safetensors") else "onnx"
    name = f"deploy.{ending}"
    folder = room / "template"
    folder.mkdir()
    if before is not None:
        fold(before, room, 1).save(folder / name)
    result = fold(after, room, 2)
    (room / "after").mkdir()
    result.save(room / "after" / name)
    case = Case(folder, name, result, whole(folder / name), whole(room / "after" / name))
    assert case.old != case.new
    if ending == "onnx" and before is not None:
        assert not np.array_equal(outputs(folder / name), outputs(room / "after" / name))
    return case


def fault(case: Case, folder: Path, *, run: bool = False) -> str | None:
    """What is wrong with a folder in which a save was cut short; None where old or new stands, whole and certified.

    The files equal those of the old model or of the new byte for byte; to `run` them too takes longer.
    """
    place = folder / case.name
    if not place.exists():
        return "lost" if case.old else None
    now = whole(place)
    if now not in (case.old, case.new):
        return "mixed"
    try:
        if run and place.suffix == ".onnx":
            outputs(place)
        if certificates.demand(place) is None and (now == case.old or case.result.proof is not None):
            return "its certificate is gone"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def strays(case: Case, folder: Path) -> list[str]:
    """What is left in the folder, after another run in it, besides the model, its data and its certificate."""
    with replacing(folder / "next.txt") as draft:
        draft.touch()
    place = folder / case.name
    own = {one.name for one in files_of(place)} if place.exists() else set()
    certified = place.exists() and (whole(place) == case.old or case.result.proof is not None)
    if certified:
        own.add(certificates.beside(place).name)
        assert b"refold switch" not in certificates.beside(place).read_bytes()
    return sorted(one.name for one in folder.iterdir() if one.name not in own | {"next.txt"})


def whole(place: Path) -> dict[str, bytes]:
    """The bytes of a model's files, by name; nothing where it is not there."""
    return {one.name: one.read_bytes() for one in files_of(place)} if place.exists() else {}


def outputs(place: Path) -> Any:
    """What ONNX Runtime gives on one input."""
    return onnxruntime.InferenceSession(place, providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]


def at_every_call(case: Case, room: Path, *, after: bool = False, run: bool = False, first: bool = False) -> list[tuple[str, str]]:
    """Kill before each call that changes a file, or `after` it; what was wrong, with the number of the call, or the `first` of that."""
    folder = copied(case, room)
    total = tracing.run(case.save(folder))
    assert whole(folder / case.name) == case.new
    found = [one for one in judged("uncut", case, folder, run=run) if one[1]]
    for number in range(1, total + 1):
        folder = copied(case, room)
        tracing.run(case.save(folder), kill_at=number, after=after)
        found += judged(f"call {number} of {total}", case, folder, run=run)
        if first and found:
            break
    return found


def judged(where: str, case: Case, folder: Path, *, run: bool = False) -> list[tuple[str, str]]:
    """Faults at the moment, strays after the next run, faults after it."""
    moment = fault(case, folder, run=run)
    left = ", ".join(strays(case, folder))
    told = (where, moment), (where, f"strays {left}" if left else None), (f"{where}, next run", fault(case, folder, run=run))
    return [(place, what) for place, what in told if what]


def copied(case: Case, room: Path) -> Path:
    """A folder as it was before."""
    folder = room / "work"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(case.folder, folder)
    return folder


def fold(kind: str, room: Path, seed: int) -> FoldResult:
    if kind in ("pt2", "safetensors"):
        import torch
        from torch import nn

        torch.manual_seed(seed)
        block = nn.Sequential(nn.Conv2d(16, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        return refold.fold(block, (torch.from_numpy(X),))
    path = room / f"train{seed}{kind}.onnx"
    rng = np.random.default_rng(seed)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in (("three", (16, 16, 3, 3)), ("one", (16, 16, 1, 1)))}
    nodes = [
        helper.make_node("Conv", ["x", "three"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "one"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16, 5, 5]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(one, name) for name, one in weights.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=kind != "inline", location=f"{path.name}.bin", size_threshold=64)
    return refold.fold(path, verify=kind != "bare")


def main(seed: int) -> int:
    """Kill at every call and 300 times at random; print the counts."""
    faults: Counter[str] = Counter()
    kills = 0
    chance = random.Random(seed)
    print(f"seed {seed}", flush=True)
    for title in CASES:
        with tempfile.TemporaryDirectory() as name:
            room = Path(name)
            case = make_case(title, room)
            started = kills
            total = tracing.run(case.save(copied(case, room)))
            for after in (False, True):
                kills += total
                for where, what in at_every_call(case, room, after=after, run=True):
                    faults[what] += 1
                    print(f"{title}, {where}: {what}")
            folder = copied(case, room)
            begun = time.perf_counter()
            _forked(case.save(folder), None)
            span = time.perf_counter() - begun
            for _ in range(-(-300 // len(CASES))):
                folder = copied(case, room)
                moment = chance.uniform(0, 1.1 * span)
                _forked(case.save(folder), moment)
                kills += 1
                for where, what in judged(f"after {moment:.4f} s", case, folder, run=True):
                    faults[what] += 1
                    print(f"{title}, {where}: {what}")
            print(f"{title}: {total} calls, {kills - started} kills", flush=True)
    print(f"{kills} kills; faults: {dict(faults) or 0}")
    return 1 if faults else 0


def _forked(function: Callable[[], object], seconds: float | None) -> None:
    child = os.fork()
    if child == 0:
        try:
            function()
        finally:
            os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else random.SystemRandom().randrange(1 << 32)))
