"""PyTorch as it is, on the processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from refold.bench._engine import Format, LayerTime, Task
from refold.errors import FoldError


class TorchEngine:
    """PyTorch, eager, in inference mode."""

    name = "torch"
    takes: Format = "torch"
    package = "torch"
    remedy = 'pip install "refold[torch]"'

    @contextmanager
    def session(self, threads: int) -> Iterator[None]:
        """So many threads and no gradients; afterwards as many threads as before."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)

    def prepare(self, task: Task, threads: int) -> TorchRunner:
        """Take the module as it is."""
        devices = {tensor.device for tensor in (*task.network.parameters(), *task.network.buffers())}
        elsewhere = sorted(str(device) for device in devices if device.type != "cpu")
        if elsewhere:
            raise FoldError(f"the bench measures on the processor and this network lies on {', '.join(elsewhere)}; move it with .cpu()")
        return TorchRunner(task.network, task)


@dataclass(frozen=True, slots=True)
class TorchRunner:
    """A callable and what it is called with."""

    call: Any
    task: Task

    def run(self) -> object:
        """One forward."""
        return self.call(*self.task.args, **self.task.kwargs)

    def layers(self, repeats: int) -> tuple[LayerTime, ...]:
        """Nothing: what torch measures are operators, which know no layer."""
        return ()
