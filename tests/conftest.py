"""Settings that every test shares: threads, hypothesis profiles, seeds."""

from __future__ import annotations

import os
import random
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    max_examples=40,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", settings.get_profile("ci"), derandomize=False, max_examples=1000)
settings.register_profile("unshrunk", settings.get_profile("ci"), phases=(Phase.explicit, Phase.generate))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

SEED = 20210111

if find_spec("torch"):
    import torch

    torch.set_num_threads(1)  # as many workers as cores run side by side


@pytest.fixture
def seed() -> int:
    """Seed Python, NumPy and torch alike, and return the seed."""
    random.seed(SEED)
    np.random.seed(SEED)
    if find_spec("torch"):
        torch.manual_seed(SEED)
    return SEED


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a NumPy generator that gives the same numbers in every run."""
    return np.random.default_rng(SEED)
