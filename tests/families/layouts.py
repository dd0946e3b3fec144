"""Layers with rearrangements of axes between them, as such code is written: tokens, channels last, shuffles, flattened batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LinearNorm(nn.Module):
    """A batch norm over flattened tokens (LeViT, Graham et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.bn = nn.Linear(8, 12, bias=False), nn.BatchNorm1d(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(x)
        return torch.relu(self.bn(x.flatten(0, 1)).reshape_as(x))


class ChannelsLast(nn.Module):
    """relu(B permute(W relu(permute(x)))), the second half of a large-kernel block (UniRepLKNet, Ding et al. 2024)."""

    def __init__(self) -> None:
        super().__init__()
        self.pwconv, self.norm = nn.Linear(8, 12), nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.pwconv(torch.relu(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))


class TokensNorm(nn.Module):
    """B transpose(W x)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = nn.Linear(8, 12), nn.BatchNorm1d(12)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.fc(x).transpose(1, 2))
        return y


class PatchEmbed(nn.Module):
    """W transpose(flatten(K4 x)), with another number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.proj, self.fc = nn.Conv2d(8, 12, 4, 4), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.fc(self.proj(x).flatten(2).transpose(1, 2)))


class ThereAndBack(nn.Module):
    """K3 permute'(W permute(K1 x)): the two permutations undo each other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fc, self.last = nn.Conv2d(8, 12, 1), nn.Linear(12, 10), nn.Conv2d(10, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.fc(self.first(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return y


class Tokens(nn.Module):
    """relu(B to_image(W to_tokens(K1 x))), sizes taken from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.bn = nn.Conv2d(8, 12, 1), nn.Linear(12, 12), nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        b, c, h, w = x.shape
        return torch.relu(self.bn(self.fc(x.view(b, c, h * w).permute(0, 2, 1)).transpose(1, 2).reshape(b, c, h, w)))


class Shuffle(nn.Module):
    """K3 shuffle(relu(B K1 x)): channels in another order (ShuffleNet, Zhang et al. 2018)."""

    def __init__(self, groups: int = 3) -> None:
        super().__init__()
        self.groups = groups
        self.first, self.bn, self.last = nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12), nn.Conv2d(12, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.first(x)))
        b, c, h, w = x.shape
        y: Tensor = self.last(x.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w))
        return y


class ShuffleBehind(nn.Module):
    """relu(shuffle(B K1 x)): what comes behind is not linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn = nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.first(x))
        b, c, h, w = x.shape
        return torch.relu(x.view(b, 4, c // 4, h, w).transpose(1, 2).reshape(b, c, h, w))


class FlatHead(nn.Module):
    """W flatten(B relu(K3 x)), the head of face recognition networks (ArcFace, Deng et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Linear(6 * 9 * 7, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(torch.flatten(self.bn(torch.relu(self.conv(x))), 1))
        return y


class Frames(nn.Module):
    """relu(B to_video(K3 to_frames(x))): a norm of videos behind a convolution of their frames."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm3d(8)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _, h, w = x.shape
        y = self.conv(x.flatten(0, 1))
        return torch.relu(self.bn(y.view(b, t, 8, h, w).transpose(1, 2)))


class TwoRoots(nn.Module):
    """relu(B transpose(W relu(x) + V tanh(x))): one transposition for both."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v, self.bn = nn.Linear(8, 12), nn.Linear(8, 12), nn.BatchNorm1d(12)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn((self.w(torch.relu(x)) + self.v(torch.tanh(x))).transpose(1, 2)))


class Residual(nn.Module):
    """x + permute'(gamma W2 relu(W1 permute(K7 x))), the layout of ConvNeXt (Liu et al. 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.pwconv1, self.pwconv2, self.gamma = nn.Linear(8, 32), nn.Linear(32, 8), nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pwconv2(torch.relu(self.pwconv1(self.dwconv(x).permute(0, 2, 3, 1))))
        z: Tensor = (self.gamma * y).permute(0, 3, 1, 2)
        return x + z


class Swapped(nn.Module):
    """K1x3 transpose(K3x1 x): axes that both move along, swapped."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.across = nn.Conv2d(8, 8, (3, 1), padding=(1, 0), groups=8), nn.Conv2d(8, 8, (1, 3), groups=8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.across(self.down(x).transpose(2, 3)))


class TwoReaders(nn.Module):
    """Two norms of one transposed value: each would need the product of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.one, self.other = nn.Linear(8, 12), nn.BatchNorm1d(12), nn.BatchNorm1d(12)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.fc(x).transpose(1, 2)
        return torch.relu(self.one(y)), torch.tanh(self.other(y))


class ShapeOfTheNorm(nn.Module):
    """W to_tokens(B relu(x)), the size taken from what the norm gives (FastViT, Vasu et al. 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(torch.relu(x))
        b, c, h, w = x.shape
        y: Tensor = self.fc(x.view(b, c, h * w).transpose(1, 2))
        return y


class Heads(nn.Module):
    """A norm of the numbers of each head, in front of a product over all heads."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(4), nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        y = self.norm(torch.relu(x).view(b * n, 2, 4).transpose(1, 2))
        return torch.relu(self.fc(y.transpose(1, 2).reshape(b, n, 8)))
