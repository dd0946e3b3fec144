"""A model open in ONNX Runtime, in the process of its own."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from refold.runtime import _process

Level = Literal["ORT_DISABLE_ALL", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"]


class OpenSession:
    """An ONNX file that ONNX Runtime has loaded; opened again where the process has died since. `inputs` are the names that it takes.

    Raises `RuntimeDied` where the runtime dies of the model, `RuntimeRefused` where it does not load it.
    """

    def __init__(self, path: Path, *, level: Level) -> None:
        self._request = {"path": str(path.absolute()), "level": level}
        self.inputs: list[str] = []
        self._open()

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs of these names, all where None. Raises as opening does."""
        while True:
            request = {"session": self._number, "names": None if names is None else list(names)}
            try:
                results: list[Any] = _process.ask("run", request, dict(feeds), "running the model", owner=self._owner)[1]
            except _process.ProcessGone:
                self._open()
            else:
                return results

    def _open(self) -> None:
        answer, _, self._owner = _process.ask("open", self._request, None, "loading the model")
        self._number, self.inputs = answer["session"], answer["inputs"]
        weakref.finalize(self, _process.close, self._owner, self._number)


def try_in_openvino(path: Path, feeds: Mapping[str, Any]) -> None:
    """Run a model once in OpenVINO. Raises `RuntimeDied` where that dies of it, `RuntimeRefused` where it refuses."""
    _process.ask("openvino", {"path": str(path.absolute())}, dict(feeds), "running the model in OpenVINO")
