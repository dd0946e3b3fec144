"""Mutants that no test can tell from the code, each with the reason."""

from __future__ import annotations

import tomllib
from pathlib import Path

FILE = Path(__file__).with_name("equivalents.toml")

SHARE = 0.1
"""Of those tried, as many at most may be set apart as equivalent."""


def equivalents() -> dict[str, str]:
    """Reasons by the key of the mutant."""
    with FILE.open("rb") as file:
        listed = tomllib.load(file).get("equivalent", [])
    return {one["mutant"]: one["reason"] for one in listed}
