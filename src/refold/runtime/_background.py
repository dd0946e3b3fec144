"""One piece of work beside what its caller does, in a thread that keeps no process from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Starts the work; `result()` waits for it, and raises what it raised.

    >>> Background(lambda: 1 + 1).result()
    2
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def result(self) -> T:
        """What the work gave."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _run(self, work: Callable[[], T]) -> None:
        try:
            self._results.append(work())
        except BaseException as error:  # raised where the result is asked for
            self._error = error
