"""Which files are mutated, and by which tests each room has to hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"


@dataclass(frozen=True, slots=True)
class Room:
    """Files of one part of refold, and the files and folders of tests that are about it. Paths are from the root of the repository."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]

    def files(self) -> Iterator[Path]:
        """The files that are mutated."""
        for pattern in self.sources:
            yield from sorted(path for path in SOURCE.glob(pattern) if path.name != "__init__.py")


def _readers(dialect: str, *names: str) -> tuple[str, ...]:
    return tuple(f"refold/dialects/{dialect}/_{name}.py" for name in names)


READERS = ("read", "operators", "products", "layers", "layout", "rearranging", "constants", "parts", "walk")

FAMILIES = tuple(f"tests/families/test_{name}.py" for name in ("layouts", "parts", "near_misses"))
"""What readers make of layouts and parts of channels is tested for both dialects in one place."""

PLANS = tuple(f"tests/test_plan{name}.py" for name in ("", "_costs", "_drawn"))

ROOMS = {
    "geometry": Room(("refold/geometry/*.py",), ("tests/geometry", "src/refold/geometry")),
    "algebra": Room(("refold/algebra/*.py",), ("tests/algebra", "src/refold/algebra")),
    "maps": Room(("refold/maps.py",), ("tests/test_maps.py", "tests/test_rearranged_maps.py", "src/refold/maps.py")),
    "plan": Room(("refold/plan.py", "refold/graph.py"), (*PLANS, "tests/test_graph.py", "src/refold/plan.py")),
    "aten": Room(
        _readers("aten", *READERS, "reading", "functional", "numbers", "sizes"),
        ("tests/dialects/aten", "tests/test_locate.py", *FAMILIES, "src/refold/dialects/aten"),
    ),
    "onnx": Room(
        _readers("onnx", *READERS, "integers", "tensors"),
        ("tests/dialects/onnx", "tests/test_locate_onnx.py", *FAMILIES, "src/refold/dialects/onnx"),
    ),
}


def module_of(path: Path) -> str:
    """The name under which a file of the package is imported."""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)
