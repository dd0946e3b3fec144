"""What folding does to the rounding of kernels to int8, and how far an int8 model of the folded network agrees with the original."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refold import runtime
from refold.agreement import Agreement, measure_agreement
from refold.datasets import Batch, Dataset
from refold.errors import FoldError
from refold.folding import FoldResult, fold
from refold.maps import Scalar, as_moved
from refold.plan import Fold
from refold.saving import save

LEVELS = 127
"""Steps of symmetric int8 on either side of zero."""
CALIBRATION = 256
"""Samples, from the first on, that the ranges of activations are taken from, or as many more as fill their last batch."""
BATCH = 32
ROUNDING = 16 * 2.0**-53
"""By how much the float64 arithmetic of a fold alone, some eight roundings on a kernel and as many on its scale, moves relative noise."""


@dataclass(frozen=True, slots=True)
class KernelFigures:
    """How well a kernel takes to symmetric int8.

    `largest` is the largest absolute number, `smallest_channel` the smallest of what the output channels have for their largest;
    `kurtosis` is 3 for a normal distribution and higher the longer the tails are, NaN where all numbers are one. `per_tensor` and
    `per_channel` are the signal-to-noise ratio of the rounded kernel in dB, with one scale for all or one for each output channel; the
    latter is of the mean noise of the channels as shares of their signals, which a scale of the channels, as of batch norm, leaves alone.
    Infinite where nothing is rounded.
    """

    name: str
    shape: tuple[int, ...]
    largest: float
    smallest_channel: float
    kurtosis: float
    per_tensor: float
    per_channel: float

    @classmethod
    def of(cls, name: str, kernel: NDArray[Any]) -> KernelFigures:
        """Of a kernel (out, in / groups, *taps).

        >>> figures = KernelFigures.of("layer", np.array([[127.0, 63.5], [1.0, 0.5]]))
        >>> figures.largest, figures.smallest_channel, round(figures.per_tensor, 1), round(figures.per_channel, 1)
        (127.0, 1.0, 46.1, 49.1)
        """
        wide = np.asarray(kernel, np.float64)
        largest = np.abs(wide).reshape(len(wide), -1).max(axis=1, initial=0.0)
        return cls(
            name,
            tuple(wide.shape),
            float(largest.max(initial=0.0)),
            float(largest.min(initial=math.inf)),
            _kurtosis(wide),
            _decibels([_noise(wide, largest.max(initial=0.0))]),
            _decibels([_noise(channel, top) for channel, top in zip(wide, largest, strict=True)]),
        )


@dataclass(frozen=True, slots=True)
class Region:
    """A folded kernel beside the kernels that went into it."""

    name: str
    before: tuple[KernelFigures, ...]
    after: KernelFigures

    @property
    def worse(self) -> tuple[str, ...]:
        """The ways of rounding under which the folded kernel is noisier than every one that went into it."""
        found = []
        for label, name in (("per tensor", "per_tensor"), ("per channel", "per_channel")):
            noisiest = max((_amplitude(getattr(one, name)) for one in self.before), default=math.inf)
            if _amplitude(getattr(self.after, name)) > noisiest + ROUNDING:
                found.append(label)
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Int8Trial:
    """The folded network in float and in int8, each against the original over a data set, and how many samples calibrated it."""

    calibrated_on: int
    folded: Agreement
    int8: Agreement

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"calibrated_on": self.calibrated_on, "folded": self.folded.to_dict(), "int8": self.int8.to_dict()}


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """What quantizing a folded network meets. `str()` is a table, `to_dict()` is ready for JSON."""

    regions: tuple[Region, ...]
    trial: Int8Trial | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        regions = [{**asdict(region), "worse": list(region.worse)} for region in self.regions]
        return {"regions": regions, "trial": None if self.trial is None else self.trial.to_dict()}

    def __str__(self) -> str:
        lines = list(_table(self.regions))
        worse = [region for region in self.regions if region.worse]
        counted = f"{len(self.regions)} folded kernel{'' if len(self.regions) == 1 else 's'}"
        lines += ["", f"{counted}, {len(worse)} of them noisier in int8 than every kernel that went into it"]
        for region in worse:
            lines.append(f"  {region.name}: {' and '.join(region.worse)}")
        if self.trial is not None:
            lines += [
                "",
                "against the original, over the data:",
                f"  folded, float   {self.trial.folded}",
                f"  folded, int8    {self.trial.int8}",
                f"  int8 is ONNX Runtime's, static, one scale a channel, calibrated on {self.trial.calibrated_on:,} samples",
            ]
        return "\n".join(lines)


def examine(
    model: Any,
    example_inputs: Any = None,
    *,
    data: Path | None = None,
    int8: Path | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> QuantizationReport:
    """Fold a network and say what the folding does to rounding its kernels to int8.

    With `data`, an `.npz` or a folder as `refold.datasets.Dataset` reads it, the folded network is also quantized by ONNX Runtime and
    compared with the original over all of it; `int8` is where to keep that model.

    Raises `FoldError` where the model cannot be folded, the data does not fit it, or `int8` is asked for without data.

    >>> import torch
    >>> block = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    >>> [(region.name, len(region.before)) for region in examine(block, torch.randn(1, 3, 8, 8)).regions]
    [('0', 1)]
    """
    if int8 is not None and data is None:
        raise FoldError(f"{int8} needs data to be calibrated on; give samples, as in --data samples.npz")
    result = fold(model, example_inputs, verify=False, progress=progress)
    progress("rounding kernels")
    regions = tuple(find_regions(result))
    if data is None:
        return QuantizationReport(regions)
    with tempfile.TemporaryDirectory() as folder:
        deploy = result.save(Path(folder) / "deploy.onnx")
        batches = _Batches(data, _stated_batch(deploy))
        progress("quantizing")
        made = quantize(deploy, Path(folder) / "int8.onnx" if int8 is None else int8, batches)
        progress("comparing")
        folded, rounded = (measure_agreement(model, other, batches) for other in (deploy, made))
        trial = Int8Trial(batches.calibrating, folded, rounded)
    return QuantizationReport(regions, trial)


def find_regions(result: FoldResult) -> Iterator[Region]:
    """Each folded kernel beside the kernels that went into it; those that hold no parameter, as of pooling, are left out."""
    for one in result.deployed.folds:
        yield from _regions(one, result.deployed.name_of(one))


def _regions(one: Fold, name: str) -> Iterator[Region]:
    for mapped in (as_moved(mapped).inner for mapped in one.form.values()):
        if isinstance(mapped, Scalar) or mapped.stencil.is_diagonal:
            continue
        leaves = {leaf.key: leaf for leaf in mapped.leaves() if leaf.names and not leaf.stencil.is_diagonal}
        before = tuple(KernelFigures.of(leaf.names[0], _numbers(leaf.evaluate().kernel)) for leaf in leaves.values())
        yield Region(name, before, KernelFigures.of(name, _numbers(mapped.evaluate().kernel)))


def quantize(model: Path, path: Path, batches: Iterable[Batch]) -> Path:
    """Write an ONNX file in int8 with ONNX Runtime's own tooling: static, signed, one scale an output channel.

    The ranges of activations are those of the first samples of the batches. Raises `FoldError` where it does not go through.
    """
    from refold.dialects import onnx

    chosen: list[Mapping[str, Any]] = []
    samples = 0
    for batch in batches:
        chosen.append(onnx.as_inputs(model, batch))
        samples += len(next(iter(chosen[-1].values())))
        if samples >= CALIBRATION:
            break

    def write(draft: Path, _: object) -> Mapping[str, str]:
        try:
            runtime.quantize(model, draft, chosen)
        except runtime.RuntimeRefused as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise FoldError(f"ONNX Runtime cannot quantize the folded model: {said}; give samples of the shapes that it takes") from error
        return {}

    return save(path, write)


class _Batches:
    """The batches of a data set; where the model takes one size alone, those of that size."""

    def __init__(self, path: Path, fixed: int | None) -> None:
        self._fixed = fixed
        self._data = Dataset(path, fixed or BATCH)
        self.samples = self._data.samples // (fixed or 1) * (fixed or 1)
        if not self.samples:
            raise FoldError(f"{path} holds {self._data.samples} samples and the model takes {fixed} at a time; give at least as many")

    @property
    def calibrating(self) -> int:
        """The samples of the batches that hold `CALIBRATION` of them."""
        size = self._data.batch
        return min(self.samples, math.ceil(CALIBRATION / size) * size)

    def __iter__(self) -> Iterator[Batch]:
        return islice(iter(self._data), self.samples // self._fixed) if self._fixed else iter(self._data)


def _stated_batch(path: Path) -> int | None:
    import onnx

    for value in onnx.load(path, load_external_data=False).graph.input:
        for size in value.type.tensor_type.shape.dim[:1]:
            return int(size.dim_value) or None
    return None


def _numbers(kernel: Any) -> NDArray[Any]:
    return np.asarray(kernel.detach().cpu() if hasattr(kernel, "detach") else kernel)


def _amplitude(decibels: float) -> float:
    """Noise as a share of the signal."""
    return 10 ** (-decibels / 20)


def _kurtosis(kernel: NDArray[Any]) -> float:
    centred = kernel - kernel.mean()
    variance = float((centred**2).mean())
    return float((centred**4).mean()) / variance**2 if variance else math.nan


def _noise(kernel: NDArray[Any], largest: float) -> float:
    """The noise of rounding to steps of `largest / 127`, as a share of the signal."""
    signal = float((kernel**2).sum())
    if not signal:
        return 0.0
    step = largest / LEVELS
    return float(((np.rint(kernel / step) * step - kernel) ** 2).sum()) / signal


def _decibels(noises: Sequence[float]) -> float:
    mean = sum(noises) / max(1, len(noises))
    return -10 * math.log10(mean) if mean else math.inf


def _table(regions: Sequence[Region]) -> Iterator[str]:
    if not regions:
        return
    heading = ("kernel", "shape", "largest", "smallest channel", "kurtosis", "dB per tensor", "dB per channel")
    rows: list[tuple[str, ...]] = [heading]
    for region in regions:
        rows.append((region.name, *[""] * 6))
        for label, figures in (*((f"    {one.name}", one) for one in region.before), ("  → folded", region.after)):
            shape = " x ".join(map(str, figures.shape))
            largest, smallest = f"{figures.largest:.3g}", f"{figures.smallest_channel:.3g}"
            rows.append(
                (label, shape, largest, smallest, f"{figures.kurtosis:.1f}", f"{figures.per_tensor:.1f}", f"{figures.per_channel:.1f}")
            )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [other.rjust(width) for other, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()
