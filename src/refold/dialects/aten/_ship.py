"""Writes a folded network to a file that may ship: one that was run beside the original at the sizes that it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from refold.dialects.aten._annotate import LABEL as CERTIFICATE
from refold.dialects.aten._annotate import Tensor, weights
from refold.dialects.aten._compare import compared
from refold.dialects.aten._constants import draws_at_random
from refold.dialects.aten._files import Open, exported_draft, onnx_draft, tensors
from refold.dialects.aten._settle import LABEL, Draft, Settling, Untried, alike, not_the_original
from refold.dialects.aten._trace import one_line
from refold.dialects.aten._tries import Example, Sizes
from refold.verification import certify

if TYPE_CHECKING:
    from refold.dialects.aten._model import AtenModel


def ship_exported(
    source: AtenModel, model: fx.GraphModule, path: Path, text_for: Callable[[Iterable[Tensor]], str] | None
) -> tuple[str, ...]:
    """Write a `.pt2` and say what sizes it takes; `text_for` makes the text that lies in it from its weights."""
    settled = _settling(source, model, lambda example, is_free: exported_draft(model, example, is_free, path)).settle().as_checked()
    texts = {LABEL: settled.text}
    if text_for is not None:
        texts[CERTIFICATE] = text_for(weights(settled.draft.program))
    with path.open("wb") as file:  # by its path, torch would abort the process where the disk is full
        torch.export.save(settled.draft.program, file, extra_files=texts)
    return settled.notes


def ship_onnx(source: AtenModel, model: fx.GraphModule, path: Path, open_file: Open) -> tuple[str, ...]:
    """Write an ONNX file and say what sizes it takes; `open_file` opens it in a runtime."""
    settled = _settling(source, model, lambda example, is_free: onnx_draft(model, example, is_free, path, open_file)).settle()
    settled.draft.program.model.metadata_props[LABEL] = settled.text
    settled.draft.program.save(str(path), external_data=False)
    return settled.notes


def _settling(source: AtenModel, model: fx.GraphModule, make: Callable[..., Any]) -> Settling[Any]:
    names = [str(node.target) for node in model.graph.nodes if node.op == "placeholder"]
    example = Example(tuple(names), source.args, source.kwargs)
    allowed = source.allowed
    known = [*(trial.shapes for trial in allowed.shown), *(shapes for shapes, _ in allowed.refused)]
    flat: list[Sizes] = [{(name, axis): size for name, shape in shapes.items() for axis, size in enumerate(shape)} for shapes in known]
    return Settling(partial(make, example), source.run_original, partial(_demand, source), example, allowed.conditions, flat)


def _demand(source: AtenModel, draft: Draft) -> None:
    """Raise where a draft is not the original on the example; `Untried` where that cannot be said."""
    if any(map(draws_at_random, source.traced.program.graph.nodes)):
        raise Untried("the network draws random numbers")
    try:
        outputs = draft.run(source.args, source.kwargs)
    except Exception as error:  # whatever a runtime raises
        raise Untried(one_line(error)) from error
    expected = pytree.tree_leaves(source.run_original())
    if alike(outputs, tensors(expected)):
        return
    if not len(outputs) == len(expected) == len(tensors(expected)):
        raise Untried(f"the original gives {len(expected)} outputs and the file {len(outputs)}")
    certificate = certify((), compared(source, _Recorded(outputs)))
    if not certificate.passed:
        raise not_the_original([output.name for output in certificate.outputs if not output.passed])


class _Recorded(torch.nn.Module):
    """A module that gives what a file gave on the example."""

    def __init__(self, outputs: Sequence[Any]) -> None:
        super().__init__()
        self.outputs = tuple(outputs)

    def forward(self, *args: Any, **kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        return self.outputs
