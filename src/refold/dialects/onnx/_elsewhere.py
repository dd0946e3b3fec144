"""What all values of a model are at other sizes of its inputs than those of the example, as shape inference has it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TypeAlias

from onnx import ModelProto

from refold.dialects.onnx._scopes import free_sizes, make_scopes, set_sizes

Examples: TypeAlias = "Mapping[str, tuple[int, ...]]"
"""The shape of each value, by its name in the neutral graph."""

OTHERS = ((17, 2), (24, 1), (33, 3), (48, 2), (80, 1), (160, 2))
"""What free sizes become, and how many items the batch has."""
ENOUGH = 2
"""Sizes of the inputs at which regions that hang on them are run, besides the example's."""


class Elsewhere:
    """The sizes of a model's values where its free inputs have others; worked out when they are first asked for, by one thread for all."""

    def __init__(self, skeleton: ModelProto) -> None:
        self._skeleton = skeleton
        self._found: list[Examples] | None = None
        self._lock = threading.Lock()

    def examples(self) -> list[Examples]:
        """Up to `ENOUGH` of them, those that inference goes through with."""
        with self._lock:
            if self._found is None:
                self._found = self._infer() if any(True for _ in free_sizes(self._skeleton)) else []
            return self._found

    def _infer(self) -> list[Examples]:
        found: list[Examples] = []
        for guess, batch in OTHERS:
            sized = ModelProto()
            sized.CopyFrom(self._skeleton)
            set_sizes(sized, guess, batch)
            top, complaint = make_scopes(sized)
            if complaint is not None:
                continue
            found.append(
                {
                    scope.key(name): typed.example
                    for scope in top.all()
                    for name, typed in scope.types.items()
                    if all(isinstance(size, int) for size in typed.shape)
                }
            )
            if len(found) == ENOUGH:
                break
        return found
