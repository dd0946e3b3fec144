"""What a dialect gives of a network that ran once: its values in order, what made each, and what they become with operators read otherwise.

The words for kinds of operators and for their options are the same in every dialect, so that two networks can be held against each other
that are written in different ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"

PLAIN_EPS = 1e-5
"""What a batch norm adds to the variance where nobody says otherwise."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One value: the operator that makes it and the folder of the model that it stands in, the values it reads, its numbers in float64.

    `operation` is the operator in the dialect's own word and `kind` in the common one, with these `options`:

    | kind | what it is | options |
    | --- | --- | --- |
    | `input` | an input of the network | |
    | `convolution` | of 1, 2 or 3 axes | `stride`, `dilation`: a number an axis; `padding`: (before, after) an axis; `groups`; `bias` |
    | `transposed_convolution`, `linear` | | `bias` |
    | `batch_norm` | in eval | `eps`, `weight`, `bias` |
    | `pad` | a padding | `mode`: `constant`, or how else the input is continued |
    | `scale` | a product or a quotient with a constant | `constant`: its name and size; `kept`: the value that is read beside it |
    | `shift` | a sum or a difference with a constant | the same |
    | `add` | a sum or a difference of values | |

    `weight` and `bias` say whether there is one. Of anything else the kind is the operator's name in small letters.
    """

    name: str
    operation: str
    kind: str
    folder: str
    reads: tuple[str, ...]
    value: Array
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} in `{self.folder}`" if self.folder else self.name


Change: TypeAlias = "str | Mapping[str, Any]"
"""What becomes of a step: the value of this name stands in its place, or it has other options than its own.

A `weight` or `bias` of None is left out, `training` takes the statistics of the batch.
"""


class Walk(Protocol):
    """A network that ran once, in float64."""

    @property
    def inputs(self) -> Mapping[str, Array]:
        """What it ran on, in order and in the dtypes that it takes."""

    @property
    def steps(self) -> Mapping[str, Step]:
        """Its floating point values in order, those that hang on no input left out."""

    @property
    def outputs(self) -> Sequence[str]:
        """The names of those that it gives."""

    def slack(self, name: str) -> float:
        """How far the network is off at a value in its own dtype, one rounding of the value's scale granted."""

    def weights(self, name: str) -> Iterable[Array]:
        """The kernels and matrices that an operator reads, as they are stored."""

    def again(self, region: Collection[str], changes: Mapping[str, Change]) -> dict[str, Array]:
        """The values of a region that come out otherwise with these changes; those are left out that can then not be worked out."""


def own_error(value: Array, own: Array, eps: float) -> float:
    """The largest distance of a network's own numbers from the float64 ones, half an `eps` of the value's scale granted."""
    finite = np.isfinite(value) & np.isfinite(own)
    apart = np.abs(own.astype(np.float64) - value)[finite].max(initial=0.0)
    return float(apart) + eps / 2 * float(np.abs(value)[finite].max(initial=0.0))


def told_of_constant(name: str, shape: Sequence[int], number: float) -> str:
    """A constant for a person: `gamma` (=0.5), or its shape where it holds several numbers.

    >>> told_of_constant("gamma", (8, 1, 1), 0.5)
    '`gamma` (=8 x 1 x 1 numbers)'
    """
    size = f"{number:.3g}" if int(np.prod(shape)) == 1 else f"{' x '.join(map(str, shape))} numbers"
    return f"`{name}` (={size})"
