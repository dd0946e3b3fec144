"""Models as a command line names them: a file, a factory or a timm name."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from refold.errors import FoldError
from refold.models._weights import ENDINGS, load_weights
from refold.models._words import existing_file, kind_of, near, one_line, torch_or_error
from refold.verification import SEED

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMS = "file.onnx, file.pt2, package.module:factory or timm:name"


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model that was read.

    `model` is a `torch.nn.Module`, a `torch.export.ExportedProgram`, or the path of an ONNX file; `example_inputs` are those that came
    with it, None where none did; `notes` say what a person should know of the reading.
    """

    name: str
    model: Any
    example_inputs: Any = None
    notes: tuple[str, ...] = ()

    @property
    def is_onnx(self) -> bool:
        """Whether it is the path of an ONNX file."""
        return isinstance(self.model, Path)


def read_model(name: str, weights: Path | None = None) -> NamedModel:
    """Read a model by its name: `file.onnx`, `file.pt2`, `package.module:factory` or `timm:name`; `weights` fill the last two.

    A factory is a module of PyTorch, its class, or a function without arguments that returns a module or a pair of a module and its
    example inputs. The current folder is importable. No code is run from a file of weights or from a `.pt2`.

    Raises `FoldError` where there is no such model, it cannot be read, or the weights do not fit it.
    """
    ending = Path(name).suffix.lower()
    if ending in (".onnx", ".pt2"):
        if weights is not None:
            raise FoldError(f"{name} carries its own weights; leave out --weights, or name the network as package.module:factory")
        path = existing_file(name)
        return NamedModel(name, path) if ending == ".onnx" else _read_program(path)
    head, colon, tail = name.partition(":")
    if not colon:
        raise _not_a_model(name, ending)
    if weights is not None:
        existing_file(weights)
        if weights.suffix.lower() not in ENDINGS:
            raise FoldError(f"weights are read from {', '.join(ENDINGS)}, not from {weights.name}; save model.state_dict()")
    torch_or_error()
    named = _read_timm(tail, random=weights is None) if head == "timm" else _read_factory(head, tail)
    if weights is not None:
        load_weights(named.model, weights, name)
    return named


def pair_up(original: NamedModel, other: NamedModel) -> tuple[NamedModel, NamedModel]:
    """Two models as `refold.verify` takes them: inputs that came with one serve both, and an ONNX file can stand beside a PyTorch model.

    Raises `FoldError` where the first is an ONNX file and the second is not.
    """
    if original.is_onnx and not other.is_onnx:
        raise FoldError(f"{original.name} is an ONNX file and {other.name} is not; name the PyTorch model first")
    if other.is_onnx and not original.is_onnx:
        other = replace(other, model=_as_module(other.model))
    if original.example_inputs is None:
        original = replace(original, example_inputs=other.example_inputs)
    return original, other


def _as_module(path: Path) -> nn.Module:
    """An ONNX file that runs in ONNX Runtime as if it were a module."""
    torch = torch_or_error()
    from refold.runtime import OpenSession, RuntimeRefused

    try:
        session = OpenSession(path, level="ORT_ENABLE_ALL")
    except RuntimeRefused as error:
        raise FoldError(f"{path} cannot be run by ONNX Runtime: {one_line(error)}; export it anew") from error
    names = session.inputs

    class InOnnxRuntime(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
            flat = torch.utils._pytree.tree_leaves((args, kwargs))
            if len(flat) != len(names):
                raise ValueError(f"{path.name} takes {len(names)} inputs ({', '.join(names)}), not {len(flat)}")
            feed = {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, flat, strict=True)}
            return tuple(torch.from_numpy(array) for array in session.run(None, feed))

    module: nn.Module = InOnnxRuntime()
    return module


def _read_program(path: Path) -> NamedModel:
    torch = torch_or_error()
    try:
        with _forced_weights_only(), _silent("torch.export"):
            program = torch.export.load(path)
    except Exception as error:
        raise FoldError(f"{path} cannot be read as an exported program: {one_line(error)}; write it anew with torch.export.save") from error
    args, kwargs = program.example_inputs or ((), {})
    return NamedModel(str(path), program, None if args and kwargs else dict(kwargs) or tuple(args) or None)


def _read_timm(architecture: str, *, random: bool) -> NamedModel:
    torch, timm = torch_or_error(), _timm()
    name = f"timm:{architecture}"
    if not timm.is_model(architecture):
        remedy = near(architecture, timm.list_models()) or "timm.list_models() lists them"
        raise FoldError(f"timm {timm.__version__} has no model `{architecture}`; {remedy}")
    try:
        with _seeded():
            model = timm.create_model(architecture, pretrained=False)
    except Exception as error:
        raise FoldError(f"timm cannot build `{architecture}`: {one_line(error)}; name another model or another version of timm") from error
    size = (getattr(model, "default_cfg", None) or {}).get("input_size")
    example = None if size is None else (torch.randn(1, *size, generator=torch.Generator().manual_seed(SEED)),)
    notes = (f"{name} has random weights; give the trained ones with --weights FILE",) if random else ()
    return NamedModel(name, model, example, notes)


def _read_factory(module_name: str, attribute: str) -> NamedModel:
    torch = torch_or_error()
    name = f"{module_name}:{attribute}"
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        dotted = module_name.removesuffix(".py").strip("./").replace("/", ".").replace(os.sep, ".")
        example = f"{dotted or 'package.module'}:{attribute or 'factory'}"
        raise FoldError(f"`{name}` does not name a factory; write its module with dots and then the factory, as in {example}")
    module = _import(module_name)
    factory: Any = module
    for part in attribute.split("."):
        if not hasattr(factory, part):
            remedy = near(part, [one for one in vars(factory) if not one.startswith("_")]) or "name a function of it that returns a module"
            raise FoldError(f"{module_name} has no `{attribute}`; {remedy}")
        factory = getattr(factory, part)
    if isinstance(factory, torch.nn.Module):
        return NamedModel(name, factory)
    if not callable(factory):
        raise FoldError(f"{name} is a {type(factory).__name__}, neither a torch.nn.Module nor a function that returns one; name another")
    try:
        with _seeded():
            made = factory()
    except (Exception, SystemExit) as error:
        raise FoldError(
            f"the factory {name} raised {one_line(error)}{_where(error)}; it is called without arguments and returns a torch.nn.Module"
        ) from error
    match made:
        case torch.nn.Module():
            return NamedModel(name, made)
        case (torch.nn.Module() as model, example):
            inputs = example if isinstance(example, (tuple, list, Mapping)) else (example,)
            return NamedModel(name, model, tuple(inputs) if isinstance(inputs, list) else inputs)
    raise FoldError(f"the factory {name} returned {kind_of(made)}, not a torch.nn.Module; let it return the network, or (network, inputs)")


def _not_a_model(name: str, ending: str) -> FoldError:
    if ending in ENDINGS:
        return FoldError(f"{name} holds weights alone; name the network too, as in: package.module:factory --weights {name}")
    if ending == ".py":
        return FoldError(f"{name} is a file of code; name the factory in it, as in {Path(name).stem}:factory")
    return FoldError(f"`{name}` is not the name of a model; write {FORMS}")


def _import(name: str) -> ModuleType:
    """Import a module of the user's, the current folder first, as `python -m` does."""
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        with _seeded():
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent and f"{name}.".startswith(f"{absent}."):
            suggested = near(absent.rpartition(".")[2], _modules_beside(absent))
            remedy = suggested or f"install it, or run refold in the folder that holds it (now {folder})"
            raise FoldError(f"there is no module `{absent}`; {remedy}") from error
        raise FoldError(f"importing {name} raised {one_line(error)}{_where(error)}; it must import without error") from error


def _modules_beside(name: str) -> list[str]:
    parent = sys.modules.get(name.rpartition(".")[0])
    folders = getattr(parent, "__path__", [os.getcwd()])
    return [path.stem for folder in folders for path in Path(folder).glob("*") if path.suffix == ".py" or (path / "__init__.py").exists()]


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise FoldError(f"timm cannot be imported: {one_line(error)}; mend its installation") from error
        raise FoldError("timm is not installed; install it: pip install timm") from error
    except Exception as error:
        raise FoldError(f"timm cannot be imported: {one_line(error)}; mend its installation") from error


def _where(error: BaseException) -> str:
    """The innermost line of the user's own code that an error passed."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename != __file__ and "importlib" not in one.filename]
    own = [one for one in frames if "site-packages" not in one.filename] or frames
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


@contextmanager
def _seeded() -> Iterator[None]:
    """Within the block random weights are the same in every run, so that two commands speak of one network."""
    torch = torch_or_error()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        yield


@contextmanager
def _forced_weights_only() -> Iterator[None]:
    """Within the block `torch.load` unpickles nothing but tensors, even where `torch.export.load` would fall back to a full pickle."""
    switch = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(switch)
    os.environ[switch] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[switch]
        else:
            os.environ[switch] = before


@contextmanager
def _silent(logger_name: str) -> Iterator[None]:
    logger = logging.getLogger(logger_name)
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before
