"""The second question about a mutant: where it makes a fold of a test network wrong, does the proof object by itself?

Wrong is decided without refold: the original and what was written are run by PyTorch, or by ONNX Runtime, at the sizes of the example
and at others.
"""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.mutation.children import Died, in_child
from tests.mutation.hook import import_mutated, is_in_place
from tests.mutation.mutants import Mutant
from tests.mutation.reach import KEPT, Failures, Reach, Recorder, recorded

WRONG = 1e-6
"""Of the output's scale, in float64: a million times what rounding leaves, and far less than a wrong weight or border."""

EACH = 12
"""Networks that a mutant is tried on, of those that run it: the fastest."""

SECONDS = 240.0
"""That one mutant may take."""

Sort = Literal["harmless", "refused", "caught", "missed", "died", "unreached"]


@dataclass(frozen=True, slots=True)
class Held:
    """What the proof did about a mutant: nothing was wrong, or some folds failed, or wrong folds were all caught, or one was missed."""

    mutant: Mutant
    sort: Sort
    wrong: tuple[str, ...] = ()
    missed: tuple[str, ...] = field(default=())
    seconds: float = 0.0


Case = tuple[Callable[[], Any], tuple[int, ...], tuple[tuple[int, ...], ...]]
"""What makes a network, the shape of its example, and other shapes to compare at."""


def cases() -> dict[str, Case]:
    """The networks, each as a module and as a file that `export_all` has written."""
    from tests.families import test_folding, test_layouts, test_parts

    found: dict[str, Case] = {}
    for name, (make, _) in test_folding.BLOCKS.items():
        found[name] = (make, (1, 8, 17, 18), ((3, 8, 22, 15), (2, 8, 16, 13)))
    for group in (test_layouts.CASES, test_parts.CASES):
        for name, (make, shape, *_) in group.items():
            grown = [tuple(size if size in (3, 8) else size + more for size in shape[1:]) for more in (1, 4)]
            found[name] = (make, shape, ((3, *shape[1:]), *((3, *one) for one in grown)))
    return found


def _file(name: str) -> Path:
    return KEPT / "files" / f"{name.replace(' ', '_').replace(',', '')}.onnx"


def export_all() -> None:
    """Write every network as an ONNX file that takes any batch and sizes."""
    import torch

    for name, (make, shape, _) in cases().items():
        _file(name).parent.mkdir(parents=True, exist_ok=True)
        free = {axis: f"d{axis}" for axis in range(len(shape)) if axis != 1 and not (len(shape) == 3 and axis == 2)}
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _settled(make), (_noise(shape),), str(_file(name)), input_names=["x"], dynamic_axes={"x": free}, dynamo=False
            )  # fmt: skip


def record() -> Reach:
    """Which networks run which lines while they are folded, and for how long."""
    return recorded("proof", ("tests/families",), _fold_each)


def _fold_each(recorder: Recorder) -> Failures:
    export_all()
    failed = []
    for name in _names():
        with recorder.test(name):
            try:
                if _is_fold_wrong(name, verify=False):
                    failed.append(name)
            except Exception as fault:
                failed.append(f"{name}: {fault!r}")
    return failed


def _names() -> Iterator[str]:
    for name in cases():
        yield f"{name}, module"
        yield f"{name}, file"


def held(mutant: Mutant, reach: Reach) -> Held:
    """Fold the networks that run the mutant, and see what is wrong and what the proof says of it."""
    names = reach.tests(mutant)[:EACH]
    if not names:
        return Held(mutant, "unreached")
    begin = time.perf_counter()
    try:
        sort, wrong, missed = in_child(lambda: _held(mutant, names), SECONDS)
    except Died:
        sort, wrong, missed = "died", (), ()
    return Held(mutant, sort, wrong, missed, time.perf_counter() - begin)


def _held(mutant: Mutant, names: Sequence[str]) -> tuple[Sort, tuple[str, ...], tuple[str, ...]]:
    try:
        import_mutated(mutant)
        import refold.folding  # noqa: F401
    except Exception:
        return "refused", (), ()
    refused, wrong, missed = 0, [], []
    for name in names:
        try:
            is_wrong = _is_fold_wrong(name, verify=False)
        except Exception:
            refused += 1
            continue
        if not is_wrong:
            continue
        wrong.append(name)
        try:
            _is_fold_wrong(name, verify=True)
        except Exception:
            continue
        missed.append(name)
    assert is_in_place(mutant)
    sort: Sort = "missed" if missed else "caught" if wrong else "refused" if refused else "harmless"
    return sort, tuple(wrong), tuple(missed)


def _is_fold_wrong(name: str, *, verify: bool) -> bool:
    """Whether a fold is wrong at some shape that the original takes. Raises what folding raises."""
    import onnx_ir

    import refold
    from tests.dialects.onnx.models import run

    stem, _, kind = name.rpartition(", ")
    make, shape, others = cases()[stem]
    inputs = [_noise(one) for one in (shape, *others)]
    if kind == "module":
        model = _settled(make)
        folded = refold.fold(model, (inputs[0],), verify=verify).model
        return any(_is_wrong(model, folded, x) for x in inputs)
    written = refold.fold(str(_file(stem)), verify=verify).model
    proto = onnx_ir.to_proto(written) if isinstance(written, onnx_ir.Model) else written
    return any(_is_wrong(lambda x: run(_file(stem), {"x": x.numpy()}), lambda x: run(proto, {"x": x.numpy()}), x) for x in inputs)


def _is_wrong(original: Callable[[Any], Any], folded: Callable[[Any], Any], x: Any) -> bool:
    """Whether the folded network gives something else; what refuses an input gives nothing."""
    import numpy as np
    import torch

    with torch.no_grad():
        try:
            wanted = _leaves(original(x))
            given = _leaves(folded(x))
        except Exception:
            return False
    for one, other in zip(wanted, given, strict=True):
        granted = WRONG * float(np.abs(one).max(initial=0.0))
        if one.shape != other.shape or not np.allclose(one, other, rtol=0, atol=granted, equal_nan=True):
            return True
    return False


def _leaves(outputs: Any) -> list[Any]:
    import numpy as np
    from torch.utils import _pytree as pytree

    return [np.asarray(one) for one in pytree.tree_leaves(outputs)]


def _settled(make: Callable[[], Any]) -> Any:
    import torch

    from tests.families.test_folding import settled

    torch.manual_seed(20210111)
    return settled(make())


def _noise(shape: Sequence[int]) -> Any:
    from tests.families.test_folding import noise

    return noise(*shape)


def table(found: Sequence[Held]) -> Mapping[str, int]:
    """How many mutants ended in each way."""
    return {sort: sum(one.sort == sort for one in found) for sort in ("unreached", "harmless", "refused", "died", "caught", "missed")}
