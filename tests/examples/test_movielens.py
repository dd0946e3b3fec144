"""The MovieLens example on synthetic walks, and on the real file where it is in the cache."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from examples.movielens import data as movielens
from examples.movielens.__main__ import table
from examples.movielens.model import Config, Recommender
from examples.movielens.train import evaluate, rank_metrics, train

SMALL = Config(
    seq_len=16,
    hidden_size=16,
    num_heads=2,
    num_layers=1,
    dropout=0.0,
    learning_rate=1e-2,
    batch_size=16,
    epochs=12,
    m_segments=4,
    k1=2,
    channel_reduction=1,
    local_window=4,
)
KINDS = ["full", "segments"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_run_learns(kind: str, tmp_path: Path) -> None:
    walks = movielens.synthetic()
    result = train(walks, dataclasses.replace(SMALL, attention=kind), tmp_path, quiet=True)
    assert result["test"]["HR@10"] > 0.6  # by chance 10 of about 20 unseen items at the most
    assert result["test"]["MRR@10"] > 0.3
    assert json.loads((tmp_path / f"{kind}-0.json").read_text()) == result
    assert not list(tmp_path.glob("*.pt"))


def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walks = movielens.synthetic(users=20)
    config = dataclasses.replace(SMALL, attention="segments", dropout=0.2, epochs=4, patience=9)
    whole = train(walks, config, tmp_path / "whole", quiet=True)

    calls = 0

    def interrupted(*arguments: Any) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("examples.movielens.train.evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(walks, config, tmp_path / "parts", quiet=True)
    resumed = train(walks, config, tmp_path / "parts", quiet=True)
    assert resumed["test"] == whole["test"]
    assert resumed["valid"] == whole["valid"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_score_depends_on_later_items(kind: str, seed: int) -> None:
    model = Recommender(40, dataclasses.replace(SMALL, attention=kind)).eval()
    history = torch.randint(1, 41, (2, 16))
    with torch.no_grad():
        base = model(history)
        for at in range(1, 16):
            changed = history.clone()
            changed[:, at] = changed[:, at] % 40 + 1
            assert torch.equal(model(changed)[:, :at], base[:, :at])


def test_ranks_are_those_of_sorting(seed: int) -> None:
    walks = movielens.synthetic(users=30)
    model = Recommender(walks.num_items, SMALL).eval()
    found = evaluate(model, walks, "test", SMALL.seq_len)
    ranks = []
    for user in range(len(walks.users)):
        history, target = walks.held_out(user, "test")
        assert target == walks.users[user][-1]
        assert len(history) == len(walks.users[user]) - 1
        with torch.no_grad():
            scores = model.scores(model(movielens.padded([history], SMALL.seq_len))[:, -1])[0].tolist()
        candidates = [item for item in range(1, walks.num_items + 1) if item == target or item not in set(history.tolist())]
        ranks.append(sorted(candidates, key=lambda item: -scores[item - 1]).index(target) + 1)
    assert found == rank_metrics(ranks)


def test_metrics_by_hand() -> None:
    assert rank_metrics([1, 2, 11]) == {
        "HR@10": 2 / 3,
        "NDCG@10": (1 + 1 / math.log2(3)) / 3,
        "MRR@10": (1 + 1 / 2) / 3,
    }


def test_training_never_sees_what_is_held_out() -> None:
    users = [np.arange(1, 41), np.array([7, 8, 9])]
    rng = np.random.default_rng(0)
    for _ in range(20):
        for history, following in movielens.training_batches(movielens.Sequences(users, 40), 8, 4, rng):
            assert int(following.max()) <= 38
            both = (history > 0) & (following > 0)
            assert bool((following[both] - history[both] == 1).all())
            assert bool(((history > 0) == (following > 0)).all())


def test_reading_sorts_by_time_and_keeps_the_order_of_equal_times(tmp_path: Path) -> None:
    path = tmp_path / "small.inter"
    path.write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n5\t30\t1\t20\n5\t10\t1\t20\n2\t30\t5\t9\n5\t20\t3\t10\n")
    sequences = movielens.read(path)
    assert [user.tolist() for user in sequences.users] == [[3], [2, 3, 1]]
    assert sequences.num_items == 3


def test_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFOLD_CACHE", str(tmp_path))
    with pytest.raises(movielens.NoData, match=r"ml-100k.inter is not there; run `make movielens` once while online"):
        movielens.fetch(download=False)
    (tmp_path / "movielens").mkdir()
    (tmp_path / "movielens" / "ml-100k.inter").write_text("spoilt")
    with pytest.raises(movielens.NoData, match="delete it to download it anew"):
        movielens.fetch(download=False)


def test_the_real_file_where_it_is_cached() -> None:
    try:
        path = movielens.fetch(download=False)
    except movielens.NoData as missing:
        pytest.skip(str(missing))
    sequences = movielens.read(path)
    assert (len(sequences.users), sequences.num_items, sum(map(len, sequences.users))) == (943, 1682, 100_000)


def test_the_table_compares_means() -> None:
    def run(ndcg: float) -> dict[str, Any]:
        return {"test": {"HR@10": 0.2, "NDCG@10": ndcg, "MRR@10": 0.05}, "seconds_per_epoch": 2.0, "peak_mb": 300.0, "parameters": 1234}

    text = table({"full": [run(0.1), run(0.12)], "segments": [run(0.1), run(0.11)]})
    assert "| full | 0.2000 ± 0.0000 | 0.1100 ± 0.0141 | 0.0500 ± 0.0000 | 2.00 | 300 MB | 1,234 |" in text
    assert text.endswith("NDCG@10 of segments over full attention: 0.955")
