"""Deploy forms as a person writes them: plain layers, with weights by the arithmetic that such converters do, branch by branch.

What a network's own converter makes one convolution is one; a batch norm beside a convolution or a linear layer goes into it; all else
stays. Nothing here goes through `refold.algebra`, so that a folded network has something to be compared with that is not its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from refold.nn import RepVggBlock
from tests.families.models import ECB, MobileOne, RepMixer, RepVGG, RepVGGDW, SeqConv3x3, UniRepLKNet
from tests.networks.models import FastViTEmbedding, RepGhostModule, UniRepBlock


@torch.no_grad()
def by_hand(trained: nn.Module, shape: Sequence[int]) -> nn.Module:
    """The deploy form of a network in eval, which keeps its weights; that both are one function is asserted on images of `shape`.

    >>> by_hand(nn.Sequential(RepVGG(4, 8, stride=2), nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)).eval(), (4, 9, 9))
    Sequential(
      (0): Sequential(
        (0): Conv2d(4, 8, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
        (1): ReLU()
      )
      (1): Conv2d(8, 8, kernel_size=(1, 1), stride=(1, 1))
    )
    """
    wide = copy.deepcopy(trained).double()
    hand = written(copy.deepcopy(wide)).eval()
    assert_same(wide, hand, shape)
    return hand.float()


@torch.no_grad()
def assert_same(trained: nn.Module, hand: nn.Module, shape: Sequence[int]) -> None:
    """Assert that two networks in float64 differ by what rounding explains, of as many terms as the first adds up on its way."""
    terms = sum(weight[0].numel() for weight in trained.parameters() if weight.ndim > 1)
    x = torch.randn(2, *shape, dtype=torch.float64)
    for theirs, mine in zip(_outputs(trained(x)), _outputs(hand(x)), strict=True):
        distance = float((theirs - mine).abs().max() / theirs.abs().max())
        bound = torch.finfo(torch.float64).eps * terms
        assert distance <= bound, f"the form written by hand is {distance:.1e} from the network, and rounding explains {bound:.1e}"


def _outputs(result: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def written(module: nn.Module) -> nn.Module:
    """A module by its writer in `WRITERS`, or with its children so written."""
    writer = WRITERS.get(type(module))
    if writer is not None:
        return writer(module)
    for name, child in module.named_children():
        setattr(module, name, written(child))
    return module


# -------------------------------------------------------------------------------------------------------------------- convolutions


def convolution(weight: Tensor, bias: Tensor, like: nn.Conv2d) -> nn.Conv2d:
    """A convolution of given numbers that moves as another does."""
    options: dict[str, Any] = {"stride": like.stride, "padding": like.padding, "groups": like.groups, "dtype": weight.dtype}
    conv = nn.Conv2d(like.in_channels, like.out_channels, weight.shape[2:], **options)  # type: ignore[arg-type]
    conv.weight.copy_(weight)
    assert conv.bias is not None
    conv.bias.copy_(bias)
    return conv.eval()


def identity(channels: int, groups: int = 1) -> nn.Conv2d:
    """The input itself."""
    conv = nn.Conv2d(channels, channels, 1, groups=groups, bias=False, dtype=torch.float64)
    nn.init.dirac_(conv.weight, groups)
    return conv.eval()


def scaled(conv: nn.Conv2d, factor: Tensor) -> nn.Conv2d:
    """A convolution times a number, or one for each channel."""
    assert conv.bias is not None
    return convolution(conv.weight * factor.reshape(-1, 1, 1, 1), conv.bias * factor.reshape(-1), conv)


def merged(*branches: nn.Conv2d) -> nn.Conv2d:
    """The sum of convolutions that are centred on each other, on the taps of the first, which is the largest."""
    large = branches[0]
    weight, bias = torch.zeros_like(large.weight), large.weight.new_zeros(large.out_channels)
    for branch in branches:
        rows, columns = (
            slice(start := (size - spread * (taps - 1) - 1) // 2, size - start, spread)
            for size, taps, spread in zip(large.kernel_size, branch.kernel_size, branch.dilation, strict=True)
        )
        weight[:, :, rows, columns] += branch.weight
        bias += 0 if branch.bias is None else branch.bias
    return convolution(weight, bias, large)


def branch(layers: Any, groups: int = 1) -> nn.Conv2d:
    """A convolution and its batch norm, or a batch norm alone."""
    conv, norm = (identity(layers.num_features, groups), layers) if isinstance(layers, nn.BatchNorm2d) else layers
    fused: nn.Conv2d = fuse_conv_bn_eval(conv, norm)
    return fused


def one_after_another(block: SeqConv3x3) -> tuple[Tensor, Tensor]:
    """The kernel and the bias of a 1x1 convolution and a 3x3 one on its output, which is continued by the first one's bias."""
    point, shift, after = block.k0[:, :, 0, 0], block.b0, block.b1
    assert shift is not None
    assert after is not None
    if block.groups == 1:
        return torch.einsum("omkl,mi->oikl", block.k1, point), torch.einsum("omkl,m->o", block.k1, shift) + after
    kernel = (block.scale * block.mask)[:, 0]
    return torch.einsum("okl,oi->oikl", kernel, point), kernel.sum((1, 2)) * shift + after


def norm_then_linear(norm: nn.BatchNorm1d, linear: nn.Linear) -> nn.Linear:
    """A linear layer that takes the batch norm in front of it."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    linear.bias.add_(linear.weight @ (norm.bias - scale * norm.running_mean))
    linear.weight.mul_(scale)
    return linear


# -------------------------------------------------------------------------------------------------------------------------- blocks


def sequential(layers: Iterable[nn.Module]) -> nn.Module:
    """Layers in a row, batch norms fused; one alone stands for itself."""
    row: list[nn.Module] = []
    for layer in map(written, layers):
        match row[-1] if row else None, layer:
            case nn.Conv2d() as conv, nn.BatchNorm2d():
                row[-1] = branch((conv, layer))
            case nn.BatchNorm1d() as norm, nn.Linear():
                row[-1] = norm_then_linear(norm, layer)
            case _:
                row.append(layer)
    return row[0] if len(row) == 1 else nn.Sequential(*row)


def rep_vgg(block: RepVGG) -> nn.Module:
    """act(SE(K x + b)) of B K x + B K1 x + B x."""
    convs = [branch(block.rbr_dense), branch(block.rbr_1x1)]
    if block.rbr_identity is not None:
        convs.append(branch(block.rbr_identity, convs[0].groups))
    return followed(merged(*convs), block.se, nn.ReLU())


def rep_vgg_block(block: RepVggBlock) -> nn.Module:
    """act(SE(K x + b)) of B K x + alpha B K1 x + B x."""
    convs = [branch(block.conv1.children()), branch(block.conv2.children())]
    if block.alpha is not None:
        convs[1] = scaled(convs[1], block.alpha)
    if block.identity is not None:
        convs.append(branch(block.identity, convs[0].groups))
    return followed(merged(*convs), block.squeeze_excite, block.act)


def mobile_one(block: MobileOne) -> nn.Module:
    """act(SE(K x + b)) of B K x + ... + B K1 x + B x."""
    convs = [branch(layers) for layers in (*block.rbr_conv, block.rbr_scale) if layers is not None]
    if block.rbr_skip is not None:
        convs.append(branch(block.rbr_skip, convs[0].groups if convs else block.rbr_skip.num_features))
    return followed(merged(*convs), block.se, block.activation)


def rep_mixer(block: RepMixer) -> nn.Module:
    """K x + b of x + s (mixer(x) - norm(x))."""
    mixer, norm = mobile_one(block.mixer), mobile_one(block.norm)
    assert isinstance(mixer, nn.Conv2d)
    assert isinstance(norm, nn.Conv2d)
    scale = mixer.weight.new_ones(1) if block.layer_scale is None else block.layer_scale
    return merged(scaled(mixer, scale), scaled(norm, -scale), identity(mixer.out_channels, mixer.groups))


def rep_vgg_dw(block: RepVGGDW) -> nn.Module:
    """K x + b of B(B K x + K1 x + x)."""
    conv = branch(block.conv)
    return branch((merged(conv, block.conv1, identity(conv.out_channels, conv.groups)), block.bn))


def uni_rep_lk_net(block: UniRepLKNet) -> nn.Conv2d:
    """K x + b of B K x + sum of B K_i x, the latter dilated."""
    pairs = [(getattr(block, f"dil_conv_k{k}_{r}"), getattr(block, f"dil_bn_k{k}_{r}")) for k, r in block.branches]
    return merged(*map(branch, [(block.lk_origin, block.origin_bn), *pairs]))


def ecb(block: ECB) -> nn.Module:
    """act(K x + b) of K x + ... + x, the rest edge operators after 1x1 convolutions."""
    conv = block.conv3x3
    parts = [block.conv1x1_3x3, block.conv1x1_sbx, block.conv1x1_sby, block.conv1x1_lpl]
    convs = [conv, *(convolution(*one_after_another(part), conv) for part in parts)]
    if block.with_idt:
        convs.append(identity(conv.out_channels))
    return followed(merged(*convs), block.act)


def fast_vit_embedding(block: FastViTEmbedding) -> nn.Module:
    """pointwise(gelu(K x + b)) of B K x + B K_small x."""
    return nn.Sequential(merged(branch(block.large), branch(block.small)), nn.GELU(), mobile_one(block.point))


def rep_ghost_module(block: RepGhostModule) -> nn.Module:
    """act(K z + b), z = act(K1 x + b), of B K z + B z."""
    cheap = branch(block.cheap)
    return followed(sequential(block.primary), merged(cheap, branch(block.fusion_bn, cheap.groups)), block.act)


class UniRep(nn.Module):
    """x + W2 GRN(gelu(W1 SE(K x + b))) + b2, channels last between: batch norms and the shift of GRN are in their neighbours."""

    def __init__(self, block: UniRepBlock) -> None:
        super().__init__()
        self.dwconv, self.se = branch((uni_rep_lk_net(block.dwconv), block.norm)), block.se
        self.up, self.gamma = block.up, block.gamma
        block.down.bias = nn.Parameter(block.down.weight @ block.beta)
        self.down = fuse_linear_bn_eval(block.down, block.bn)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps to the same shape."""
        y = F.gelu(self.up(self.se(self.dwconv(x)).permute(0, 2, 3, 1)))
        strength = torch.norm(y, p=2, dim=(1, 2), keepdim=True)
        y = (self.gamma * (strength / (strength.mean(dim=-1, keepdim=True) + 1e-6)) + 1) * y
        z: Tensor = self.down(y).permute(0, 3, 1, 2)
        return x + z


def followed(*layers: nn.Module) -> nn.Module:
    """Layers in a row, without those that do nothing."""
    return sequential(layer for layer in layers if not isinstance(layer, nn.Identity))


WRITERS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.Sequential: sequential,
    ECB: ecb,
    FastViTEmbedding: fast_vit_embedding,
    MobileOne: mobile_one,
    RepGhostModule: rep_ghost_module,
    RepMixer: rep_mixer,
    RepVGG: rep_vgg,
    RepVGGDW: rep_vgg_dw,
    RepVggBlock: rep_vgg_block,
    UniRepBlock: UniRep,
    UniRepLKNet: uni_rep_lk_net,
}
"""Who writes the deploy form of a module. What stands here for none is written child by child."""
