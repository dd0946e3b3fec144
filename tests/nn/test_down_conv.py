"""`DownConv` against the published arithmetic, and what masks and short sequences must not change."""

from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import Tensor
from torch.nn import functional as F

from refold.errors import GeometryError
from refold.geometry import plan_segments
from refold.nn.down_conv import DownConv


def published(module: DownConv, x: Tensor) -> Tensor:
    """The forward pass of the published module, from its formula, with the parameters of ours."""
    k1, m = module.k1, module.m_segments
    blocks = module.seq_len / k1
    k2 = math.ceil(blocks / m)
    padding = math.ceil((k2 * m - blocks) / 2)
    y = F.relu(F.conv1d(x.transpose(1, 2), module.conv1a.weight, module.conv1a.bias, stride=k1))
    return F.conv1d(y, module.conv2a.weight, module.conv2a.bias, stride=k2, padding=padding).transpose(1, 2)


def rounding(module: DownConv, x: Tensor) -> Tensor:
    """How far two orders of the same sums may lie apart: 2 n eps of the sum of magnitudes, n terms deep."""
    double = {name: value.double().abs() for name, value in module.named_parameters()}
    first, second = module.plan.stages
    padded = F.pad(x.double().abs().transpose(1, 2), (first.before, first.after))
    y = F.conv1d(padded, double["conv1a.weight"], double["conv1a.bias"], stride=first.stride)
    y = F.conv1d(F.pad(y, (second.before, second.after)), double["conv2a.weight"], double["conv2a.bias"], stride=second.stride)
    terms = module.conv1a.weight[0].numel() + module.conv2a.weight[0].numel() + 2
    return 2 * terms * torch.finfo(x.dtype).eps * y.transpose(1, 2)


def right_combinations() -> list[tuple[int, int, int]]:
    found = []
    for n in (*range(1, 40), 48, 50, 64, 100, 200, 504, 512):
        for m in range(1, 33):
            for k in range(1, 33):
                try:
                    found.append((plan_segments(n, m, k, "published").length, m, k))
                except GeometryError:
                    continue
    return found


def test_same_as_published_where_that_is_right(seed: int) -> None:
    """benchmarks/segments.py runs all 34,449 combinations."""
    combinations = right_combinations()
    assert len(combinations) > 1000
    for n, m, k in combinations[::3]:
        module = DownConv(n, 4, m, k, 2)
        x = torch.randn(2, n, 4)
        with torch.no_grad():
            ours, theirs = module(x), published(module, x)
        assert ours.shape == theirs.shape == (2, m, 4)
        assert bool(((ours - theirs).abs() <= rounding(module, x)).all()), (n, m, k)


def test_the_oracle_can_fail(seed: int) -> None:
    module, x = DownConv(200, 64, 4, 10), torch.randn(2, 200, 64)
    wrong = published(module, x.roll(1, 1))
    assert bool(((module(x) - wrong).abs() > rounding(module, x)).any())
    assert published(DownConv(51, 64, 4, 10, discipline="overlap"), x[:, :51]).shape != (2, 3, 64)


def test_constructor_and_parameters_are_the_published_ones() -> None:
    module = DownConv()
    assert {name: tuple(value.shape) for name, value in module.state_dict().items()} == {
        "conv1a.weight": (4, 64, 10),
        "conv1a.bias": (4,),
        "conv2a.weight": (64, 4, 5),
        "conv2a.bias": (64,),
    }
    assert (module.seq_len, module.hidden_size, module.m_segments, module.k1, module.channel_reduction) == (200, 64, 4, 10, 16)
    module.load_state_dict(DownConv(seq_len=200, hidden_size=64, m_segments=4, k1=10, channel_reduction=16).state_dict())


CUTS: list[dict[str, Any]] = [
    {"seq_len": 24, "m_segments": 4, "k1": 3},
    {"seq_len": 23, "m_segments": 4, "k1": 3},
    {"seq_len": 21, "m_segments": 4, "k1": 3},
    {"seq_len": 11, "m_segments": 5, "k1": 1},  # published, padded at both ends
    {"seq_len": 23, "m_segments": 5, "k1": 3, "discipline": "overlap"},
    {"seq_len": 24, "m_segments": 5, "k1": 2, "discipline": "overlap"},
    {"seq_len": 20, "m_segments": 6, "k1": 9, "discipline": "overlap"},
    {"seq_len": 8, "m_segments": 8, "k1": 1},
]


@pytest.fixture(params=CUTS, ids=lambda cut: "-".join(map(str, cut.values())))
def module(request: pytest.FixtureRequest, seed: int) -> DownConv:
    return DownConv(hidden_size=8, channel_reduction=2, **request.param).double()


def brute(module: DownConv, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Segment by segment and item by item, from the plan's windows alone."""
    first, second = module.plan.stages
    missing = module.seq_len - x.shape[1]
    assert module.conv1a.bias is not None
    assert module.conv2a.bias is not None
    out = torch.zeros(x.shape[0], module.m_segments, module.hidden_size, dtype=x.dtype)
    real = torch.zeros(x.shape[0], module.m_segments, dtype=torch.bool)
    for row in range(x.shape[0]):
        blocks: dict[int, Tensor] = {}
        for block in range(module.plan.blocks):
            places = [(tap, first.stride * block + tap - first.before - missing) for tap in range(first.kernel)]
            items = [(tap, place) for tap, place in places if 0 <= place < x.shape[1] and bool(mask[row, place])]
            if items:
                read = torch.stack([module.conv1a.weight[:, :, tap] @ x[row, place] for tap, place in items])
                blocks[block] = torch.relu(read.sum(0) + module.conv1a.bias)
        for segment in range(module.m_segments):
            taps = [(tap, second.stride * segment + tap - second.before) for tap in range(second.kernel)]
            held = [(tap, block) for tap, block in taps if block in blocks]
            if held:
                real[row, segment] = True
                read = torch.stack([module.conv2a.weight[:, :, tap] @ blocks[block] for tap, block in held])
                out[row, segment] = read.sum(0) + module.conv2a.bias
    return out, real


@pytest.mark.parametrize("shorter", [0, 1, 5])
@pytest.mark.parametrize("masked", [False, True])
def test_masked_and_missing_items_add_nothing(module: DownConv, shorter: int, masked: bool) -> None:
    length = module.seq_len - shorter
    x = torch.randn(3, length, 8, dtype=torch.float64)
    mask = torch.rand(3, length) < 0.5 if masked else torch.ones(3, length, dtype=torch.bool)
    if masked:
        mask[1] = False
        mask[2, : length // 2] = False
    expected, real = brute(module, x, mask)
    segments, said = module(x, mask if masked else None, return_mask=True)
    torch.testing.assert_close(segments, expected, rtol=0, atol=1e-13)
    assert torch.equal(said, real)
    assert bool((segments[~real] == 0).all())


def test_masked_items_may_be_anything(module: DownConv) -> None:
    x = torch.randn(2, module.seq_len, 8, dtype=torch.float64)
    mask = torch.rand(2, module.seq_len) < 0.6
    expected = module(x, mask)
    for junk in (1e30, math.inf, -math.inf, math.nan):
        spoilt = torch.where(mask[..., None], x, junk).requires_grad_()
        found = module(spoilt, mask)
        assert torch.equal(found, expected)
        found.sum().backward()
        assert spoilt.grad is not None
        assert bool(spoilt.grad.isfinite().all())
        assert bool((spoilt.grad[~mask] == 0).all())


def test_each_segment_reads_its_range(module: DownConv) -> None:
    x = torch.randn(1, module.seq_len, 8, dtype=torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.abs_()  # no ReLU hides an item
        base = module(x.abs())
        for item in range(module.seq_len):
            moved = x.abs()
            moved[0, item] += 1
            changed = (module(moved) != base).any(-1)[0].tolist()
            assert changed == [start <= item < stop for start, stop in module.plan.ranges]


def test_short_sequences_are_aligned_to_the_newest_item(module: DownConv) -> None:
    x = torch.randn(2, module.seq_len - 3, 8, dtype=torch.float64)
    padded = torch.cat([torch.full((2, 3, 8), 7.0, dtype=torch.float64), x], 1)
    mask = torch.arange(module.seq_len).expand(2, -1) >= 3
    assert torch.equal(module(x), module(padded, mask))
    assert bool((module(x[:, :0]) == 0).all())


def test_kernel_equal_to_stride_runs_without_a_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    module = DownConv(24, 8, 4, 3, 2)
    monkeypatch.setattr(F, "conv1d", None)
    assert module(torch.zeros(1, 24, 8)).shape == (1, 4, 8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype: Any) -> None:
    assert DownConv().to(dtype)(torch.zeros(2, 200, 64, dtype=dtype)).dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert DownConv()(torch.zeros(2, 150, 64), torch.ones(2, 150, dtype=torch.bool)).dtype == torch.bfloat16


def test_compiles_and_exports_with_a_free_batch_and_length(module: DownConv) -> None:
    x = torch.randn(3, module.seq_len - 2, 8, dtype=torch.float64)
    mask = torch.rand(3, module.seq_len - 2) < 0.5
    torch.compiler.reset()
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, mask), module(x, mask))
    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=2, max=module.seq_len)
    for arguments, shapes in (((x,), ({0: batch, 1: length},)), ((x, mask), ({0: batch, 1: length}, {0: batch, 1: length}))):
        exported = torch.export.export(module, arguments, dynamic_shapes=shapes).module()
        for size in (2, module.seq_len - 2, module.seq_len):
            x = torch.randn(5, size, 8, dtype=torch.float64)
            mask = torch.rand(5, size) < 0.5
            given = (x, mask)[: len(arguments)]
            torch.testing.assert_close(exported(*given), module(*given))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"m_segments": 201}, r"`m_segments` \(=201\) must be at most `seq_len` \(=200\)"),
        ({"k1": 300}, r"`k1` \(=300\) must be at most `seq_len` \(=200\)"),
        ({"hidden_size": 8}, r"`channel_reduction` \(=16\) leaves no channel of `hidden_size` \(=8\); take one of at most 8"),
        ({"seq_len": 0}, r"`seq_len` \(=0\) must be at least 1"),
        ({"k1": -3}, r"`k1` \(=-3\) must be at least 1"),
        ({"m_segments": 2.5}, r"`m_segments` \(=2.5\) must be a whole number"),
        ({"hidden_size": True}, r"`hidden_size` \(=True\) is a truth value"),
        ({"channel_reduction": 0}, r"`channel_reduction` \(=0\) must be at least 1"),
        ({"seq_len": 50}, r"50 items do not make 4 disjoint segments with first kernel 10: .*take 3 or 5 segments"),
        ({"discipline": "even"}, r"`discipline` \(='even'\) must be one of"),
    ],
)
def test_the_constructor_refuses(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(GeometryError, match=text):
        DownConv(**arguments)


def test_bad_inputs() -> None:
    module, x = DownConv(), torch.zeros(2, 200, 64)
    with pytest.raises(ValueError, match=r"items must be \(batch, length, hidden_size=64\), not \(2, 200, 32\)"):
        module(x[..., :32])
    with pytest.raises(ValueError, match=r"not \(200, 64\)"):
        module(x[0])
    with pytest.raises(ValueError, match=r"201 items are more than `seq_len` \(=200\); keep the newest, x\[:, -200:\]"):
        module(torch.zeros(2, 201, 64))
    with pytest.raises(ValueError, match=r"items must be floating point, not torch.int64; embed them first"):
        module(x.long())
    with pytest.raises(ValueError, match=r"`mask` must be torch.bool, True where an item is real, not torch.float32; use mask.bool\(\)"):
        module(x, torch.ones(2, 200))
    with pytest.raises(ValueError, match=r"`mask` \(2, 199\) must be \(batch, length\), \(2, 200\) for these items"):
        module(x, torch.ones(2, 199, dtype=torch.bool))
    x[1, 7, 3] = math.nan
    with pytest.raises(ValueError, match="1 items are NaN, the first is item 7 of row 1; mask them, or mend the layer that made them"):
        module(x)
    x[0, 0, 0], x[0, 0, 1], x[1, 7, 3] = math.inf, -math.inf, 0.0
    module(x, torch.ones(2, 200, dtype=torch.bool))  # infinities are numbers
