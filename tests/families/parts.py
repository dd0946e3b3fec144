"""Layers that read parts of the channels, and products along an axis, as such code is written."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Halves(nn.Module):
    """relu(K3 a + V3 b) for the halves a and b of a value."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.relu(self.stem(x)).chunk(2, 1)
        return torch.relu(self.a(a) + self.b(b))


class Cropped(nn.Module):
    """relu(B of the first channels of K3 x), as ghost modules crop what they made too much of (Han et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)[:, :5]))


class Unsplit(nn.Module):
    """relu(K1 B (parts side by side as they were)): the parts are the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn, self.conv = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = torch.split(torch.relu(self.stem(x)), [2, 3, 3], 1)
        return torch.relu(self.conv(self.bn(torch.cat((a, b, c), 1))))


class SwappedHalves(nn.Module):
    """relu(K3 of the halves in the other order)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.relu(self.stem(x)).chunk(2, 1)
        return torch.relu(self.conv(torch.cat((b, a), 1)))


class Bottlenecks(nn.Module):
    """K1 cat(a, b, relu(B K3 b)) for the halves of relu(B K1 x), the C2f block of YOLOv8."""

    def __init__(self) -> None:
        super().__init__()
        self.cv1, self.bn1 = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.m, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.cv2 = nn.Conv2d(12, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = list(F.relu(self.bn1(self.cv1(x))).chunk(2, 1))
        y.append(F.relu(self.bn2(self.m(y[-1]))))
        z: Tensor = self.cv2(torch.cat(y, 1))
        return z


class PartialConv(nn.Module):
    """relu(B K1 cat(K3 a, b)): a convolution of a part (FasterNet, Chen et al. 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.partial = nn.Conv2d(8, 8, 1), nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.conv, self.bn = nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(torch.relu(self.stem(x)), [2, 6], 1)
        return torch.relu(self.bn(self.conv(torch.cat((self.partial(a), b), 1))))


class NormOfAPart(nn.Module):
    """A norm of one half of K1 x beside a gate of the other: two convolutions would do it, where one is run now."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv(x).chunk(2, 1)
        return torch.relu(self.bn(a)) * torch.sigmoid(b)


class Einsum(nn.Module):
    """relu(B (W along the channels of relu(K3 x)))."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.w, self.bn = nn.Conv2d(8, 8, 3), nn.Parameter(torch.randn(6, 8)), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(torch.einsum("bchw,oc->bohw", torch.relu(self.conv(x)), self.w)))


class FromTheLeft(nn.Module):
    """relu(B to_image(W flat(K1 x))): a 1x1 convolution as a product from the left."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.w, self.bn = nn.Conv2d(8, 8, 1), nn.Parameter(torch.randn(6, 8)), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        return torch.relu(self.bn((self.w @ self.conv(x).flatten(2)).view(b, 6, h, w)))


class FromTheRight(nn.Module):
    """relu(B transpose(x W + v))."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v, self.bn = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(6)), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn((x @ self.w + self.v).transpose(1, 2)))


class Masked(nn.Module):
    """relu(mask * K3 x): a constant for each channel."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 6, 3)
        self.register_buffer("mask", torch.tensor([1.0, 0, 1, 1, 0, 1]).view(1, 6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) * self.mask)


class Pooled(nn.Module):
    """W flat(B mean(relu(K3 x))): a norm behind the mean over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.bn(F.adaptive_avg_pool2d(torch.relu(self.conv(x)), 1)).flatten(1))
        return y


class PooledBehind(nn.Module):
    """W mean(V tokens(x)): the product of every token, taken of their mean instead."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.w = nn.Linear(8, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.w(self.v(x).mean(1))
        return y


class Span(nn.Module):
    """K1 cat(y, tanh x, sigmoid x, K1 K3 K1 y + K1 y): a linear block among parts that a convolution reads (SPAN, Wan et al. 2024)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 8, 1))
        self.skip, self.out = nn.Conv2d(8, 8, 1), nn.Conv2d(32, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(x)
        block = self.inner(F.pad(y, (1, 1, 1, 1))) + self.skip(y)
        z: Tensor = self.out(torch.cat((y, torch.tanh(x), torch.sigmoid(x), block), 1))
        return z
