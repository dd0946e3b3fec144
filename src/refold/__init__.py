"""Train wide, ship narrow: fold every linear stretch of a trained network into the fewest convolutions, and prove it.

The verbs
    fold        a model in, a `FoldResult` out: the folded model, what was folded and refused, the proof
    check       what would still fold; empty means ready to ship
    verify      whether two models compute the same function, as a `Certificate`

The rooms
    geometry    integer arithmetic of sliding windows: `get_padding`, output sizes, receptive fields
    nn          blocks to train with, each of which folds into one convolution (needs torch)

The errors are RefoldError, and under it GeometryError, AlgebraError, FoldError and VerificationError
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from refold import geometry
from refold.errors import AlgebraError, FoldError, GeometryError, RefoldError, VerificationError

if TYPE_CHECKING:
    from refold import nn
    from refold.folding import FoldResult, check, fold, verify

__all__ = [
    "AlgebraError",
    "FoldError",
    "FoldResult",
    "GeometryError",
    "RefoldError",
    "VerificationError",
    "__version__",
    "check",
    "fold",
    "geometry",
    "nn",
    "verify",
]
__version__ = "0.1.0"


if not TYPE_CHECKING:  # a type checker that saw this would take every misspelt name for a lazy one

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'refold' has no attribute {name!r}")
        try:
            value = _import_module("refold.nn") if name == "nn" else getattr(_import_module("refold.folding"), name)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ImportError(f'`refold.{name}` needs PyTorch; install it: pip install "refold[torch]"', name="torch") from error
        return globals().setdefault(name, value)


def __dir__() -> list[str]:
    return sorted(__all__)
