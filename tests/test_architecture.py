"""Arrows only run down: what each room of the package may import, read from the source with `ast`."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import refold

SOURCE = Path(refold.__file__).parent

# Lowest first. A room is a module or a package at the top of `refold`; each file or package under `dialects` is a room of its own.
FLOORS = (
    {"errors"},
    {"files", "geometry", "runtime"},
    {"algebra", "ordering"},
    {"census", "verification"},
    {"maps", "walk"},
    {"graph"},
    {"plan", "trials"},
    {"dialects.*"},
    {"certificates", "datasets", "drawing", "models", "report"},  # files, and what is said of a fold, for the verbs
    {"attestation", "page", "saving"},
    {"agreement", "bench", "expand", "folding", "locate"},
    {"quantization", "recheck"},  # what takes several verbs
    {"terminal"},
    {"cli"},
    {"__main__"},
)
VERBS = 8  # from this floor upwards torch may be imported, inside functions
# What a room that stands beside the floors may import of refold.
BESIDE = {"nn": {"errors", "geometry", "algebra"}, "interop": {"errors", "nn"}}

# What lies outside the package and the standard library.
ARRAYS = {"array_api_compat", "ml_dtypes", "numpy"}
ONNX = {"onnx", "onnx_ir", "onnxruntime", "onnxscript"}
TORCH = {"torch"}
OUTSIDE: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "geometry": set(),
    "runtime": {"ml_dtypes", "numpy", "onnxruntime", "openvino"},
    "algebra": ARRAYS,
    "census": set(),
    "ordering": {"numpy"},
    "verification": ARRAYS,
    "maps": set(),
    "graph": set(),
    "walk": ARRAYS,
    "plan": ARRAYS,
    "trials": set(),
    "dialects": ARRAYS,
    "dialects.aten": ARRAYS | TORCH | {"safetensors"},
    "dialects.onnx": ARRAYS | ONNX | {"google"},
    "nn": TORCH,
    "interop": {"numpy"} | TORCH,
}


@dataclass(frozen=True)
class Import:
    """One import: of which module, on which line, and whether it waits until a function runs or a type checker reads it."""

    module: str
    line: int
    lazy: bool
    typing_only: bool


def imports_of(source: str, known: set[str]) -> Iterator[Import]:
    """Every import of a file, `importlib.import_module("...")` included; `known` tells the modules of the package from their contents."""

    def walk(node: ast.AST, lazy: bool, typing_only: bool) -> Iterator[Import]:
        match node:
            case ast.Import():
                for alias in node.names:
                    yield Import(alias.name, node.lineno, lazy, typing_only)
            case ast.ImportFrom():
                if node.level:
                    yield Import("." * node.level + (node.module or ""), node.lineno, lazy, typing_only)
                    return
                for alias in node.names:
                    longer = f"{node.module}.{alias.name}"
                    names_a_room = longer in known or node.module in ("refold", "array_api_compat")
                    yield Import(longer if names_a_room else f"{node.module}", node.lineno, lazy, typing_only)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=str(module)), *_]) if name in (
                "import_module",
                "_import_module",
                "__import__",
            ):
                yield Import(module, node.lineno, lazy, typing_only)
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                for statement in node.body:
                    yield from walk(statement, lazy, True)
                for statement in node.orelse:
                    yield from walk(statement, lazy, typing_only)
            case _:
                inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                for child in ast.iter_child_nodes(node):
                    yield from walk(child, inside, typing_only)

    yield from walk(ast.parse(source), False, False)


def room_of(module: str) -> str:
    """The room a module lies in.

    >>> room_of("refold.algebra.laws"), room_of("refold.dialects.aten_reader"), room_of("refold.dialects.aten.read")
    ('algebra', 'dialects.aten', 'dialects.aten')
    """
    _, *parts = module.split(".")
    if parts[0] == "dialects" and len(parts) > 1:
        return f"dialects.{parts[1].lstrip('_').split('_')[0]}"
    return parts[0]


def floor_of(room: str) -> int | None:
    """The floor of a room, counted from 0, or None for a room that has none."""
    name = "dialects.*" if room.startswith("dialects") else room
    return next((height for height, rooms in enumerate(FLOORS) if name in rooms), None)


def complaint_about(room: str, arrow: Import) -> str | None:
    """Why this room may not import that, or None where it may."""
    top = arrow.module.partition(".")[0]
    height = floor_of(room)
    if arrow.module.startswith("."):
        return "imports are absolute"
    if top == "refold":
        if arrow.module == "refold.__version__":
            return None
        target = room_of(arrow.module) if "." in arrow.module else ""
        if target == room or target in BESIDE.get(room, ()):
            return None
        if target in BESIDE:
            if height is None or height < VERBS:
                return "only the verbs and the command line may know the blocks"
        elif (below := floor_of(target)) is None:
            return "a room of the package imports another room, not the front of the house"
        elif room in BESIDE:
            return f"beside the floors stands {room}, which may import {sorted(BESIDE[room])} only"
        elif height is not None and below >= height:
            return f"floor {height} may only import from below, and {target} is on floor {below}"
        if target in ("nn", "interop", "dialects.aten") and not (arrow.lazy or arrow.typing_only):
            return "this loads torch; import it inside the function that needs it"
        return None
    if top in sys.stdlib_module_names:
        return None
    if top == "torch" or arrow.module == "array_api_compat.torch":
        if "torch" in OUTSIDE.get(room, ()):
            return None
        if height is None or height < VERBS:
            return "torch is for dialects.aten, nn and the verbs"
        return None if arrow.lazy or arrow.typing_only else "torch is imported inside the function that needs it"
    if room in OUTSIDE and top not in OUTSIDE[room]:
        return f"outside the package {room} may know {sorted(OUTSIDE[room]) or 'the standard library'} only"
    return None


def violations(modules: Mapping[str, str]) -> list[str]:
    """Every arrow that does not run down, of a package given as source by dotted module name."""
    found = []
    known = set(modules)
    for module, source in modules.items():
        if module == "refold":
            rooms = {"errors", "geometry"}
            for arrow in imports_of(source, known):
                outside = arrow.module.partition(".")[0] not in (sys.stdlib_module_names | {"refold"})
                upstairs = arrow.module.startswith("refold.") and room_of(arrow.module) not in rooms
                if (outside or upstairs) and not (arrow.lazy or arrow.typing_only):
                    found.append(f"refold:{arrow.line} imports {arrow.module}: the front of the house loads {sorted(rooms)} only")
            continue
        room = room_of(module)
        if floor_of(room) is None and room not in BESIDE:
            found.append(f"{module}: {room} has no floor; give it one in FLOORS")
            continue
        for arrow in imports_of(source, known):
            if complaint := complaint_about(room, arrow):
                found.append(f"{module}:{arrow.line} imports {arrow.module}: {complaint}")
    return found


def package_source() -> dict[str, str]:
    """The source of every module of the package."""
    modules = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = path.read_text(encoding="utf-8")
    return modules


def run(code: str) -> str:
    """What a fresh interpreter prints for this code."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_arrows_only_run_down() -> None:
    assert violations(package_source()) == []


@pytest.mark.parametrize(
    ("module", "line", "says"),
    [
        ("refold.errors", "from refold.geometry import Window", "refold.geometry: floor 0 may only import from below"),
        ("refold.geometry", "import numpy", "the standard library only"),
        ("refold.algebra._laws", "from refold.graph import Graph", "floor 2 may only import from below"),
        ("refold.algebra", "def f():\n    import torch", "torch is for dialects.aten, nn and the verbs"),
        ("refold.algebra", "from array_api_compat import torch", "torch is for dialects.aten, nn and the verbs"),
        ("refold.algebra", "import scipy", "may know ['array_api_compat', 'ml_dtypes', 'numpy'] only"),
        ("refold.graph", "if TYPE_CHECKING:\n    from refold.plan import Plan", "floor 5 may only import from below"),
        ("refold.plan", "from refold import dialects", "floor 6 may only import from below"),
        ("refold.plan", "import onnx_ir as ir", "outside the package plan may know"),
        ("refold.dialects.aten", "from refold.dialects import onnx", "dialects.onnx is on floor 7"),
        ("refold.dialects.aten_reader", "from refold.dialects.onnx import read", "dialects.onnx is on floor 7"),
        ("refold.dialects.onnx", "import torch", "torch is for dialects.aten"),
        ("refold.dialects.aten", "import onnx", "outside the package dialects.aten may know"),
        ("refold.folding", "import torch", "inside the function"),
        ("refold.folding", "try:\n    import torch.export\nexcept ImportError:\n    pass", "inside the function"),
        ("refold.folding", "from refold.dialects import aten", "this loads torch"),
        ("refold.folding", "from refold.expand import expand", "floor 10 may only import from below"),
        ("refold.models", "def f():\n    import_module('refold.folding')", "floor 8 may only import from below"),
        ("refold.report.html", "from refold import fold", "not the front of the house"),
        ("refold.report.html", "import refold", "not the front of the house"),
        ("refold.report.html", "from . import tables", "imports are absolute"),
        ("refold.plan", "from refold.nn import RepVggBlock", "only the verbs and the command line"),
        ("refold.nn._repvgg", "from refold.graph import Graph", "beside the floors stands nn"),
        ("refold.nn._repvgg", "import numpy", "outside the package nn may know ['torch'] only"),
        ("refold.nn._repvgg", "from refold.interop import paddle", "only the verbs and the command line"),
        ("refold.interop.paddle", "from refold.algebra import AffineConv", "beside the floors stands interop"),
        ("refold.interop.paddle", "import paddle", "outside the package interop may know ['numpy', 'torch'] only"),
        ("refold.cli", "from refold.interop import paddle", "this loads torch"),
        ("refold.utils", "", "utils has no floor"),
        ("refold", "import numpy", "the front of the house"),
        ("refold", "from refold.folding import fold", "the front of the house"),
    ],
)
def test_an_arrow_that_runs_up_is_found(module: str, line: str, says: str) -> None:
    package = dict.fromkeys(("refold", "refold.dialects.aten", "refold.dialects.onnx"), "")
    (found,) = violations(package | {module: line})
    assert found.startswith(module)
    assert says in found


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("refold.geometry", "import math\nfrom refold.errors import GeometryError"),
        ("refold.algebra._laws", "from refold.algebra._affine import AffineConv\nfrom array_api_compat import array_namespace"),
        ("refold.dialects.aten_reader", "from refold.dialects.aten_table import TABLE\nimport torch"),
        ("refold.folding", "def f():\n    import torch\n    from refold.dialects import aten"),
        ("refold.folding", "from refold import __version__, geometry\nfrom refold.files import write"),
        ("refold.folding", "if TYPE_CHECKING:\n    import torch"),
        ("refold.nn._repvgg", "import torch\nfrom refold import algebra\nfrom refold.nn._base import Block"),
        ("refold.interop.paddle", "import numpy\nimport torch\nfrom refold.errors import FoldError\nfrom refold.nn import RepVggBlock"),
        ("refold.cli", "import click\nfrom refold import folding\ndef f():\n    from refold import nn"),
        ("refold", "if TYPE_CHECKING:\n    from refold import nn\ndef f():\n    return import_module('refold.folding')"),
    ],
)
def test_an_arrow_that_runs_down_passes(module: str, line: str) -> None:
    package = dict.fromkeys(("refold", "refold.algebra", "refold.dialects.aten", "refold.nn"), "")
    assert violations(package | {module: line}) == []


def test_the_front_of_the_house_is_short() -> None:
    assert len((SOURCE / "__init__.py").read_text(encoding="utf-8").splitlines()) < 60


def test_importing_refold_loads_no_framework() -> None:
    loaded = run("import sys, refold; dir(refold); refold.geometry; print(*{name.partition('.')[0] for name in sys.modules})").split()
    assert "refold" in loaded
    assert not (TORCH | ONNX) & set(loaded)


def test_importing_refold_takes_under_three_tenths_of_a_second() -> None:
    code = "import time; start = time.perf_counter(); import refold; print(time.perf_counter() - start)"
    assert min(float(run(code)) for _ in range(5)) < 0.3
