"""Messages between two processes: JSON with its length in front, over pipes."""

from __future__ import annotations

import json
from typing import IO, Any

HEAD = 4


def send(pipe: IO[bytes], message: Any) -> None:
    """Write one message. Raises `OSError` where nobody reads any more."""
    text = json.dumps(message).encode("ascii")
    pipe.write(len(text).to_bytes(HEAD, "little") + text)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any | None:
    """Read one message; None where nobody writes any more."""
    head = _exactly(pipe, HEAD)
    text = None if head is None else _exactly(pipe, int.from_bytes(head, "little"))
    return None if text is None else json.loads(text)


def _exactly(pipe: IO[bytes], count: int) -> bytes | None:
    found = b""
    while len(found) < count:
        more = pipe.read(count - len(found))
        if not more:
            return None
        found += more
    return found
