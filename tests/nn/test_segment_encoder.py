"""`SegmentEncoder`: what holds for one layer of attention holds for a stack of them."""

from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip("torch")
import torch

from refold.errors import GeometryError
from refold.nn.segment_encoder import SegmentEncoder


def build(**kind: Any) -> SegmentEncoder:
    arguments = {"hidden_size": 8, "num_heads": 2, "num_layers": 2, "seq_len": 12, "m_segments": 4, "k1": 3, "channel_reduction": 2} | kind
    return SegmentEncoder(**arguments).double().eval()


@pytest.mark.parametrize("local_window", [0, 4])
def test_no_item_sees_a_later_one(seed: int, local_window: int) -> None:
    encoder = build(causal=True, local_window=local_window)
    x = torch.randn(1, 12, 8, dtype=torch.float64)
    with torch.no_grad():
        base = encoder(x)
        for item in range(12):
            moved = x.clone()
            moved[0, item] += 100.0
            assert torch.equal(encoder(moved)[0, :item], base[0, :item])
            assert not torch.equal(encoder(moved)[0, item], base[0, item])


@pytest.mark.parametrize("causal", [False, True])
def test_masked_items_may_be_anything(seed: int, causal: bool) -> None:
    encoder = build(causal=causal, local_window=4)
    x = torch.randn(3, 12, 8, dtype=torch.float64)
    mask = torch.rand(3, 12) < 0.6
    mask[0] = False
    expected = encoder(x, mask)
    assert bool((expected[~mask] == 0).all())
    for junk in (1e30, math.inf, math.nan):
        assert torch.equal(encoder(torch.where(mask[..., None], x, junk), mask), expected)


def test_exports_with_a_free_batch_and_length(seed: int) -> None:
    encoder = build(causal=True)
    x = torch.randn(3, 10, 8, dtype=torch.float64)
    mask = torch.rand(3, 10) < 0.6
    free = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=2, max=12)}
    exported = torch.export.export(encoder, (x, mask), dynamic_shapes=(free, free)).module()
    x, mask = torch.randn(5, 12, 8, dtype=torch.float64), torch.rand(5, 12) < 0.6
    torch.testing.assert_close(exported(x, mask), encoder(x, mask))


def test_learns_to_repeat_the_first_item(seed: int) -> None:
    """A task that only attention to far segments can do: the loss falls to a tenth within seconds."""
    torch.manual_seed(0)
    encoder = build(seq_len=16, m_segments=8, k1=2, causal=True, channel_reduction=1).float().train()
    optimizer = torch.optim.Adam(encoder.parameters(), 1e-2)
    losses = []
    for _ in range(150):
        x = torch.randn(64, 16, 8).sign()
        loss = (encoder(x)[:, -1] - x[:, 0]).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"num_layers": 0}, r"`num_layers` \(=0\) must be at least 1"),
        ({"feedforward_size": 0.5}, r"`feedforward_size` \(=0.5\) must be a whole number"),
        ({"seq_len": 0}, r"`seq_len` \(=0\) must be at least 1"),
        ({"hidden_size": -8}, r"`hidden_size` \(=-8\) must be at least 1"),
    ],
)
def test_the_constructor_refuses(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(GeometryError, match=text):
        build(**arguments)


def test_bad_inputs() -> None:
    encoder = build()
    with pytest.raises(ValueError, match=r"13 items are more than `seq_len` \(=12\)"):
        encoder(torch.zeros(1, 13, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match="items are NaN"):
        encoder(torch.full((1, 12, 8), math.nan, dtype=torch.float64))
