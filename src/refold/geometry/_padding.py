"""Paddings under which a layer's output is its input's size over the stride, and the receptive field of a chain of layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, SupportsIndex, TypeAlias

from refold.errors import GeometryError
from refold.geometry._numbers import whole
from refold.geometry._window import Window

Sizes: TypeAlias = SupportsIndex | Sequence[SupportsIndex]
"""One whole number for all axes, or one for each."""

Convention: TypeAlias = Literal["upper", "lower", "torch"]


def get_padding(kernel_size: Sizes, stride: Sizes = 1, dilation: Sizes = 1) -> tuple[int, ...]:
    """The symmetric, centred padding under which a layer's output is `ceil(n / stride)`.

    It holds for every input size `n` where `dilation * (kernel - 1)` is even, and for `n` divisible by the stride where it is odd.
    One padding for each axis; plain numbers mean the two axes of an image.

    With `t = dilation * (kernel - 1)` and padding `p` a layer takes `floor((n - 1 + 2 p - t) / stride) + 1` positions. For even `t` that
    is `ceil(n / stride)` for every `n` where `2 p = t`, and only there. For odd `t` and `n` a multiple of the stride it is `n / stride`
    where `t - stride < 2 p <= t`; `2 p = t - 1` is the solution nearest to the centre and needs a stride of 2 or more.

    Raises:
        GeometryError: no symmetric padding can do it (`t` odd, stride 1), or a size is not a positive whole number.

    >>> get_padding(3, 2)
    (1, 1)
    >>> get_padding((1, 7), dilation=2)
    (0, 6)
    >>> get_padding((5,), stride=2)
    (2,)
    """
    axes = _by_axis(kernel_size=kernel_size, stride=stride, dilation=dilation)
    return tuple(_centred(kernel, step, spread) for kernel, step, spread in axes)


def same_padding(
    size: Sizes, kernel_size: Sizes, stride: Sizes = 1, dilation: Sizes = 1, convention: Convention = "upper"
) -> tuple[tuple[int, int], ...]:
    """The (before, after) padding of each axis under which a layer over `size` items gives `ceil(size / stride)`.

    | convention | who | an odd item goes |
    | --- | --- | --- |
    | `upper` | TensorFlow and Keras `same`, JAX `SAME`, ONNX `SAME_UPPER` | after |
    | `lower` | ONNX `SAME_LOWER`, JAX `SAME_LOWER` | before |
    | `torch` | `padding="same"`, of stride 1 only | after |

    A kernel that is shorter than its stride needs no padding and gets none. Plain numbers mean the two axes of an image.

    Raises:
        GeometryError: an unknown convention, a stride with `torch`, or a size that is not a positive whole number.

    >>> same_padding(224, 3, stride=2)
    ((0, 1), (0, 1))
    >>> same_padding((224,), 3, stride=2, convention="lower")
    ((1, 0),)
    >>> same_padding((7, 8), 4, convention="torch")
    ((1, 2), (1, 2))
    """
    if convention not in ("upper", "lower", "torch"):
        raise GeometryError(f"`convention` (={convention!r}) must be 'upper', 'lower' or 'torch'")
    pairs = []
    for items, kernel, step, spread in _by_axis(size=size, kernel_size=kernel_size, stride=stride, dilation=dilation):
        if convention == "torch" and step != 1:
            raise GeometryError(f"torch's 'same' padding takes stride 1 only, not {step}; use convention 'upper' or 'lower'")
        positions = -(-items // step)
        total = max((positions - 1) * step + spread * (kernel - 1) + 1 - items, 0)
        less, more = total // 2, total - total // 2
        pairs.append((more, less) if convention == "lower" else (less, more))
    return tuple(pairs)


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """What one output of a chain of layers reads of the chain's input (Araujo, Norris and Sim 2019, equations 2 to 4).

    Output `p` reads `size` items at the most, from item `stride * p - before` on; the last one ends where `after` says.
    """

    size: int
    """Items from the first to the last, both counted."""
    stride: int
    """Items that the field moves from one output to the next (effective stride)."""
    before: int
    """Places in front of the input that the first output reads (effective padding)."""
    after: int
    """Places behind the input that are within reach of the last output."""


def receptive_field(windows: Iterable[Window]) -> ReceptiveField:
    """The receptive field of layers that follow one another, the first one first.

    >>> stem = Window(7, stride=2, before=3, after=3)
    >>> pool = Window(3, stride=2, before=1, after=1)
    >>> receptive_field([stem, pool])
    ReceptiveField(size=11, stride=4, before=5, after=5)
    """
    whole_chain = reduce(Window.then, windows, Window(1))
    if whole_chain.upsample > 1:
        raise GeometryError(
            f"a chain that upsamples (by {whole_chain.upsample}) moves by a fraction of an item; "
            "ask for the receptive field of the layers behind the upsampling one"
        )
    return ReceptiveField(whole_chain.span, whole_chain.stride, whole_chain.before, whole_chain.after)


def _centred(kernel: int, stride: int, dilation: int) -> int:
    reach = dilation * (kernel - 1)
    if reach % 2 and stride == 1:
        raise GeometryError(
            f"no symmetric padding keeps the size under kernel {kernel}, dilation {dilation} and stride 1: the {reach} items to add do not "
            "halve; take an odd kernel, or same_padding(), which pads unequally before and after"
        )
    return reach // 2


def _by_axis(**sizes: Sizes) -> list[tuple[int, ...]]:
    """The positive whole numbers of every axis, plain numbers repeated; two axes where all are plain."""
    lengths = {name: len(value) for name, value in sizes.items() if isinstance(value, Sequence)}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        given = ", ".join(f"`{name}` has {length}" for name, length in lengths.items())
        raise GeometryError(f"one value for each axis is needed, but {given}; give tuples of one length, or plain numbers")
    axes = next(iter(lengths.values()), 2)
    columns = [
        [whole(name, item, at_least=1) for item in (value if isinstance(value, Sequence) else (value,) * axes)]
        for name, value in sizes.items()
    ]
    return list(zip(*columns, strict=True))
