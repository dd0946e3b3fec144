"""The verb: models in turn in each engine at each batch, warmed up, with what their convolutions alone would take."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from refold.bench._engine import Engine, LayerTime, Runner
from refold.bench._floor import floor_of
from refold.bench._memory import peak_memory
from refold.bench._onnxruntime import OnnxRuntimeEngine
from refold.bench._openvino import OpenVinoEngine
from refold.bench._result import BenchResult, Failure, Measurement, Ratio, Spread
from refold.bench._subject import Subject, make_subjects
from refold.bench._torch import TorchEngine
from refold.bench._torch_compile import TorchCompileEngine
from refold.errors import FoldError

ENGINES: dict[str, Engine] = {one.name: one for one in (TorchEngine(), TorchCompileEngine(), OnnxRuntimeEngine(), OpenVinoEngine())}
FEWEST = 5
"""Turns that are measured however long they take."""
WARM_UP = 0.1
"""Share of the measuring time that is spent on turns that do not count, one at least."""
WARM = 2.0
"""Seconds after which everything is warm."""
PROFILED = 10
"""Runs that times of layers are the mean of."""


class BenchInterrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a bench; `result` holds what was measured until then."""

    def __init__(self, result: BenchResult) -> None:
        super().__init__("the bench was interrupted")
        self.result = result


@dataclass(slots=True)
class _Form:
    """Something that takes its turn: a model, or its floor."""

    subject: Subject
    part: str
    runner: Runner
    times: list[float] = field(default_factory=list)
    peak: int | None = None
    layers: tuple[LayerTime, ...] = ()


def bench(
    models: Mapping[str, Any] | Sequence[Any],
    inputs: Any = None,
    *,
    engines: Sequence[str] | None = None,
    batches: Sequence[int] | None = None,
    threads: int = 1,
    seconds: float = 2.0,
    floor: bool = True,
    layers: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> BenchResult:
    """Measure models side by side: A B A B …, so that a busy moment of the machine slows them all and their ratios hold.

    `models` are `torch.nn.Module`, `torch.export.ExportedProgram` or ONNX models (paths or in memory), under the names of a mapping or
    their own. A PyTorch model runs in `torch` and `torch-compile` and, exported, in `onnxruntime` and `openvino`; an ONNX model in the
    latter two. `inputs` are example inputs as `refold.fold` takes them, the same for all models; they are repeated to each of the
    `batches`. Every engine and batch is measured for about `seconds` times the number of models.

    With `floor`, the convolutions and linear layers of each model are run alone, back to back in the same engine, in the same turns:
    the lower limit of what removing everything else could reach. With `layers`, each layer's time where the engine gives it.

    An engine that is not installed is skipped, one that fails on a model is recorded, and the others go on.

    Raises `FoldError` where an engine or a number is not one, or a model has no inputs; `BenchInterrupted`, which holds what was measured,
    on Ctrl-C.

    >>> import torch
    >>> wide = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3), torch.nn.BatchNorm2d(8))
    >>> result = bench({"train": wide, "deploy": wide[0]}, torch.randn(1, 8, 16, 16), engines=["torch"], seconds=0.02)
    >>> [(one.model, one.latency.median > 0) for one in result.measurements]
    [('train', True), ('deploy', True)]
    """
    _check(engines, batches, threads, seconds)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        subjects = make_subjects(models, inputs, Path(folder))
        wanted = engines or (["torch", "onnxruntime"] if any(one.module is not None for one in subjects) else ["onnxruntime"])
        sizes: list[int | None] = [*dict.fromkeys(batches or ())] or [None]
        chosen = [ENGINES[name] for name in dict.fromkeys(wanted)]
        result = BenchResult(threads, {one.name: _version(one.package) for one in chosen if _is_there(one)})
        result.skipped = {one.name: one.remedy for one in chosen if not _is_there(one)}
        for subject in subjects:
            stack.enter_context(subject.evaluating())
        try:
            for engine, batch in itertools.product(chosen, sizes):
                if engine.name not in result.skipped:
                    with engine.session(threads):
                        cell = _Cell(engine, batch, result, Path(folder), progress)
                        cell.measure(subjects, threads, seconds, floor=floor, layers=layers)
        except KeyboardInterrupt as error:
            result.is_complete = False
            raise BenchInterrupted(result) from error
    return result


@dataclass(slots=True)
class _Cell:
    """One engine at one batch."""

    engine: Engine
    batch: int | None
    result: BenchResult
    folder: Path
    progress: Callable[[str], None]

    def measure(self, subjects: Sequence[Subject], threads: int, seconds: float, *, floor: bool, layers: bool) -> None:
        """Load all models, run them in turn, and write down what was measured, whatever ends it."""
        forms = [*(self._floors(subjects, threads) if floor else ()), *self._models(subjects, threads)]
        forms.sort(key=lambda form: (subjects.index(form.subject), form.part != "model"))
        if layers:
            for form in forms:
                if form.part == "model":
                    self._say("the layers of", form.subject)
                    with self._recording(form.subject, "layers"):
                        form.layers = form.runner.layers(PROFILED)
        try:
            self._turns(forms, seconds * len({form.subject.name for form in forms}))
        finally:
            self._record(forms)

    def _floors(self, subjects: Sequence[Subject], threads: int) -> Iterator[_Form]:
        """The floors, run once; they come first, so that what an engine loads but once is not counted as a model's memory."""
        for subject in subjects:
            self._say("the floor of", subject)
            with self._recording(subject, "floor"), tempfile.TemporaryDirectory(dir=self.folder) as folder:
                try:
                    task = subject.task(self.engine.takes, self.batch)
                    alone = floor_of(task, self.engine.takes, Path(folder))
                except FoldError:
                    continue  # what keeps the model from running is told of the model
                if alone is not None:
                    runner = self.engine.prepare(alone, threads)
                    runner.run()
                    yield _Form(subject, "floor", runner)

    def _models(self, subjects: Sequence[Subject], threads: int) -> Iterator[_Form]:
        for subject in subjects:
            self._say("loading", subject)
            with self._recording(subject, "model"):
                task = subject.task(self.engine.takes, self.batch)
                with peak_memory() as peak:
                    runner = self.engine.prepare(task, threads)
                    runner.run()
                form = _Form(subject, "model", runner)
                if peak.bytes is not None:
                    form.peak = peak.bytes + (_weight_bytes(subject.module) if self.engine.takes == "torch" else 0)
                yield form

    def _turns(self, forms: list[_Form], seconds: float) -> None:
        """Run all forms in turn until the time is over; one that fails on the way leaves."""
        clock = time.perf_counter
        self.progress(f"{self._name}: measuring")
        with _without_collection():
            for duration, fewest in ((min(WARM_UP * seconds, WARM), 1), (seconds, FEWEST)):
                turns, end = 0, clock() + duration
                for form in forms:
                    form.times.clear()
                while forms and (turns < fewest or clock() < end):
                    turns += 1
                    for form in tuple(forms):
                        try:
                            start = clock()
                            form.runner.run()
                            form.times.append(clock() - start)
                        except Exception as error:
                            self._fail(form.subject, form.part, error)
                            forms.remove(form)

    def _record(self, forms: Sequence[_Form]) -> None:
        turns = min((len(form.times) for form in forms), default=0)
        if turns == 0:
            return
        times = {(form.subject.name, form.part): form.times[:turns] for form in forms}
        measured = [form for form in forms if form.part == "model"]
        for form in measured:
            name, own = form.subject.name, form.times[:turns]
            alone = times.get((name, "floor"))
            self.result.measurements.append(
                Measurement(
                    self.engine.name,
                    form.subject.batch if self.batch is None else self.batch,
                    name,
                    Spread.of(own),
                    None if alone is None else Spread.of(alone),
                    None if alone is None else _ratio(own, alone),
                    form.peak,
                    form.layers,
                )
            )
        for one, other in itertools.combinations(measured, 2):
            ratio = _ratio(one.times[:turns], other.times[:turns])
            batch = one.subject.batch if self.batch is None else self.batch
            self.result.ratios.append(Ratio(self.engine.name, batch, one.subject.name, other.subject.name, ratio))

    @contextmanager
    def _recording(self, subject: Subject, part: str) -> Iterator[None]:
        """Whatever an engine raises in the block becomes a line of the result."""
        try:
            yield
        except Exception as error:
            self._fail(subject, part, error)

    def _fail(self, subject: Subject, part: str, error: Exception) -> None:
        self.result.failures.append(Failure(self.engine.name, self.batch, subject.name, _one_line(error), part))

    @property
    def _name(self) -> str:
        return self.engine.name if self.batch is None else f"{self.engine.name}, batch {self.batch}"

    def _say(self, what: str, subject: Subject) -> None:
        self.progress(f"{self._name}: {what} {subject.name}")


def _check(engines: Sequence[str] | None, batches: Sequence[int] | None, threads: int, seconds: float) -> None:
    for name in engines or ():
        if name not in ENGINES:
            raise FoldError(f"`{name}` is no engine; choose from {', '.join(ENGINES)}")
    for name, number in (*(("batch", batch) for batch in batches or ()), ("threads", threads)):
        if number < 1:
            raise FoldError(f"`{name}` (={number}) must be at least 1")
    if not 0 < seconds < float("inf"):
        raise FoldError(f"`seconds` (={seconds}) must be more than 0 and finite")


def _is_there(engine: Engine) -> bool:
    try:
        return importlib.util.find_spec(engine.package) is not None
    except ValueError:  # its import is blocked
        return False


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _weight_bytes(module: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def _ratio(one: Sequence[float], other: Sequence[float]) -> Spread:
    return Spread.of([mine / theirs for mine, theirs in zip(one, other, strict=True)])


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0][:300] if lines else ""
    return said if isinstance(error, FoldError) else f"{type(error).__name__}: {said}".rstrip(": ")


@contextmanager
def _without_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
