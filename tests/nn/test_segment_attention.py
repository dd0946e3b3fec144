"""`SegmentAttention` against attention written out item by item, and what may not leak."""

from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import Tensor

from refold.errors import GeometryError
from refold.nn.segment_attention import SegmentAttention

KINDS: list[dict[str, Any]] = [
    {},
    {"causal": True},
    {"causal": True, "position": None},
    {"position": "items"},
    {"causal": True, "position": "items"},
    {"local_window": 4},
    {"causal": True, "local_window": 4},
    {"causal": True, "discipline": "overlap", "m_segments": 5},
    {"seq_len": 22, "m_segments": 5, "k1": 2, "causal": True},  # published, padded at both ends
]


def build(**kind: Any) -> SegmentAttention:
    arguments = {"hidden_size": 8, "num_heads": 2, "seq_len": 24, "m_segments": 4, "k1": 3, "channel_reduction": 2} | kind
    return SegmentAttention(**arguments).double().eval()


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(map(str, kind.values())) or "plain")
def attention(request: pytest.FixtureRequest, seed: int) -> SegmentAttention:
    return build(**request.param)


def items(attention: SegmentAttention, batch: int = 2, shorter: int = 0) -> Tensor:
    return torch.randn(batch, attention.seq_len - shorter, 8, dtype=torch.float64)


def softmax_of(scores: list[Tensor], values: list[Tensor]) -> Tensor:
    weights = torch.stack(scores).softmax(0)
    return (weights[:, None] * torch.stack(values)).sum(0)


def written_out(attention: SegmentAttention, x: Tensor, mask: Tensor) -> Tensor:
    """Every head of every item by itself: which segments and items it sees, their scores, their softmax, their sum."""
    batch, length, hidden = x.shape
    size = hidden // attention.num_heads
    missing = attention.seq_len - length
    x = x.masked_fill(~mask[..., None], 0.0)
    keys, real = attention.key(x, mask, return_mask=True)
    values = attention.value(x, mask)
    query = attention.query(x)
    out = torch.zeros_like(x)
    for row in range(batch):
        for item in range(length):
            if not mask[row, item]:
                continue
            heads = []
            for head in range(attention.num_heads):
                part = slice(head * size, (head + 1) * size)
                ask = query[row, item, part]
                positioned = attention.position == "segments"
                placed = ask + attention.item_position[missing + item, part] if positioned else ask
                seen = []
                if attention.causal:
                    seen.append((attention.null_key[head, 0], attention.null_value[head, 0], 0))
                for segment, (_, stop) in enumerate(attention.key.plan.ranges):
                    if real[row, segment] and (not attention.causal or stop <= missing + item + 1):
                        seen.append((keys[row, segment, part], values[row, segment, part], segment + attention.causal))
                scores = [placed @ (key + attention.segment_position[head, at] if positioned else key) / size**0.5 for key, _, at in seen]
                result = softmax_of(scores, [value for _, value, _ in seen])

                def sees(other: int) -> bool:
                    return bool(mask[row, other]) and not (attention.causal and other > item)  # noqa: B023

                if attention.position == "items":
                    positions = attention.position_norm(x[row] + attention.item_position[missing:])
                    near = [other for other in range(length) if sees(other)]
                    ask_position = attention.position_query(positions[item])[part]
                    result = result + softmax_of(
                        [ask_position @ attention.position_key(positions[other])[part] / size**0.5 for other in near],
                        [attention.item_value(x[row, other])[part] for other in near],
                    )
                if attention.local_window:
                    chunk = [(other + -length % attention.local_window) // attention.local_window for other in range(length)]
                    near = [other for other in range(length) if sees(other) and abs(chunk[other] - chunk[item]) <= 1]
                    result = result + softmax_of(
                        [ask @ attention.item_key(x[row, other])[part] / size**0.5 for other in near],
                        [attention.item_value(x[row, other])[part] for other in near],
                    )
                heads.append(result)
            out[row, item] = attention.out(torch.cat(heads))
    return out


@pytest.mark.parametrize("shorter", [0, 3])
def test_as_written_out(attention: SegmentAttention, shorter: int) -> None:
    x = items(attention, shorter=shorter)
    mask = torch.rand(x.shape[:2]) < 0.7
    with torch.no_grad():
        torch.testing.assert_close(attention(x, mask), written_out(attention, x, mask), rtol=0, atol=1e-13)
        full = torch.ones_like(mask)
        torch.testing.assert_close(attention(x), written_out(attention, x, full), rtol=0, atol=1e-13)


def test_the_oracle_can_fail(seed: int) -> None:
    attention = build(causal=True)
    x = items(attention)
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        expected = written_out(attention, x, mask)
        attention.causal = False
        attention.segment_position.data = attention.segment_position[:, 1:]
        assert bool(((attention(x) - expected).abs() > 1e-3).any())


def test_no_item_sees_a_later_one(attention: SegmentAttention) -> None:
    x = items(attention, batch=1)
    with torch.no_grad():
        base = attention(x)
        moved_at_all = []
        for item in range(x.shape[1]):
            for change in (1.0, 1e12):
                moved = x.clone()
                moved[0, item] += change
                earlier = attention(moved)[0, :item]
                if attention.causal:
                    assert torch.equal(earlier, base[0, :item])
                else:
                    moved_at_all.append(not torch.equal(earlier, base[0, :item]))
        assert attention.causal or any(moved_at_all)


def test_an_item_sees_the_segment_that_it_ends(seed: int) -> None:
    attention = build(causal=True)
    x = items(attention, batch=1)
    with torch.no_grad():
        base = attention(x)
        moved = x.clone()
        moved[0, 6] += 1.0  # in segment 0, which ends with item 5; in segment 1, which ends with item 11
        changed = (attention(moved) != base).any(-1)[0].tolist()
    assert attention.key.plan.ranges[1] == (6, 12)
    assert changed == [item == 6 or item >= 11 for item in range(24)]


def test_masked_items_may_be_anything(attention: SegmentAttention) -> None:
    x = items(attention, batch=3)
    mask = torch.rand(x.shape[:2]) < 0.6
    mask[2] = False
    expected = attention(x, mask)
    assert bool((expected[~mask] == 0).all())
    assert bool(expected.isfinite().all())
    for junk in (1e30, math.inf, math.nan):
        spoilt = torch.where(mask[..., None], x, junk).requires_grad_()
        found = attention(spoilt, mask)
        assert torch.equal(found, expected)
        found.sum().backward()
        assert spoilt.grad is not None
        assert bool(spoilt.grad.isfinite().all())
        assert bool((spoilt.grad[~mask] == 0).all())
    for parameter in attention.parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.isfinite().all())


def test_padding_in_front_is_a_shorter_sequence(attention: SegmentAttention) -> None:
    if attention.local_window:
        pytest.skip("chunks of a local window are counted from the newest item; a multiple of them is tested below")
    x = items(attention, shorter=5)
    padded = torch.cat([torch.full((2, 5, 8), 3.0, dtype=torch.float64), x], 1)
    mask = torch.arange(attention.seq_len).expand(2, -1) >= 5
    torch.testing.assert_close(attention(padded, mask)[:, 5:], attention(x), rtol=0, atol=1e-13)


def test_padding_in_front_of_local_windows(seed: int) -> None:
    attention = build(causal=True, local_window=4)
    x = items(attention, shorter=5)
    padded = torch.cat([torch.full((2, 5, 8), 3.0, dtype=torch.float64), x], 1)
    mask = torch.arange(attention.seq_len).expand(2, -1) >= 5
    torch.testing.assert_close(attention(padded, mask)[:, 5:], attention(x), rtol=0, atol=1e-13)


def test_dropout_is_for_training_only(seed: int) -> None:
    attention = build(dropout=0.5)
    x = items(attention)
    assert torch.equal(attention(x), attention(x))
    attention.train()
    assert not torch.equal(attention(x), attention(x))


def test_runs_under_autocast_and_in_half_precision(attention: SegmentAttention) -> None:
    x = items(attention).float()
    mask = torch.rand(x.shape[:2]) < 0.6
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = attention.float()(x, mask)
    assert y.shape == x.shape
    assert bool(y.isfinite().all())
    assert attention.bfloat16()(x.bfloat16(), mask).dtype == torch.bfloat16


def test_compiles_and_exports_with_a_free_batch_and_length(attention: SegmentAttention) -> None:
    x = items(attention, batch=3, shorter=2)
    mask = torch.rand(x.shape[:2]) < 0.6
    torch.compiler.reset()
    compiled = torch.compile(attention, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, mask), attention(x, mask))
    free = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=2, max=attention.seq_len)}
    exported = torch.export.export(attention, (x, mask), dynamic_shapes=(free, free)).module()
    for size in (2, attention.seq_len - 3, attention.seq_len):
        x = torch.randn(5, size, 8, dtype=torch.float64)
        mask = torch.rand(5, size) < 0.6
        torch.testing.assert_close(exported(x, mask), attention(x, mask))


def test_saves_and_loads(attention: SegmentAttention) -> None:
    names = set(attention.state_dict())
    assert {"key.conv1a.weight", "value.conv2a.bias", "query.weight", "out.bias"} <= names
    assert "visible" not in names
    assert ("null_key" in names) == attention.causal


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"num_heads": 3}, r"`hidden_size` \(=8\) must be divisible by `num_heads` \(=3\)"),
        ({"num_heads": 0}, r"`num_heads` \(=0\) must be at least 1"),
        ({"dropout": 1.0}, r"`dropout` \(=1.0\) must be at least 0 and below 1"),
        ({"dropout": math.nan}, r"`dropout` \(=nan\) must be at least 0 and below 1"),
        ({"position": "sine"}, r"`position` \(='sine'\) must be 'segments', 'items' or None"),
        ({"local_window": -1}, r"`local_window` \(=-1\) must be at least 0"),
        ({"m_segments": 25}, r"`m_segments` \(=25\) must be at most `seq_len` \(=24\)"),
        ({"channel_reduction": 9}, r"`channel_reduction` \(=9\) leaves no channel"),
    ],
)
def test_the_constructor_refuses(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(GeometryError, match=text):
        build(**arguments)


def test_bad_inputs(seed: int) -> None:
    attention = build()
    x = items(attention)
    with pytest.raises(ValueError, match=r"25 items are more than `seq_len` \(=24\)"):
        attention(torch.zeros(1, 25, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"`mask` must be torch.bool"):
        attention(x, torch.ones(2, 24))
    x[0, 1] = math.nan
    with pytest.raises(ValueError, match="1 items are NaN, the first is item 1 of row 0"):
        attention(x)
