"""Puts a mutated module in the place of a module of refold, without a change of its file."""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from tests.mutation.mutants import Mutant, mutated_tree
from tests.mutation.rooms import SOURCE


class _Loader(importlib.abc.Loader):
    def __init__(self, tree: ast.Module, path: str) -> None:
        self.tree, self.path = tree, path

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.tree, self.path, "exec"), module.__dict__)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self.name = mutant.module
        self.path = str(SOURCE.joinpath(*mutant.module.split(".")).with_suffix(".py"))
        with open(self.path, encoding="utf-8") as file:
            self.loader = _Loader(mutated_tree(mutant, file.read()), self.path)

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self.loader)


def import_mutated(mutant: Mutant) -> None:
    """Import a mutant as the module that it is one of. Requires that the module was not imported.

    It is imported at once: pytest puts a finder of its own in front of all others, which reads what it is told to collect from the file.
    """
    assert mutant.module not in sys.modules, mutant.module
    sys.meta_path.insert(0, _Finder(mutant))
    importlib.import_module(mutant.module)


def is_in_place(mutant: Mutant) -> bool:
    """Whether the mutant is what stands under its module's name."""
    spec = sys.modules[mutant.module].__spec__
    return spec is not None and isinstance(spec.loader, _Loader)
