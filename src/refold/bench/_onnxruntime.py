"""ONNX Runtime on the processor, with its default optimizations."""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from refold.bench._engine import Format, LayerTime, Task, slowest_first
from refold.runtime import OpenSession, RuntimeRefused

if TYPE_CHECKING:
    import onnxruntime


class OnnxRuntimeEngine:
    """ONNX Runtime, one session a network."""

    name = "onnxruntime"
    takes: Format = "onnx"
    package = "onnxruntime"
    remedy = "pip install onnxruntime"

    @contextmanager
    def session(self, threads: int) -> Iterator[None]:
        """Nothing: a session has its own threads."""
        yield

    def prepare(self, task: Task, threads: int) -> OnnxRuntimeRunner:
        """Open a session, once the model has run in a process of its own: what kills the runtime ends that one."""
        import onnxruntime

        with suppress(RuntimeRefused):  # said again below, in the words of an exception of the runtime's
            OpenSession(task.path, level="ORT_ENABLE_ALL").run(None, task.kwargs)
        session = onnxruntime.InferenceSession(task.path, _options(threads), providers=["CPUExecutionProvider"])
        return OnnxRuntimeRunner(session, task, threads)


@dataclass(frozen=True, slots=True)
class OnnxRuntimeRunner:
    """A session and its feeds."""

    session: onnxruntime.InferenceSession
    task: Task
    threads: int

    def run(self) -> object:
        """One run, for all outputs."""
        return self.session.run(None, self.task.kwargs)

    def layers(self, repeats: int) -> tuple[LayerTime, ...]:
        """From the profile of a session of its own, so that profiling slows no other run."""
        import onnxruntime

        with tempfile.TemporaryDirectory() as folder:
            options = _options(self.threads)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = onnxruntime.InferenceSession(self.task.path, options, providers=["CPUExecutionProvider"])
            for _ in range(repeats + 1):
                session.run(None, self.task.kwargs)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return slowest_first(_totals(events), repeats)


def _options(threads: int) -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised; it need not be logged as well
    return options


def _totals(events: list[dict[str, object]]) -> dict[tuple[str, str], float]:
    """Seconds of each node, without the first run."""
    seen: Counter[str] = Counter()
    totals: defaultdict[tuple[str, str], float] = defaultdict(float)
    for event in events:
        name, arguments = str(event.get("name")), event.get("args")
        if event.get("cat") == "Node" and name.endswith("_kernel_time") and isinstance(arguments, dict):
            seen[name] += 1
            if seen[name] > 1:
                key = name.removesuffix("_kernel_time"), str(arguments.get("op_name"))
                totals[key] += float(str(event["dur"])) / 1e6
    return totals
