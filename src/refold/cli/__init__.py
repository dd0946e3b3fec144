"""The command line, a thin skin over the verbs: `fold`, `check`, `explain`, `verify`, `attest`, `bench`, `padding`, `segments`."""

from refold.cli import _attest, _bench, _folding, _geometry, _verify  # noqa: F401  (each adds its commands)
from refold.cli._program import main

__all__ = ["main"]
