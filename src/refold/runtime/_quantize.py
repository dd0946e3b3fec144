"""ONNX Runtime's static quantization, in the process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refold.runtime._process import ask


def quantize(model: Path, target: Path, feeds: Sequence[Mapping[str, Any]]) -> None:
    """Write a model in int8: signed, one scale an output channel, ranges of activations those of the feeds.

    Raises `RuntimeDied` where the runtime dies of it, `RuntimeRefused` where it refuses.
    """
    ask("quantize", {"path": str(model.absolute()), "target": str(target.absolute())}, [dict(one) for one in feeds], "quantizing the model")
