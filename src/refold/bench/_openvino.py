"""OpenVINO on the processor, in float32, for the least latency."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from refold.bench._engine import Format, LayerTime, Task, slowest_first
from refold.runtime import RuntimeRefused, try_in_openvino


class OpenVinoEngine:
    """OpenVINO, one compiled model a network, its shapes fixed at those of the feeds."""

    name = "openvino"
    takes: Format = "onnx"
    package = "openvino"
    remedy = 'pip install "refold[bench]"'

    @contextmanager
    def session(self, threads: int) -> Iterator[None]:
        """Nothing: a compiled model has its own threads."""
        yield

    def prepare(self, task: Task, threads: int) -> OpenVinoRunner:
        """Compile the model, once it has run in a process of its own: what kills the runtime ends that one."""
        with suppress(RuntimeRefused):  # said again below, in the words of an exception of the runtime's
            try_in_openvino(task.path, task.kwargs)
        return OpenVinoRunner(_request(task, threads, profiled=False), task, threads)


@dataclass(frozen=True, slots=True)
class OpenVinoRunner:
    """An inference request and its feeds."""

    request: Any
    task: Task
    threads: int

    def run(self) -> object:
        """One inference."""
        return self.request.infer(self.task.kwargs, share_inputs=True)

    def layers(self, repeats: int) -> tuple[LayerTime, ...]:
        """From the counters of a model that is compiled with them."""
        request = _request(self.task, self.threads, profiled=True)
        request.infer(self.task.kwargs)
        totals: defaultdict[tuple[str, str], float] = defaultdict(float)
        for _ in range(repeats):
            request.infer(self.task.kwargs)
            for one in request.get_profiling_info():
                if one.real_time.total_seconds() > 0:
                    totals[one.node_name, one.node_type] += one.real_time.total_seconds()
        return slowest_first(totals, repeats)


def _request(task: Task, threads: int, *, profiled: bool) -> Any:
    import openvino

    core = openvino.Core()
    model = core.read_model(task.path)
    if model.is_dynamic():
        model.reshape({name: array.shape for name, array in task.kwargs.items()})
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERF_COUNT": profiled,
    }
    return core.compile_model(model, "CPU", options).create_infer_request()
