"""One training run: cross-entropy over all items, early stopping on validation NDCG, checkpoints that resume."""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch.nn import functional as F

from examples.movielens.data import Sequences, padded, training_batches
from examples.movielens.model import Config, Recommender


def rank_metrics(ranks: list[int], cutoff: int = 10) -> dict[str, float]:
    """HR, NDCG and MRR at a cutoff of ranks that count from 1.

    >>> rank_metrics([1, 3, 11, 2])["NDCG@10"]
    0.5327324383928644
    """
    hits = [rank for rank in ranks if rank <= cutoff]
    return {
        f"HR@{cutoff}": len(hits) / len(ranks),
        f"NDCG@{cutoff}": sum(1 / math.log2(rank + 1) for rank in hits) / len(ranks),
        f"MRR@{cutoff}": sum(1 / rank for rank in hits) / len(ranks),
    }


@torch.no_grad()
def evaluate(model: Recommender, data: Sequences, split: str, seq_len: int) -> dict[str, float]:
    """Rank each user's held-out item among all items that the user has not seen. Of equal scores the held-out item comes last."""
    model.eval()
    ranks: list[int] = []
    for at in range(0, len(data.users), 128):
        pairs = [data.held_out(user, split) for user in range(at, min(at + 128, len(data.users)))]
        scores = model.scores(model(padded([history for history, _ in pairs], seq_len))[:, -1])
        for row, (history, target) in zip(scores, pairs, strict=True):
            row[torch.from_numpy(history[history != target] - 1)] = -math.inf
            ranks.append(int((row >= row[target - 1]).sum()))
    return rank_metrics(ranks)


def train(data: Sequences, config: Config, folder: Path, quiet: bool = False) -> dict[str, Any]:
    """Train, or go on where an interrupted run stopped; the result is saved and returned."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{config.attention}-{config.seed}"
    result_path, checkpoint_path = folder / f"{name}.json", folder / f"{name}.pt"
    if result_path.exists():
        saved: dict[str, Any] = json.loads(result_path.read_text())
        if saved["config"] == asdict(config):
            return saved
    torch.manual_seed(config.seed)
    model = Recommender(data.num_items, config)
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    state: dict[str, Any] = {"epoch": 0, "best": -1.0, "stale": 0, "seconds": [], "weights": None, "history": []}
    if checkpoint_path.exists():
        saved = torch.load(checkpoint_path, weights_only=True)
        if saved["config"] == asdict(config):
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            torch.set_rng_state(saved["rng"])
            state = saved["state"]
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
    with Progress(*columns, disable=quiet) as progress:
        task = progress.add_task(f"{config.attention}, seed {config.seed}", total=config.epochs, completed=state["epoch"], note="")
        while state["epoch"] < config.epochs and state["stale"] < config.patience:
            started = time.perf_counter()
            loss = _epoch(model, optimizer, data, config, state["epoch"])
            state["seconds"].append(time.perf_counter() - started)
            reached = evaluate(model, data, "valid", config.seq_len)["NDCG@10"]
            state["epoch"] += 1
            state["stale"] += 1
            state["history"].append([loss, reached])
            if reached > state["best"]:
                state |= {"best": reached, "stale": 0, "weights": {key: value.clone() for key, value in model.state_dict().items()}}
            _save(checkpoint_path, model, optimizer, config, state)
            progress.update(task, advance=1, note=f"loss {loss:.3f}, validation NDCG@10 {reached:.4f} (best {state['best']:.4f})")
    model.load_state_dict(state["weights"])
    result = {
        "config": asdict(config),
        "epochs": state["epoch"],
        "seconds_per_epoch": float(np.median(state["seconds"])),
        "peak_mb": peak_megabytes(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "valid": evaluate(model, data, "valid", config.seq_len),
        "test": evaluate(model, data, "test", config.seq_len),
    }
    result_path.write_text(json.dumps(result, indent=1))
    checkpoint_path.unlink(missing_ok=True)
    return result


def _epoch(model: Recommender, optimizer: torch.optim.Optimizer, data: Sequences, config: Config, epoch: int) -> float:
    model.train()
    rng = np.random.default_rng([config.seed, epoch])
    total, items = 0.0, 0
    for history, following in training_batches(data, config.seq_len, config.batch_size, rng):
        real = following > 0
        loss = F.cross_entropy(model.scores(model(history)[real]), following[real] - 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * int(real.sum())
        items += int(real.sum())
    return total / items


def _save(path: Path, model: Recommender, optimizer: torch.optim.Optimizer, config: Config, state: dict[str, Any]) -> None:
    temporary = path.with_suffix(".part")
    content = {
        "config": asdict(config),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "state": state,
    }
    torch.save(content, temporary)
    os.replace(temporary, path)


def peak_megabytes() -> float:
    """The largest resident size that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
