"""How far two networks agree over a whole data set that is gone through once, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refold.datasets import Batch
from refold.dialects import is_onnx
from refold.errors import FoldError


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a data set showed.

    `top_1` is the share of samples for which both name the same class, None where no output looks like class scores; `relative` is the
    largest difference of any output over its largest number anywhere. `worst` is the batch where the two are furthest apart.
    """

    samples: int
    top_1: float | None
    difference: float
    relative: float
    worst: Batch

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the batch."""
        return {name: getattr(self, name) for name in ("samples", "top_1", "difference", "relative")}

    def __str__(self) -> str:
        top = "" if self.top_1 is None else f"; the same class for {round(self.top_1 * self.samples):,} ({self.top_1:.2%})"
        return f"{self.samples:,} samples of data: largest difference {self.relative:.2g} of the output's scale{top}"


def measure_agreement(
    original: Any, folded: Any, batches: Iterable[Batch], *, progress: Callable[[int], None] = lambda samples: None
) -> Agreement:
    """Run two networks on every batch; `progress` is told how many samples each had.

    Raises `FoldError` where a network does not take a batch, or the outputs are not of the same shapes.
    """
    run_original, run_folded = _runner(original), _runner(folded)
    samples, same, scores_seen = 0, 0, False
    scales: list[float] = []
    largest: list[float] = []
    worst: tuple[float, Batch | None] = (-1.0, None)
    for batch in batches:
        mine, theirs = run_original(batch), run_folded(batch)
        if [one.shape for one in mine] != [one.shape for one in theirs]:
            raise FoldError(f"the two models give outputs of {_shapes(mine)} and {_shapes(theirs)}; compare models that give the same")
        count = len(next(iter(batch.values())) if isinstance(batch, dict) else batch[0])
        distances = [_distance(one, other) for one, other in zip(mine, theirs, strict=True)]
        own = [_scale(one) for one in mine]
        scales = [max(pair) for pair in zip(scales or own, own, strict=True)]
        largest = [max(pair) for pair in zip(largest or distances, distances, strict=True)]
        apart = max((distance / scale if scale else distance for distance, scale in zip(distances, own, strict=True)), default=0.0)
        if apart > worst[0]:
            worst = apart, batch
        scores = next((pair for pair in zip(mine, theirs, strict=True) if _are_scores(pair[0], count)), None)
        if scores is not None:
            scores_seen = True
            same += int((scores[0].argmax(1) == scores[1].argmax(1)).sum())
        samples += count
        progress(count)
    if worst[1] is None:
        raise FoldError("the data set holds no sample; give one with at least one")
    relative = max((one / scale if scale else one for one, scale in zip(largest, scales, strict=True)), default=0.0)
    return Agreement(samples, same / samples if scores_seen else None, max(largest, default=0.0), relative, worst[1])


def as_inputs(model: Any, batch: Batch) -> Any:
    """A batch as `refold.verify` takes inputs: tensors for PyTorch, arrays for ONNX, floats in the dtype of the model."""
    return _dialect(model).as_inputs(model, batch)


def channels_of(model: Any, example: Any) -> int | None:
    """The channels of the first input, where it is a batch of images; None where that is not known."""
    if is_onnx(model):
        return int(_dialect(model).channels(model) or 0) or None
    first = next(iter(example.values() if isinstance(example, dict) else example), None) if example else None
    return int(first.shape[1]) if first is not None and getattr(first, "ndim", 0) == 4 else None


def _runner(model: Any) -> Callable[[Any], list[NDArray[Any]]]:
    run: Callable[[Any], list[NDArray[Any]]] = _dialect(model).runner(model)
    return run


def _dialect(model: Any) -> Any:
    if is_onnx(model):
        from refold.dialects import onnx

        return onnx
    from refold.dialects import aten

    return aten


def _are_scores(output: NDArray[Any], samples: int) -> bool:
    return output.ndim == 2 and output.shape[0] == samples and output.shape[1] >= 2


def _distance(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest difference; equal infinities and NaN on both sides are none, NaN on one side is infinite."""
    first, second = (array.astype(np.complex128 if array.dtype.kind == "c" else np.float64) for array in (one, other))
    with np.errstate(invalid="ignore"):
        apart = np.abs(first - second)
    apart = np.where((first == second) | (np.isnan(first) & np.isnan(second)), 0.0, apart)
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _scale(array: NDArray[Any]) -> float:
    size = np.abs(array.astype(np.complex128 if array.dtype.kind == "c" else np.float64))
    return float(np.where(np.isfinite(size), size, 0.0).max(initial=0.0))


def _shapes(arrays: Iterable[NDArray[Any]]) -> str:
    return ", ".join(" x ".join(map(str, one.shape)) or "scalar" for one in arrays)
