"""What the networks of `tests.sizes.models` compute: functions of their layers and the inputs, each with a size in its path."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def windows(net: Any, x: Tensor, size: int = 4) -> Any:
    """A mean over each window subtracted from it, the map padded to whole windows."""
    x = net.a(x)
    batch, channels, height, width = x.shape
    x = F.pad(x, (0, (size - width % size) % size, 0, (size - height % size) % size))
    rows, columns = x.shape[2] // size, x.shape[3] // size
    x = x.view(batch, channels, rows, size, columns, size).permute(0, 2, 4, 3, 5, 1).reshape(-1, size * size, channels)
    x = x - x.mean(1, keepdim=True)
    x = x.view(batch, rows, columns, size, size, channels).permute(0, 5, 1, 3, 2, 4)
    x = x.reshape(batch, channels, rows * size, columns * size)[:, :, :height, :width]
    return net.b(x)


def steps(net: Any, x: Tensor) -> Any:
    return torch.stack([torch.relu(net.a(x[:, step])) for step in range(x.shape[1])], 1)


def recurrent(net: Any, x: Tensor) -> Any:
    state = torch.zeros(x.shape[0], 6, dtype=x.dtype, device=x.device)
    for step in range(x.shape[1]):
        state = torch.tanh(net.a(x[:, step]) + net.b(state))
    return state


def unbind(net: Any, x: Tensor) -> Any:
    total = x.new_zeros(())
    for one in x.unbind(1):
        total = total + net.a(one)
    return torch.relu(total)


def chunks(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    return torch.cat([part * (number + 1) for number, part in enumerate(x.chunk(max(1, x.shape[2] // 4), 2))], 2)


def splits(net: Any, x: Tensor) -> Any:
    return torch.cat([part.mean(1, keepdim=True) for part in net.a(x).split(4, 1)], 1)


def position_if_it_fits(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    return torch.relu(x + net.position if x.shape[1] == net.position.shape[0] else x)


def position_resized(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    position = net.position
    if x.shape[-2:] != position.shape[-2:]:
        position = F.interpolate(position, size=x.shape[-2:], mode="bilinear", align_corners=False)
    return x + position


def position_1d_resized(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    position = net.position
    if x.shape[-1] != position.shape[-1]:
        position = F.interpolate(position, size=x.shape[-1], mode="linear")
    return x + position


def upsample_to(net: Any, x: Tensor) -> Any:
    high = net.a(x)
    low = F.max_pool2d(high, 2, ceil_mode=True)
    low = net.b(low)
    if low.shape[-2:] != high.shape[-2:]:
        low = F.interpolate(low, size=high.shape[-2:], mode="nearest")
    return high + low


def halves(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    return F.interpolate(x, size=(x.shape[2] // 2, x.shape[3] // 2), mode="nearest")


def flatten_linear(net: Any, x: Tensor) -> Any:
    return net.b(net.a(x).flatten(1))


def reshape_channels(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    return net.b(x.permute(0, 2, 3, 1).reshape(-1, 6))


def own_mean(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    return x.sum((2, 3)) / (x.shape[2] * x.shape[3])


def scaled_by_size(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    return x * (x.shape[-1] ** -0.5) + float(x.shape[-2]) / 10


def grid(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    rows = torch.arange(x.shape[2], device=x.device, dtype=x.dtype)
    columns = torch.arange(x.shape[3], device=x.device, dtype=x.dtype)
    y, z = torch.meshgrid(rows, columns, indexing="ij")
    return x + torch.stack([y, z]).mean(0)


def linspace(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    return x + torch.linspace(-1, 1, x.shape[-1], device=x.device)


def coordinates(net: Any, x: Tensor) -> Any:
    batch, _, height, width = x.shape
    y = torch.linspace(-1, 1, height).view(1, 1, -1, 1).expand(batch, 1, height, width)
    z = torch.linspace(-1, 1, width).view(1, 1, 1, -1).expand(batch, 1, height, width)
    return net.a(torch.cat([x, y, z], 1))


def masked(net: Any, x: Tensor, lengths: Tensor) -> Any:
    mask = torch.arange(x.shape[1], device=x.device)[None, :] < lengths[:, None]
    return net.a(x) * mask[..., None]


def causal(net: Any, x: Tensor) -> Any:
    q, k = net.a(x), net.b(x)
    scores = q @ k.transpose(1, 2) / 2
    mask = torch.triu(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool), 1)
    return torch.softmax(scores.masked_fill(mask, float("-inf")), -1) @ net.c(x)


def channels_last(net: Any, x: Tensor) -> Any:
    x = net.a(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return x + net.position if x.shape[1] == net.position.shape[0] else x * 2


def channels_last_loop(net: Any, x: Tensor) -> Any:
    return torch.stack([torch.relu(net.a(x[:, row])) for row in range(x.shape[1])], 1)


def batch_branch(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    return x - x.mean(0, keepdim=True) if x.shape[0] > 1 else x


def batch_loop(net: Any, x: Tensor) -> Any:
    return torch.stack([net.a(one[None])[0] for one in x])


def batch_reshape(net: Any, x: Tensor) -> Any:
    """Frames of four go together, as in video models."""
    x = net.a(x)
    return x.view(-1, 4, *x.shape[1:]).mean(1)


def frames(net: Any, x: Tensor) -> Any:
    batch, steps = x.shape[:2]
    y = torch.relu(net.a(x.flatten(0, 1)))
    return y.view(batch, steps, *y.shape[1:]).mean(1)


def length_branch(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    return torch.relu(x) if x.shape[-1] > 12 else torch.sigmoid(x)


def odd_branch(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    return F.pad(x, (0, 1)) if x.shape[-1] % 2 else x


def square_branch(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    return torch.relu(x) if x.shape[2] == x.shape[3] else torch.tanh(x)


def unlike_branch(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    return torch.relu(x) if x.shape[-1] != 20 else torch.tanh(x)


def wide_branch(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    return x.transpose(2, 3) if x.shape[3] > x.shape[2] else x


def channel_branch(net: Any, x: Tensor) -> Any:
    """One channel is made three, as gray images are."""
    return net.a(x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x)


def any_channels(net: Any, x: Tensor) -> Any:
    """Every channel by itself through the same layers."""
    batch, channels = x.shape[:2]
    y = net.a(x.reshape(batch * channels, 1, *x.shape[2:]))
    return y.view(batch, channels, *y.shape[1:]).mean(1)


def two_dimensions(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    return x / x.shape[0] if x.shape[0] > 3 else x


def rows_by_loop(net: Any, x: Tensor) -> Any:
    return torch.stack([net.a(x[row]) * (row + 1) for row in range(x.shape[0])])


def embedded(net: Any, tokens: Tensor) -> Any:
    return net.a(net.table(tokens) + net.position[:, : tokens.shape[1]])


def embedded_by_arange(net: Any, tokens: Tensor) -> Any:
    places = torch.arange(tokens.shape[1], device=tokens.device)
    return net.a(net.table(tokens) + net.places(places)[None])


def class_token(net: Any, x: Tensor) -> Any:
    x = net.a(x).flatten(2).transpose(1, 2)
    x = torch.cat([net.token.expand(x.shape[0], -1, -1), x], 1)
    return net.b(x + net.position[:, : x.shape[1]])


def zeros_beside(net: Any, x: Tensor) -> Any:
    return net.a(torch.cat([x, torch.zeros(x.shape[0], 1, x.shape[2], x.shape[3])], 1))


def shifted(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    return torch.roll(x, (x.shape[2] // 2, x.shape[3] // 2), (2, 3))


def reversed_half(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    middle = x.shape[1] // 2
    return torch.cat([x[:, middle:].flip(1), x[:, :middle]], 1)


def padded_to_eight(net: Any, x: Tensor) -> Any:
    x = F.pad(x, (0, -x.shape[3] % 8, 0, -x.shape[2] % 8))
    return net.b(torch.relu(net.a(x)))


def asserts(net: Any, x: Tensor) -> Any:
    if x.shape[2] % 4 or x.shape[3] % 4:
        raise ValueError("sizes must be multiples of 4")
    return net.a(x)


def unet(net: Any, x: Tensor) -> Any:
    high = torch.relu(net.a(x))
    low = F.interpolate(torch.relu(net.b(F.max_pool2d(high, 2))), scale_factor=2)
    return net.c(torch.cat([high, low], 1))


def unet_padded(net: Any, x: Tensor) -> Any:
    high = torch.relu(net.a(x))
    low = F.interpolate(torch.relu(net.b(F.max_pool2d(high, 2))), scale_factor=2)
    rows, columns = high.shape[2] - low.shape[2], high.shape[3] - low.shape[3]
    low = F.pad(low, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    return net.c(torch.cat([high, low], 1))


def folded_patches(net: Any, x: Tensor) -> Any:
    patches = F.unfold(net.a(x), 2, stride=2)
    patches = patches - patches.mean(1, keepdim=True)
    return F.fold(patches, (x.shape[2] // 2 * 2, x.shape[3] // 2 * 2), 2, stride=2)


def strided(net: Any, x: Tensor) -> Any:
    """Frames of four that begin every two steps, as views."""
    x = net.a(x).contiguous()
    batch, channels, steps = x.shape
    frames = (steps - 4) // 2 + 1
    return x.as_strided((batch, channels, frames, 4), (channels * steps, steps, 2, 1)).mean(-1)


def framed(net: Any, x: Tensor) -> Any:
    return net.a(x).unfold(2, 4, 2).mean(-1)


def shuffled(net: Any, x: Tensor) -> Any:
    batch, _, height, width = x.shape
    return net.a(x).view(batch, 2, 3, height, width).transpose(1, 2).reshape(batch, 6, height, width)


def two_scales(net: Any, x: Tensor, y: Tensor) -> Any:
    return net.a(x) + F.interpolate(net.b(y), scale_factor=2)


def two_alike(net: Any, x: Tensor, y: Tensor) -> Any:
    return net.a(x) + net.b(y)


def two_maybe(net: Any, x: Tensor, y: Tensor) -> Any:
    y = net.b(y)
    if y.shape[-1] != x.shape[-1]:
        y = F.interpolate(y, size=x.shape[-1])
    return net.a(x) + y


def two_compared(net: Any, x: Tensor, y: Tensor) -> Any:
    return net.a(x) * 2 if x.shape[-1] > y.shape[-1] else net.b(y)


def cross(net: Any, x: Tensor, y: Tensor) -> Any:
    scores = net.a(x) @ net.b(y).transpose(1, 2)
    return torch.softmax(scores * y.shape[1] ** -0.5, -1) @ net.c(y)


def weighted_steps(net: Any, x: Tensor) -> Any:
    return torch.relu(net.a(x)) * net.weight[: x.shape[2]]


def squeezed(net: Any, x: Tensor) -> Any:
    return net.a(x).mean(-1, keepdim=True).squeeze()


def levels(net: Any, x: Tensor) -> Any:
    """As many halvings as the map has room for."""
    x = net.a(x)
    total = x.mean((2, 3))
    while min(x.shape[2:]) >= 4:
        x = torch.relu(net.b(F.avg_pool2d(x, 2)))
        total = total + x.mean((2, 3))
    return total


def kernel_of_all(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    return F.avg_pool2d(x, (x.shape[2], x.shape[3]))


def normalized_over_all(net: Any, x: Tensor) -> Any:
    x = net.a(x)
    return F.layer_norm(x, x.shape[1:])


def steps_as_channels(net: Any, x: Tensor) -> Any:
    """Tokens 2-d: a branch on how many there are."""
    y = net.table(x)
    return net.a(y if x.shape[1] <= 6 else y[:, :6])


def heads(net: Any, x: Tensor) -> Any:
    batch, steps, width = x.shape
    q, k, v = net.a(x).reshape(batch, steps, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
    y = torch.softmax(q @ k.transpose(-2, -1) * (width // 2) ** -0.5, -1) @ v
    return net.b(y.transpose(1, 2).reshape(batch, steps, width))


def vector(net: Any, x: Tensor) -> Any:
    """One axis alone: a moving mean by convolution, then a branch."""
    y = net.a(x[None, None])[0]
    return y if x.shape[0] % 3 else y.mean(-1)
