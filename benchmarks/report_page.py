"""The report of a network of more than a thousand operators: its size, the time to write, open and answer, and how smoothly it moves.

python -m benchmarks.report_page

Needs Chromium and its driver. Opening and moving take the time of the clock, so run it on a quiet machine.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import refold
from benchmarks._networks import settled
from refold.folding import FoldResult
from tests.page import browser as chromium

BLOCKS, CHANNELS = 170, 4
SIZE_BAR, OPEN_BAR = 3e6, 1.0
LOADS, STEPS = 7, 60

ANSWER = """
const done = arguments[0];
const box = document.querySelector('[data-panel=after] .box.fold');
const ready = document.documentElement.dataset.ready;
box.dispatchEvent(new MouseEvent('click', { bubbles: true }));
requestAnimationFrame(() => setTimeout(() => {
  const told = document.querySelector('#details pre');
  done(ready && told ? (performance.timeOrigin + performance.now()) / 1000 : null);
}));
"""
"""Click a box, wait until the answer is painted, and give the time, or nothing where there is no answer."""

MOVE = """
const [steps, done] = arguments;
const panel = panels[0];
const gaps = [];
let last = null, step = 0;
function frame(now) {
  if (last !== null) gaps.push(now - last);
  last = now;
  if (step === steps) return done(gaps);
  if (step % 2) zoom(panel, panel.scale * (step < steps / 2 ? 1.1 : 1 / 1.1));
  else { panel.view.scrollTop += 150; panel.view.scrollLeft += 5; }
  step += 1;
  requestAnimationFrame(frame);
}
requestAnimationFrame(frame);
"""
"""Zoom and pan by turns, a step a frame, and give the milliseconds between the frames."""


def folded() -> FoldResult:
    """The network, folded with proof."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    blocks = (refold.nn.RepVggBlock(CHANNELS, CHANNELS, identity=True) for _ in range(BLOCKS))
    return refold.fold(settled(nn.Sequential(*blocks)), (torch.randn(1, CHANNELS, 8, 8),))


def opened(driver: Any, page: Path) -> float:
    """Seconds from navigation until a click is answered."""
    driver.get("about:blank")
    start = time.time()
    driver.get(page.as_uri())
    end = driver.execute_async_script(ANSWER)
    assert end is not None, "the page did not answer"
    return float(end) - start


def main() -> None:
    """Print the figures."""
    result = folded()
    before, after = result.report.before.operators, result.report.after.operators
    print(f"network: {before:,} operators before, {after:,} after, {len(result.report.folds)} folds")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        output = result.save(folder / "out.pt2")
        times = []
        for _ in range(4):
            start = time.perf_counter()
            page = result.save_report(folder / "report.html", output=output)
            times.append(time.perf_counter() - start)
        print(f"write: {statistics.median(times[1:]):.2f} s, the first time {times[0]:.2f} s")
        print(f"size: {page.stat().st_size / 1e6:.2f} MB (bar {SIZE_BAR / 1e6:.0f})")
        if chromium.missing():
            print(f"open, move: not measured; not installed here: {chromium.missing()} (Debian: chromium, chromium-driver)")
            return
        browser = chromium.start(folder / "profile")
        try:
            driver = browser.driver
            driver.set_window_size(*chromium.WIDE)
            seconds = [opened(driver, page) for _ in range(LOADS)]
            spread = f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
            print(f"open: {spread} until a click is answered (bar {OPEN_BAR:.0f})")
            gaps = driver.execute_async_script(MOVE, STEPS)
            print(f"move: {STEPS} zooms and pans, {statistics.median(gaps):.0f} ms from frame to frame, the longest {max(gaps):.0f} ms")
        finally:
            browser.driver.quit()


if __name__ == "__main__":
    main()
