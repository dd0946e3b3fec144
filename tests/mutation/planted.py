"""Tests for the trial itself, each of which is to end as its name says where `Window.output_size` is mutated. Collected by name alone."""

from __future__ import annotations

import time

from refold.geometry import Window


def test_killed() -> None:
    assert Window(3, stride=2).output_size(9) == 4


def test_alive() -> None:
    assert Window(3, stride=2).output_size(9)


def test_unreached() -> None:
    assert Window(3, stride=2).span == 3


def test_timeout() -> None:
    if Window(3, stride=2).output_size(9) != 4:
        time.sleep(1000)
