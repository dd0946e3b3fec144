"""Runs saved files beside the originals at many sizes; `python -m tests.sizes.saved [part of a name]` prints counts.

A file passes at a size where it gives what the original gives, or raises. What is compared is the file on disk, through the runtimes that
people run it in. Exit status 1 says that one does not pass. OpenVINO is given no empty batches, of which it makes other shapes by itself
(0 x 6 x 0 x 0 where a resizing gives 0 x 6 x 16 x 16), and a file that it does not open counts as refused.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

import refold
from tests.sizes.models import MODELS, Shapes, Sized

Run: TypeAlias = "Callable[[Sequence[Any]], list[Any]]"
DIGITS = 1e-4
"""Of the output's scale: what two runtimes may differ by in float32; another path through one of the models moves far more."""


def by_onnxruntime(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda arrays: list(session.run(None, dict(zip(names, arrays, strict=True))))


def by_openvino(path: Path) -> Run:
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"})

    def run(arrays: Sequence[Any]) -> list[Any]:
        # A request that has run before gives an empty batch the shape of the run before it.
        result = compiled.create_infer_request().infer(list(arrays), share_inputs=True)
        return [np.array(result[output]) for output in compiled.outputs]

    return run


def by_torch(path: Path) -> Run:
    module = torch.export.load(path).module()

    def run(arrays: Sequence[Any]) -> list[Any]:
        with torch.no_grad():
            return [module(*map(torch.from_numpy, arrays)).numpy()]

    return run


RUNTIMES: dict[str, tuple[str, Callable[[Path], Run]]] = {
    "ONNX Runtime": ("onnx", by_onnxruntime),
    **({"OpenVINO": ("onnx", by_openvino)} if find_spec("openvino") else {}),
    "torch.export": ("pt2", by_torch),
}


def is_same(one: Any, other: Any) -> bool:
    """Whether two outputs are the same function's."""
    if one.shape != other.shape:
        return False
    finite = np.abs(other[np.isfinite(other)])
    return bool(np.allclose(one, other, rtol=0.0, atol=DIGITS * float(finite.max(initial=0.0)), equal_nan=True))


def outcomes(one: Sized, files: Mapping[str, Path], runtimes: Sequence[str] = tuple(RUNTIMES)) -> Iterator[tuple[str, Shapes, str]]:
    """For each runtime and each size that the original takes: `same`, `refused` or `wrong`; the example's own size comes first.

    `files` are those that the folded network was saved to, by their endings.
    """
    model = one.make()
    opened = {name: _opened(RUNTIMES[name][1], files[RUNTIMES[name][0]]) for name in runtimes}
    for shapes in (one.example, *one.others()):
        inputs = one.inputs(shapes, seed=1)
        try:
            with torch.no_grad():
                expected = model(*[x.clone() for x in inputs]).numpy()
        except Exception:
            continue
        for name, run in opened.items():
            if name == "OpenVINO" and not all(map(all, shapes)):
                continue
            try:
                (output,) = run([x.numpy() for x in inputs])
            except Exception:
                yield name, shapes, "refused"
            else:
                yield name, shapes, "same" if is_same(output, expected) else "wrong"


def _opened(opener: Callable[[Path], Run], path: Path) -> Run:
    """A file in a runtime; one that does not open raises when it is run."""
    try:
        return opener(path)
    except RuntimeError as error:
        message = str(error)

    def refuse(arrays: Sequence[Any]) -> list[Any]:
        raise RuntimeError(message)

    return refuse


def main() -> int:
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    counts: Counter[tuple[str, str]] = Counter()
    for one in MODELS:
        if part not in one.name:
            continue
        own: Counter[tuple[str, str]] = Counter()
        with tempfile.TemporaryDirectory() as folder:
            result = refold.fold(one.make(), one.inputs())
            files = {kind: result.save(Path(folder) / f"deploy.{kind}") for kind in ("onnx", "pt2")}
            for name, shapes, outcome in outcomes(one, files):
                own[name, outcome] += 1
                if outcome == "wrong" or (outcome == "refused" and shapes == one.example and name != "OpenVINO"):
                    print(f"{outcome.upper()}: {one.name}, {name}, {shapes}")
                    counts[name, "faults"] += 1
        counts += own
        print(
            f"{one.name}: " + "; ".join(f"{name} {own[name, 'same']} same, {own[name, 'refused']} refused" for name in RUNTIMES), flush=True
        )
    for name in RUNTIMES:
        print(f"{name}: " + ", ".join(f"{counts[name, what]:,} {what}" for what in ("same", "refused", "wrong", "faults")))
    return int(any(counts[name, "faults"] for name in RUNTIMES))


if __name__ == "__main__":
    sys.exit(main())
