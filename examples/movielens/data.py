"""MovieLens-100k as sequences of items, from the data file inside the PyPI package recbole."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

PACKAGE = "recbole==1.2.1"
MEMBER = "recbole/dataset_example/ml-100k/ml-100k.inter"
JITTER = 8
SHA256 = "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"


class NoData(RuntimeError):
    """The data file is neither in the cache nor to be had from the package index."""


@dataclass(frozen=True)
class Sequences:
    """What every user watched, oldest first; items count from 1, and 0 is padding."""

    users: list[np.ndarray]
    num_items: int

    def train(self, user: int) -> np.ndarray:
        """All but the last two."""
        return self.users[user][:-2]

    def held_out(self, user: int, split: str) -> tuple[np.ndarray, int]:
        """The history and the item to guess: the last but one for `valid`, the last for `test`."""
        at = {"valid": -2, "test": -1}[split]
        return self.users[user][:at], int(self.users[user][at])


def cache_folder() -> Path:
    """Where downloads and results go: REFOLD_CACHE, or refold in the user's cache folder."""
    base = os.environ.get("REFOLD_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refold"
    return Path(base) / "movielens"


def fetch(download: bool = True) -> Path:
    """The interactions file, downloaded once with pip."""
    folder = cache_folder()
    path = folder / "ml-100k.inter"
    if not path.exists():
        if not download:
            raise NoData(f"{path} is not there; run `make movielens` once while online")
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder), PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise NoData(f"pip could not download {PACKAGE}: {reason}")
        wheel = next(folder.glob("recbole-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(MEMBER)
        temporary = path.with_suffix(".part")
        temporary.write_bytes(content)
        temporary.replace(path)
        wheel.unlink()
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise NoData(f"{path} has SHA-256 {found[:12]}…, not {SHA256[:12]}…; delete it to download it anew")
    return path


def read(path: Path) -> Sequences:
    """Every user's items by time; equal times keep the order of the file."""
    table = np.loadtxt(path, delimiter="\t", skiprows=1)
    table = table[np.argsort(table[:, 3], kind="stable")]
    users = np.unique(table[:, 0], return_inverse=True)[1]
    names, items = np.unique(table[:, 1], return_inverse=True)
    return Sequences([items[users == user] + 1 for user in range(users.max() + 1)], len(names))


def synthetic(users: int = 60, items: int = 40, length: int = 30, seed: int = 0) -> Sequences:
    """Users who walk through the items by a fixed step of their own, with a stray item now and then."""
    rng = np.random.default_rng(seed)
    walks = []
    for _ in range(users):
        start, step, n = rng.integers(items), rng.choice([1, 3, 7]), rng.integers(length // 2, length)
        walks.append((start + step * np.arange(n) + (rng.random(n) < 0.05) * rng.integers(items, size=n)) % items + 1)
    return Sequences(walks, items)


def training_batches(data: Sequences, seq_len: int, batch_size: int, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows of `seq_len` items and the items that follow each of them; padded in front with 0.

    Each epoch leaves out a few of the newest items of every history (fewer than `JITTER`), so that an item falls into another part of
    its window, and of its segment, every time.
    """
    windows = []
    for user in range(len(data.users)):
        history = data.train(user)
        newest = len(history) - int(rng.integers(min(JITTER, max(1, len(history) - 1))))
        windows += [history[max(0, stop - seq_len - 1) : stop] for stop in range(newest, 1, -seq_len)]
    order = rng.permutation(len(windows))
    for at in range(0, len(order), batch_size):
        chosen = [windows[index] for index in order[at : at + batch_size]]
        yield padded([window[:-1] for window in chosen], seq_len), padded([window[1:] for window in chosen], seq_len)


def padded(rows: list[np.ndarray], seq_len: int) -> Tensor:
    """The newest `seq_len` items of each row, aligned to the newest."""
    batch = np.zeros((len(rows), seq_len), dtype=np.int64)
    for index, row in enumerate(rows):
        row = row[-seq_len:]
        batch[index, seq_len - len(row) :] = row
    return torch.from_numpy(batch)
