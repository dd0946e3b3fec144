"""Small networks whose path hangs on the sizes of their inputs, each with an example and other sizes for every axis.

Each holds something that folds. Weights and running statistics are drawn from the seed of the network, so that two makings are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from tests.sizes import forwards

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = tuple[Shape, ...]
Place: TypeAlias = tuple[int, int]
"""Which input, and which axis of it."""


class Net(nn.Module):
    """A module whose forward is a function of itself and the inputs."""

    def __init__(self, function: Callable[..., Any], **members: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, member in members.items():
            if isinstance(member, Tensor) and not isinstance(member, nn.Parameter):
                self.register_buffer(name, member)
            else:
                setattr(self, name, member)

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


@dataclass(frozen=True)
class Sized:
    """A network, the sizes of its example, and the sizes that it is tried at: each axis alone, and those that go `together`."""

    name: str
    factory: Callable[[], nn.Module]
    example: Shapes
    together: tuple[tuple[Place, ...], ...] = ()
    tokens: dict[int, int] | None = None
    """Inputs that hold integers, with the first integer that they do not reach."""
    lengths: tuple[int, ...] = ()
    """Inputs that hold lengths along axis 1 of the first input."""
    more: tuple[int, ...] = ()

    def make(self) -> nn.Module:
        """The network in eval, its statistics drawn at random."""
        torch.manual_seed(sum(map(ord, self.name)))
        model = self.factory().eval()
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.running_mean = torch.randn(module.num_features) * 0.3
                module.running_var = torch.rand(module.num_features) + 0.5
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
        return model

    def inputs(self, shapes: Shapes | None = None, seed: int = 0) -> tuple[Tensor, ...]:
        """Inputs of the example's sizes, or of others."""
        random = torch.Generator().manual_seed(seed)
        made: list[Tensor] = []
        for position, shape in enumerate(self.example if shapes is None else shapes):
            if position in self.lengths:
                longest = max(1, made[0].shape[1])
                made.append(torch.randint(1, longest + 1, shape, generator=random))
            elif self.tokens is not None and position in self.tokens:
                made.append(torch.randint(0, self.tokens[position], shape, generator=random))
            else:
                made.append(torch.randn(shape, generator=random))
        return tuple(made)

    def others(self) -> Iterator[Shapes]:
        """Other sizes: at least eight for each axis of each input."""
        places = [((one, axis),) for one, shape in enumerate(self.example) for axis in range(len(shape))]
        seen = {self.example}
        for group in (*self.together, *places):
            size = self.example[group[0][0]][group[0][1]]
            for other in self._sizes(size, batch=all(axis == 0 for _, axis in group)):
                shapes = self._at(group, other)
                if shapes not in seen:
                    seen.add(shapes)
                    yield shapes

    def _at(self, group: tuple[Place, ...], size: int) -> Shapes:
        return tuple(
            tuple(size if (one, axis) in group else own for axis, own in enumerate(shape)) for one, shape in enumerate(self.example)
        )

    def _sizes(self, size: int, *, batch: bool) -> list[int]:
        if batch:
            return [0, 1, 2, 3, 4, 5, 6, 8, 9]
        near = (1, 2, 3, 5, size - 1, size + 1, size + 2, size // 2, size + size // 2, 2 * size, size + 4, size + 8, *self.more)
        return sorted({one for one in near if one > 0})


def norm(inputs: int = 3, outputs: int = 6, kernel_size: int = 3, **options: Any) -> nn.Sequential:
    """A convolution and its batch norm."""
    options = {"padding": kernel_size // 2, "bias": False, **options}
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel_size, **options), nn.BatchNorm2d(outputs))


def norm1d(inputs: int = 4, outputs: int = 6, kernel_size: int = 3, **options: Any) -> nn.Sequential:
    """The same of sequences."""
    options = {"padding": kernel_size // 2, "bias": False, **options}
    return nn.Sequential(nn.Conv1d(inputs, outputs, kernel_size, **options), nn.BatchNorm1d(outputs))


def linear(inputs: int = 8, outputs: int = 6) -> nn.Sequential:
    """Two linear layers with nothing between them."""
    return nn.Sequential(nn.Linear(inputs, 7), nn.Linear(7, outputs))


def _token_positions(size: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(1, size, width))


HW = (((0, 2), (0, 3)),)
"""Height and width of the first input, the same."""
IMAGE = ((2, 3, 16, 16),)

MODELS: tuple[Sized, ...] = (
    # Loops over a size.
    Sized("steps by a loop", lambda: Net(forwards.steps, a=linear()), ((2, 5, 8),)),
    Sized("a recurrent cell by a loop", lambda: Net(forwards.recurrent, a=linear(), b=linear(6, 6)), ((2, 5, 8),)),
    Sized("a sum over unbind", lambda: Net(forwards.unbind, a=linear()), ((2, 5, 8),)),
    Sized("frames by a loop", lambda: Net(forwards.steps, a=norm()), ((2, 4, 3, 6, 6),)),
    Sized("rows by a loop, channels last", lambda: Net(forwards.channels_last_loop, a=linear(4, 6)), ((2, 5, 7, 4),)),
    Sized("rows of two axes by a loop", lambda: Net(forwards.rows_by_loop, a=linear()), ((4, 8),)),
    Sized("the batch by a loop", lambda: Net(forwards.batch_loop, a=norm()), ((3, 3, 8, 8),)),
    Sized("as many levels as fit", lambda: Net(forwards.levels, a=norm(), b=norm(6, 6)), IMAGE, HW),
    Sized("chunks by size", lambda: Net(forwards.chunks, a=norm()), ((2, 3, 16, 8),)),
    Sized("splits of four", lambda: Net(forwards.splits, a=linear()), ((2, 12, 8),)),
    # Branches on a size.
    Sized("positions where they fit", lambda: Net(forwards.position_if_it_fits, a=linear(), position=torch.randn(10, 6)), ((2, 10, 8),)),
    Sized("positions resized", lambda: Net(forwards.position_resized, a=norm(), position=torch.randn(1, 6, 8, 8)), ((2, 3, 8, 8),), HW),
    Sized(
        "positions resized, example other", lambda: Net(forwards.position_resized, a=norm(), position=torch.randn(1, 6, 8, 8)), IMAGE, HW
    ),
    Sized(
        "positions resized, one axis", lambda: Net(forwards.position_1d_resized, a=norm1d(), position=torch.randn(1, 6, 10)), ((2, 4, 10),)
    ),
    Sized("a branch on length", lambda: Net(forwards.length_branch, a=norm1d()), ((2, 4, 16),), more=(11, 12, 13)),
    Sized("a branch on odd length", lambda: Net(forwards.odd_branch, a=norm1d()), ((2, 4, 16),), more=(7, 9)),
    Sized("a branch on square maps", lambda: Net(forwards.square_branch, a=norm()), IMAGE, HW),
    Sized("a branch on one other size", lambda: Net(forwards.unlike_branch, a=norm()), IMAGE, HW, more=(20,)),
    Sized("a branch on wide maps", lambda: Net(forwards.wide_branch, a=norm()), ((2, 3, 16, 12),), HW),
    Sized("a branch on one channel", lambda: Net(forwards.channel_branch, a=norm()), ((2, 1, 8, 8),)),
    Sized("a branch on the batch", lambda: Net(forwards.batch_branch, a=norm()), ((2, 3, 8, 8),), HW),
    Sized("a branch on the batch, example of one", lambda: Net(forwards.batch_branch, a=norm()), ((1, 3, 8, 8),), HW),
    Sized("a branch on rows of two axes", lambda: Net(forwards.two_dimensions, a=linear()), ((5, 8),)),
    Sized(
        "a branch on the channels-last height",
        lambda: Net(forwards.channels_last, a=norm(4, 6), position=torch.randn(8, 8, 6)),
        ((2, 8, 8, 4),),
    ),
    Sized("a vector", lambda: Net(forwards.vector, a=norm1d(1, 3)), ((10,),)),
    Sized("tokens cut to six", lambda: Net(forwards.steps_as_channels, table=nn.Embedding(20, 8), a=linear()), ((2, 6),), tokens={0: 20}),
    Sized("a squeeze", lambda: Net(forwards.squeezed, a=norm1d()), ((2, 4, 10),)),
    # Sizes that must be multiples.
    Sized("sizes asserted to be multiples", lambda: Net(forwards.asserts, a=norm()), IMAGE, HW, more=(20, 24)),
    Sized("U-net", lambda: Net(forwards.unet, a=norm(), b=norm(6, 6), c=norm(12, 4)), IMAGE, HW),
    Sized("U-net, padded to fit", lambda: Net(forwards.unet_padded, a=norm(), b=norm(6, 6), c=norm(12, 4)), IMAGE, HW),
    Sized("padded to multiples of eight", lambda: Net(forwards.padded_to_eight, a=norm(), b=norm(6, 4)), IMAGE, HW),
    Sized("windows with padding", lambda: Net(forwards.windows, a=norm(), b=norm(6, 4)), IMAGE, HW),
    Sized("windows with padding, example odd", lambda: Net(forwards.windows, a=norm(), b=norm(6, 4)), ((2, 3, 13, 10),), HW),
    Sized("four frames of the batch", lambda: Net(forwards.batch_reshape, a=norm()), ((8, 3, 6, 6),)),
    # Sizes in reshapes.
    Sized("flatten and linear", lambda: Net(forwards.flatten_linear, a=norm(), b=linear(6 * 36, 4)), ((2, 3, 6, 6),), HW),
    Sized("channels as rows", lambda: Net(forwards.reshape_channels, a=norm(), b=linear(6, 4)), ((2, 3, 6, 6),), HW),
    Sized("frames in the batch", lambda: Net(forwards.frames, a=norm()), ((2, 4, 3, 6, 6),)),
    Sized("every channel alone", lambda: Net(forwards.any_channels, a=norm(1, 4)), ((2, 5, 6, 6),), HW),
    Sized("channels shuffled", lambda: Net(forwards.shuffled, a=norm()), ((2, 3, 6, 6),), HW),
    Sized("attention of heads", lambda: Net(forwards.heads, a=nn.Linear(8, 24), b=linear(8, 8)), ((2, 6, 8),)),
    Sized("pixel shuffle", lambda: nn.Sequential(*norm(3, 8), nn.PixelShuffle(2), *norm(2, 4)), ((2, 3, 6, 6),), HW),
    Sized("pixel unshuffle", lambda: nn.Sequential(nn.PixelUnshuffle(2), *norm(12, 4)), ((2, 3, 6, 6),), HW),
    # Numbers made of sizes.
    Sized("a mean by hand", lambda: Net(forwards.own_mean, a=norm()), ((2, 3, 6, 6),), HW),
    Sized("scaled by sizes", lambda: Net(forwards.scaled_by_size, a=norm()), ((2, 3, 6, 8),), HW),
    Sized("pooling over all", lambda: Net(forwards.kernel_of_all, a=norm()), ((2, 3, 6, 8),), HW),
    Sized("layer norm over all", lambda: Net(forwards.normalized_over_all, a=norm()), ((2, 3, 6, 8),), HW),
    Sized("adaptive pooling to three", lambda: nn.Sequential(*norm(), nn.AdaptiveAvgPool2d(3)), ((2, 3, 12, 12),), HW),
    Sized(
        "adaptive pooling to one, linear", lambda: nn.Sequential(*norm(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(6, 4)), IMAGE, HW
    ),
    Sized("resized to the size of another", lambda: Net(forwards.upsample_to, a=norm(), b=norm(6, 6)), ((2, 3, 12, 12),), HW),
    Sized("resized to half", lambda: Net(forwards.halves, a=norm()), ((2, 3, 12, 12),), HW),
    Sized("rolled by half", lambda: Net(forwards.shifted, a=norm()), ((2, 3, 8, 8),), HW),
    Sized("half of it flipped", lambda: Net(forwards.reversed_half, a=linear()), ((2, 8, 8),)),
    # Tensors made of sizes.
    Sized("a grid by arange", lambda: Net(forwards.grid, a=norm()), ((2, 3, 6, 8),), HW),
    Sized("a ramp by linspace", lambda: Net(forwards.linspace, a=norm1d()), ((2, 4, 10),)),
    Sized("coordinates beside the input", lambda: Net(forwards.coordinates, a=norm(5, 6)), ((2, 3, 6, 8),), HW),
    Sized("a mask by lengths", lambda: Net(forwards.masked, a=linear()), ((3, 7, 8), (3,)), (((0, 0), (1, 0)),), lengths=(1,)),
    Sized("a causal mask", lambda: Net(forwards.causal, a=linear(8, 4), b=linear(8, 4), c=linear()), ((2, 7, 8),)),
    Sized("zeros beside the input", lambda: Net(forwards.zeros_beside, a=norm(4, 6)), ((2, 3, 6, 6),), HW),
    Sized(
        "positions cropped",
        lambda: Net(forwards.embedded, table=nn.Embedding(20, 8), position=_token_positions(16, 8), a=linear()),
        ((2, 7),),
        tokens={0: 20},
    ),
    Sized(
        "positions by arange",
        lambda: Net(forwards.embedded_by_arange, table=nn.Embedding(20, 8), places=nn.Embedding(16, 8), a=linear()),
        ((2, 7),),
        tokens={0: 20},
    ),
    Sized(
        "a class token",
        lambda: Net(forwards.class_token, a=norm(), token=_token_positions(1, 6), position=_token_positions(65, 6), b=linear(6, 4)),
        ((2, 3, 6, 6),),
        HW,
    ),
    Sized("a buffer cropped to size", lambda: Net(forwards.weighted_steps, a=norm1d(), weight=torch.randn(12)), ((2, 4, 10),)),
    # Windows of a sequence.
    Sized("patches unfolded and folded", lambda: Net(forwards.folded_patches, a=norm()), ((2, 3, 8, 8),), HW),
    Sized("frames by strides", lambda: Net(forwards.strided, a=norm1d()), ((2, 4, 12),)),
    Sized("frames by unfold", lambda: Net(forwards.framed, a=norm1d()), ((2, 4, 12),)),
    # Two inputs.
    Sized(
        "two inputs, one twice the other",
        lambda: Net(forwards.two_scales, a=norm(), b=norm()),
        ((2, 3, 12, 12), (2, 3, 6, 6)),
        (((0, 0), (1, 0)), ((0, 2), (0, 3)), ((1, 2), (1, 3))),
    ),
    Sized(
        "two inputs alike",
        lambda: Net(forwards.two_alike, a=norm(), b=norm()),
        ((2, 3, 6, 6), (2, 3, 6, 6)),
        (((0, 0), (1, 0)), ((0, 2), (1, 2)), ((0, 3), (1, 3))),
    ),
    Sized(
        "two inputs, one resized if need be",
        lambda: Net(forwards.two_maybe, a=norm1d(), b=norm1d()),
        ((2, 4, 10), (2, 4, 10)),
        (((0, 0), (1, 0)), ((0, 2), (1, 2))),
    ),
    Sized(
        "the longer of two inputs",
        lambda: Net(forwards.two_compared, a=norm1d(), b=norm1d()),
        ((2, 4, 12), (2, 4, 10)),
        (((0, 0), (1, 0)), ((0, 2), (1, 2))),
    ),
    Sized(
        "attention across two inputs",
        lambda: Net(forwards.cross, a=linear(8, 4), b=linear(8, 4), c=linear()),
        ((2, 5, 8), (2, 7, 8)),
        (((0, 0), (1, 0)),),
    ),
)
"""The networks. Names are sentences that a failing test may begin with."""
