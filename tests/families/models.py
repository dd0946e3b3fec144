"""The published block families in training form, each written from its formula the way such code is written.

K_k is a k x k convolution, B a batch norm. No block here knows of folding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
AVERAGE: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


def conv_bn(inputs: int, outputs: int, kernel: Any, *, rank: int = 2, **options: Any) -> nn.Sequential:
    """B K x, under the names conv and bn."""
    layers = nn.Sequential()
    layers.add_module("conv", CONV[rank](inputs, outputs, kernel, bias=False, **options))
    layers.add_module("bn", NORM[rank](outputs))
    return layers


class SqueezeExcite(nn.Module):
    """x * sigmoid(K1 relu(K1 mean(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return x * y


class RepVGG(nn.Module):
    """relu(SE(B K_k x + B K1 x + B x)); the identity is None where it does not fit, and then counts as 0 (Ding et al. 2021)."""

    def __init__(
        self, inputs: int = 8, outputs: int = 8, *, kernel: int = 3, stride: int = 1, groups: int = 1, se: bool = False, rank: int = 2
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"stride": stride, "groups": groups, "rank": rank}
        self.rbr_identity = NORM[rank](inputs) if inputs == outputs and stride == 1 else None
        self.rbr_dense = conv_bn(inputs, outputs, kernel, padding=kernel // 2, **options)
        self.rbr_1x1 = conv_bn(inputs, outputs, 1, padding=0, **options)
        self.se = SqueezeExcite(outputs) if se else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        id_out = 0 if self.rbr_identity is None else self.rbr_identity(x)
        return F.relu(self.se(self.rbr_dense(x) + self.rbr_1x1(x) + id_out))


class PPYOLOE(nn.Module):
    """silu(B K3 x + alpha * B K1 x), alpha a learned scalar (Xu et al. 2022)."""

    def __init__(self, inputs: int = 8, outputs: int = 8, *, alpha: float | None = 0.7) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_bn(inputs, outputs, 3, padding=1), conv_bn(inputs, outputs, 1)
        self.alpha = None if alpha is None else nn.Parameter(torch.tensor([alpha]))

    def forward(self, x: Tensor) -> Tensor:
        if self.alpha is not None:
            return F.silu(self.conv1(x) + self.alpha * self.conv2(x))
        return F.silu(self.conv1(x) + self.conv2(x))


class MobileOne(nn.Module):
    """relu(SE(sum of n times B K_k x + B K1 x + B x)): n branches of one size in a list, added to a sum that starts at 0."""

    def __init__(
        self, inputs: int = 8, outputs: int = 8, *, kernel: int = 3, stride: int = 1, groups: int = 1, branches: int = 4,
        scale: bool = True, skip: bool = True, se: bool = False, act: bool = True, rank: int = 2,
    ) -> None:  # fmt: skip
        super().__init__()
        options: dict[str, Any] = {"stride": stride, "groups": groups, "rank": rank}
        self.rbr_skip = NORM[rank](inputs) if skip and inputs == outputs and stride == 1 else None
        self.rbr_scale = conv_bn(inputs, outputs, 1, padding=0, **options) if scale and kernel > 1 else None
        self.rbr_conv = nn.ModuleList(conv_bn(inputs, outputs, kernel, padding=kernel // 2, **options) for _ in range(branches))
        self.se = SqueezeExcite(outputs) if se else nn.Identity()
        self.activation = nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        identity_out = 0
        if self.rbr_skip is not None:
            identity_out = self.rbr_skip(x)
        scale_out = 0
        if self.rbr_scale is not None:
            scale_out = self.rbr_scale(x)
        out = scale_out + identity_out
        for branch in self.rbr_conv:
            out += branch(x)
        y: Tensor = self.activation(self.se(out))
        return y


class MobileOnePair(nn.Module):
    """A depthwise block, then a pointwise one (Vasu et al. 2023)."""

    def __init__(self, inputs: int = 8, outputs: int = 12, *, stride: int = 1, se: bool = False) -> None:
        super().__init__()
        self.depthwise = MobileOne(inputs, inputs, stride=stride, groups=inputs, se=se)
        self.pointwise = MobileOne(inputs, outputs, kernel=1, se=se)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise(self.depthwise(x))
        return y


class CropLayer(nn.Module):
    """Takes rows and columns off both sides, in the place of a negative padding."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x: Tensor) -> Tensor:
        if self.rows > 0:
            x = x[:, :, self.rows : -self.rows, :]
        if self.columns > 0:
            x = x[:, :, :, self.columns : -self.columns]
        return x


class ACNet(nn.Module):
    """B K_kxk x + B K_kx1 x + B K_1xk x, the thin branches on a cropped input where the padding is too small (Ding et al. 2019)."""

    def __init__(
        self, inputs: int = 8, outputs: int = 8, *, kernel: int = 3, padding: int = 1, stride: int = 1, groups: int = 1, mode: str = "zeros"
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"stride": stride, "groups": groups, "padding_mode": mode}
        self.square = conv_bn(inputs, outputs, kernel, padding=padding, **options)
        offset = padding - kernel // 2
        crop, thin = max(0, -offset), max(0, offset)
        ver, hor = CropLayer(0, crop), CropLayer(crop, 0)
        self.ver = nn.Sequential(ver, *conv_bn(inputs, outputs, (kernel, 1), padding=(padding, thin), **options))
        self.hor = nn.Sequential(hor, *conv_bn(inputs, outputs, (1, kernel), padding=(thin, padding), **options))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.square(x) + self.ver(x) + self.hor(x)
        return y


class IdentityBasedConv1x1(nn.Conv2d):
    """K1 x + x as one convolution whose weight gets an identity kernel, kept as a tensor beside the parameters."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels, channels, 1, groups=groups, bias=False)
        per_group = channels // groups
        identity = torch.zeros(channels, per_group, 1, 1)
        for channel in range(channels):
            identity[channel, channel % per_group, 0, 0] = 1
        self.id_tensor = identity

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight + self.id_tensor.to(self.weight.device).type_as(self.weight)
        return F.conv2d(x, kernel, None, stride=1, padding=0, dilation=self.dilation, groups=self.groups)


class BNAndPad(nn.Module):
    """B x, then a padding with what B makes of zero, written over the border of a zero padding."""

    def __init__(self, pad: int, channels: int, *, affine: bool = True) -> None:
        super().__init__()
        self.bn, self.pad = nn.BatchNorm2d(channels, affine=affine), pad

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(x)
        if self.pad > 0:
            assert self.bn.running_mean is not None
            assert self.bn.running_var is not None
            if self.bn.affine:
                values = self.bn.bias.detach() - self.bn.running_mean * self.bn.weight.detach() / torch.sqrt(
                    self.bn.running_var + self.bn.eps
                )
            else:
                values = -self.bn.running_mean / torch.sqrt(self.bn.running_var + self.bn.eps)
            out = F.pad(out, [self.pad] * 4)
            values = values.view(1, -1, 1, 1)
            out[:, :, 0 : self.pad, :] = values
            out[:, :, -self.pad :, :] = values
            out[:, :, :, 0 : self.pad] = values
            out[:, :, :, -self.pad :] = values
        return out


class DBB(nn.Module):
    """B K_k + B K1 + B avg(pad_B(B K1)) + B K_k(pad_B(B(I + K1))) (Ding et al. 2021)."""

    def __init__(
        self, inputs: int = 8, outputs: int = 8, *, kernel: int = 3, stride: int = 1, groups: int = 1, affine: bool = True
    ) -> None:
        super().__init__()
        pad = kernel // 2
        self.dbb_origin = conv_bn(inputs, outputs, kernel, stride=stride, padding=pad, groups=groups)
        self.dbb_avg = nn.Sequential()
        if groups < outputs:
            self.dbb_avg.add_module("conv", nn.Conv2d(inputs, outputs, 1, groups=groups, bias=False))
            self.dbb_avg.add_module("bn", BNAndPad(pad, outputs, affine=affine))
            self.dbb_avg.add_module("avg", nn.AvgPool2d(kernel, stride, 0))
            self.dbb_1x1: nn.Module | None = conv_bn(inputs, outputs, 1, stride=stride, groups=groups)
        else:
            self.dbb_avg.add_module("avg", nn.AvgPool2d(kernel, stride, pad))
            self.dbb_1x1 = None
        self.dbb_avg.add_module("avgbn", nn.BatchNorm2d(outputs))
        self.dbb_1x1_kxk = nn.Sequential()
        if groups < outputs:
            self.dbb_1x1_kxk.add_module("idconv1", IdentityBasedConv1x1(inputs, groups))
        else:
            self.dbb_1x1_kxk.add_module("conv1", nn.Conv2d(inputs, inputs, 1, groups=groups, bias=False))
        self.dbb_1x1_kxk.add_module("bn1", BNAndPad(pad, inputs))
        self.dbb_1x1_kxk.add_module("conv2", nn.Conv2d(inputs, outputs, kernel, stride, 0, groups=groups, bias=False))
        self.dbb_1x1_kxk.add_module("bn2", nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.dbb_origin(x)
        if self.dbb_1x1 is not None:
            out += self.dbb_1x1(x)
        out += self.dbb_avg(x)
        out += self.dbb_1x1_kxk(x)
        return F.relu(out)


class OREPA(nn.Module):
    """relu(B conv(x, W)), W summed in forward: plain, average, frequency prior, 1x1 then kxk, depthwise then pointwise (Hu et al. 2022)."""

    def __init__(self, inputs: int = 8, outputs: int = 8, *, kernel: int = 3, stride: int = 1, groups: int = 1, expand: int = 4) -> None:
        super().__init__()
        self.stride, self.padding, self.groups = stride, kernel // 2, groups
        self.in_channels, self.out_channels = inputs, outputs
        within = inputs // groups
        self.weight_origin = nn.Parameter(torch.randn(outputs, within, kernel, kernel) / 9)
        self.weight_avg_conv = nn.Parameter(torch.randn(outputs, within, 1, 1))
        self.weight_avg_avg: Tensor
        self.register_buffer("weight_avg_avg", torch.ones(kernel, kernel).mul(1.0 / kernel / kernel))
        self.weight_pfir_conv = nn.Parameter(torch.randn(outputs, within, 1, 1))
        self.weight_pfir_prior: Tensor
        self.register_buffer("weight_pfir_prior", self.prior(outputs, kernel))
        self.weight_1x1_kxk_idconv1 = nn.Parameter(torch.randn(inputs, within, 1, 1) / 9)
        identity = torch.zeros(inputs, within, 1, 1)
        for channel in range(inputs):
            identity[channel, channel % within, 0, 0] = 1
        self.id_tensor: Tensor
        self.register_buffer("id_tensor", identity)
        self.weight_1x1_kxk_conv2 = nn.Parameter(torch.randn(outputs, within, kernel, kernel) / 9)
        self.weight_dws_dw = nn.Parameter(torch.randn(within * expand, 1, kernel, kernel) / 9)
        self.weight_dws_pw = nn.Parameter(torch.randn(outputs, within * expand, 1, 1) / 9)
        self.vector = nn.Parameter(torch.randn(5, outputs))
        self.bn = nn.BatchNorm2d(outputs)

    @staticmethod
    def prior(outputs: int, kernel: int) -> Tensor:
        """Cosines of rising frequency along either axis, one pattern a channel."""
        places = (torch.arange(kernel) + 0.5) * torch.pi / kernel
        frequency = (torch.arange(outputs) + 1.0)[:, None]
        rows, columns = torch.cos(frequency * places)[:, :, None], torch.cos((outputs - frequency) * places)[:, None, :]
        return rows * columns

    def weight_gen(self) -> Tensor:
        origin = torch.einsum("oihw,o->oihw", self.weight_origin, self.vector[0, :])
        average = torch.einsum("oi,hw->oihw", self.weight_avg_conv.squeeze(3).squeeze(2), self.weight_avg_avg)
        average = torch.einsum("oihw,o->oihw", average, self.vector[1, :])
        prior = torch.einsum("oi,ohw->oihw", self.weight_pfir_conv.squeeze(3).squeeze(2), self.weight_pfir_prior)
        prior = torch.einsum("oihw,o->oihw", prior, self.vector[2, :])
        first = (self.weight_1x1_kxk_idconv1 + self.id_tensor).squeeze(3).squeeze(2)
        groups, within = self.groups, self.in_channels // self.groups
        deep = torch.einsum(
            "gti,gothw->goihw",
            first.view(groups, within, within),
            self.weight_1x1_kxk_conv2.view(groups, self.out_channels // groups, within, *self.weight_1x1_kxk_conv2.shape[2:]),
        ).reshape(self.out_channels, within, *self.weight_1x1_kxk_conv2.shape[2:])
        deep = torch.einsum("oihw,o->oihw", deep, self.vector[3, :])
        depthwise = self.weight_dws_dw.permute(1, 0, 2, 3)
        kernel = depthwise.shape[2:]
        separable = torch.einsum(
            "ithw,oit->oihw", depthwise.reshape(within, -1, *kernel), self.weight_dws_pw.reshape(self.out_channels, within, -1)
        )
        separable = torch.einsum("oihw,o->oihw", separable, self.vector[4, :])
        return origin + average + prior + deep + separable

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.weight_gen(), None, self.stride, self.padding, 1, self.groups)
        return F.relu(self.bn(y))


class RepLKNet(nn.Module):
    """B K_K x + B K_k x, depthwise, K large (Ding et al. 2022)."""

    def __init__(self, channels: int = 8, *, kernel: int = 31, small: int = 5, stride: int = 1, rank: int = 2) -> None:
        super().__init__()
        options: dict[str, Any] = {"stride": stride, "groups": channels, "rank": rank}
        self.lkb_origin = conv_bn(channels, channels, kernel, padding=kernel // 2, **options)
        self.small_conv = conv_bn(channels, channels, small, padding=small // 2, **options)

    def forward(self, x: Tensor) -> Tensor:
        out = self.lkb_origin(x)
        out += self.small_conv(x)
        y: Tensor = out
        return y


class UniRepLKNet(nn.Module):
    """B K_k x + sum of B K_ki x with dilation r_i, depthwise, the branches as attributes under computed names (Ding et al. 2024)."""

    def __init__(
        self, channels: int = 8, *, kernel: int = 13, kernels: Sequence[int] = (5, 7, 3, 3, 3), dilates: Sequence[int] = (1, 2, 3, 4, 5)
    ) -> None:
        super().__init__()
        self.lk_origin = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
        self.origin_bn = nn.BatchNorm2d(channels)
        self.branches = list(zip(kernels, dilates, strict=True))
        for k, r in self.branches:
            pad = (r * (k - 1) + 1) // 2
            setattr(self, f"dil_conv_k{k}_{r}", nn.Conv2d(channels, channels, k, padding=pad, dilation=r, groups=channels, bias=False))
            setattr(self, f"dil_bn_k{k}_{r}", nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.origin_bn(self.lk_origin(x))
        for k, r in self.branches:
            conv, bn = getattr(self, f"dil_conv_k{k}_{r}"), getattr(self, f"dil_bn_k{k}_{r}")
            out = out + bn(conv(x))
        return out


class RepMixer(nn.Module):
    """x + gamma * (mixer(x) - norm(x)), both of MobileOne branches without activation (FastViT, Vasu et al. 2023)."""

    def __init__(self, channels: int = 8, *, kernel: int = 3, layer_scale: bool = True) -> None:
        super().__init__()
        self.norm = MobileOne(channels, channels, kernel=kernel, groups=channels, branches=0, scale=False, act=False)
        self.mixer = MobileOne(channels, channels, kernel=kernel, groups=channels, branches=1, act=False)
        self.layer_scale = nn.Parameter(torch.rand(channels, 1, 1)) if layer_scale else None

    def forward(self, x: Tensor) -> Tensor:
        if self.layer_scale is not None:
            y: Tensor = x + self.layer_scale * (self.mixer(x) - self.norm(x))
        else:
            y = x + self.mixer(x) - self.norm(x)
        return y


class RepVGGDW(nn.Module):
    """B(B K3 x + K1 x + x), depthwise (RepViT, Wang et al. 2024)."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv = conv_bn(channels, channels, 3, padding=1, groups=channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, groups=channels)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn((self.conv(x) + self.conv1(x)) + x)
        return y


class QARepVGG(nn.Module):
    """relu(B(SE(B K3 x + K1 x + x))): a batch norm after the sum, and after SE where there is one (Chu et al. 2023)."""

    def __init__(self, inputs: int = 8, outputs: int = 8, *, stride: int = 1, se: bool = False) -> None:
        super().__init__()
        self.rbr_dense = conv_bn(inputs, outputs, 3, stride=stride, padding=1)
        self.rbr_1x1 = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.rbr_identity = nn.Identity() if inputs == outputs and stride == 1 else None
        self.se = SqueezeExcite(outputs) if se else nn.Identity()
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        id_out = 0 if self.rbr_identity is None else self.rbr_identity(x)
        return F.relu(self.bn(self.se(self.rbr_dense(x) + self.rbr_1x1(x) + id_out)))


class RepGhost(nn.Module):
    """z = relu(B K1 x); relu(B K3 z + B z), depthwise, while z itself is read once more (Chen et al. 2022)."""

    def __init__(self, inputs: int = 8, outputs: int = 8) -> None:
        super().__init__()
        self.primary_conv = nn.Sequential(*conv_bn(inputs, outputs, 1), nn.ReLU(inplace=True))
        self.cheap_operation = conv_bn(outputs, outputs, 3, padding=1, groups=outputs)
        self.fusion_bn = nn.Sequential(nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU(inplace=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.primary_conv(x)
        y = self.cheap_operation(z)
        for fusion in self.fusion_bn:
            y = y + fusion(z)
        return self.relu(y), torch.amax(z, (2, 3))


class SeqConv3x3(nn.Module):
    """K3(pad(K1 x)), the border filled with K1's bias; K3 free, or a learned scale times a fixed operator a channel."""

    def __init__(self, inputs: int, outputs: int, mask: Sequence[Sequence[float]] | None = None, *, multiplier: int = 2) -> None:
        super().__init__()
        middle = outputs if mask is not None else outputs * multiplier
        point = nn.Conv2d(inputs, middle, 1)
        self.k0, self.b0 = point.weight, point.bias
        self.groups = middle if mask is not None else 1
        if mask is None:
            whole = nn.Conv2d(middle, outputs, 3)
            self.k1, self.b1 = whole.weight, whole.bias
            return
        self.scale = nn.Parameter(torch.randn(outputs, 1, 1, 1))
        self.b1 = nn.Parameter(torch.randn(outputs))
        pattern = torch.zeros(outputs, 1, 3, 3)
        for channel in range(outputs):
            for row in range(3):
                for column in range(3):
                    pattern[channel, 0, row, column] = mask[row][column]
        self.mask = nn.Parameter(pattern, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        y0 = F.conv2d(input=x, weight=self.k0, bias=self.b0, stride=1)
        y0 = F.pad(y0, (1, 1, 1, 1), "constant", 0)
        assert self.b0 is not None
        b0_pad = self.b0.view(1, -1, 1, 1)
        y0[:, :, 0:1, :] = b0_pad
        y0[:, :, -1:, :] = b0_pad
        y0[:, :, :, 0:1] = b0_pad
        y0[:, :, :, -1:] = b0_pad
        kernel = self.scale * self.mask if self.groups > 1 else self.k1
        return F.conv2d(input=y0, weight=kernel, bias=self.b1, stride=1, groups=self.groups)


SOBEL_X = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))
SOBEL_Y = ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0))
LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


class ECB(nn.Module):
    """prelu(K3 x + K3 K1 x + (Sobel-x, Sobel-y, Laplacian) K1 x + x) (Zhang et al. 2021)."""

    def __init__(self, inputs: int = 8, outputs: int = 8, *, with_idt: bool = True) -> None:
        super().__init__()
        self.with_idt = with_idt and inputs == outputs
        self.conv3x3 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv1x1_3x3 = SeqConv3x3(inputs, outputs)
        self.conv1x1_sbx = SeqConv3x3(inputs, outputs, SOBEL_X)
        self.conv1x1_sby = SeqConv3x3(inputs, outputs, SOBEL_Y)
        self.conv1x1_lpl = SeqConv3x3(inputs, outputs, LAPLACIAN)
        self.act = nn.PReLU(num_parameters=outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3x3(x)
        y += self.conv1x1_3x3(x)
        y += self.conv1x1_sbx(x)
        y += self.conv1x1_sby(x)
        y += self.conv1x1_lpl(x)
        if self.with_idt:
            y += x
        out: Tensor = self.act(y)
        return out


class LearnableAffine(nn.Module):
    """a * x + b with one number each."""

    def __init__(self, scale: float = 1.3, bias: float = 0.2) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.tensor([scale])), nn.Parameter(torch.tensor([bias]))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.bias


class PPLCNetV3(nn.Module):
    """affine(hardswish(affine(sum of B K_k x + B K1 x + B x))), the layer of PP-OCR's recognizers."""

    def __init__(self, inputs: int = 8, outputs: int = 8, *, stride: Any = 1, groups: int = 1) -> None:
        super().__init__()
        self.identity = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None
        self.conv_1x1 = conv_bn(inputs, outputs, 1, stride=stride, groups=groups)
        self.conv_kxk = nn.ModuleList(conv_bn(inputs, outputs, 3, stride=stride, padding=1, groups=groups) for _ in range(4))
        self.lab = LearnableAffine()
        self.act = nn.Sequential(nn.Hardswish(), LearnableAffine(0.8, -0.1))

    def forward(self, x: Tensor) -> Tensor:
        out = 0
        if self.identity is not None:
            out += self.identity(x)
        if self.conv_1x1 is not None:
            out += self.conv_1x1(x)
        for conv in self.conv_kxk:
            out += conv(x)
        y: Tensor = self.act(self.lab(out))
        return y


class LoRALinear(nn.Module):
    """W x + sum over adapters of s B A dropout(x) (Hu et al. 2022), as PEFT lays it out."""

    def __init__(self, inputs: int = 16, outputs: int = 16, ranks: Sequence[int] = (4, 2)) -> None:
        super().__init__()
        self.base_layer = nn.Linear(inputs, outputs)
        names = [f"adapter_{number}" for number in range(len(ranks))]
        self.lora_A = nn.ModuleDict({name: nn.Linear(inputs, rank, bias=False) for name, rank in zip(names, ranks, strict=True)})
        self.lora_B = nn.ModuleDict({name: nn.Linear(rank, outputs, bias=False) for name, rank in zip(names, ranks, strict=True)})
        self.lora_dropout = nn.ModuleDict({name: nn.Dropout(0.1) for name in names})
        self.scaling = {name: 16 / rank for name, rank in zip(names, ranks, strict=True)}

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base_layer(x)
        for name, scaling in self.scaling.items():
            x = x.to(self.lora_A[name].weight.dtype)  # type: ignore[arg-type]
            result = result + self.lora_B[name](self.lora_A[name](self.lora_dropout[name](x))) * scaling
        return result


class LoRAConv(nn.Module):
    """K_k x + s K1 K_k' x, K_k' of few channels."""

    def __init__(self, inputs: int = 8, outputs: int = 8, *, rank: int = 2, stride: int = 1) -> None:
        super().__init__()
        self.base_layer = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.lora_A = nn.Conv2d(inputs, rank, 3, stride, 1, bias=False)
        self.lora_B = nn.Conv2d(rank, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base_layer(x) + self.lora_B(self.lora_A(x)) * 2.0
        return y


class Twice(nn.Module):
    """block(relu(block(x))): one block at two places."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(F.relu(self.block(x)))
        return y


class ParallelHeads(nn.Module):
    """relu(cat(B K1 x, B K1 x)): branches side by side that read one input."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.left, self.right = conv_bn(channels, 4, 1), conv_bn(channels, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(torch.cat([self.left(x), self.right(x)], 1))


class ConcatThenConv(nn.Module):
    """K3 cat(K1 x, K1 x)."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(channels, 4, 1), nn.Conv2d(channels, 6, 1)
        self.after = nn.Conv2d(10, channels, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.after(torch.cat([self.left(x), self.right(x)], 1))
        return y


class PadThenConv(nn.Module):
    """B K3 pad(x) with a padding on two sides only, as ports from TensorFlow have it."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, channels, 3, stride=2, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(F.pad(x, (0, 1, 0, 1))))
        return y


class Upward(nn.Module):
    """relu(2 B K^T x + 1): a transposed convolution takes what follows."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.up, self.bn = nn.ConvTranspose2d(channels, 6, 4, 2, 1, bias=False), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.up(x)) * 2 + 1)
