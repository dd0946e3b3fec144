"""PyTorch through `torch.compile`, on the processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from refold.bench._engine import Format, Task
from refold.bench._torch import TorchEngine, TorchRunner


class TorchCompileEngine:
    """`torch.compile` with its defaults, for the sizes at hand."""

    name = "torch-compile"
    takes: Format = "torch"
    package = "torch"
    remedy = TorchEngine.remedy

    @contextmanager
    def session(self, threads: int) -> Iterator[None]:
        """As with PyTorch; what was compiled is dropped afterwards."""
        import torch

        with TorchEngine().session(threads):
            try:
                yield
            finally:
                torch.compiler.reset()

    def prepare(self, task: Task, threads: int) -> TorchRunner:
        """Wrap the module; the first run compiles it."""
        import torch

        TorchEngine().prepare(task, threads)
        return TorchRunner(torch.compile(task.network, dynamic=False), task)
