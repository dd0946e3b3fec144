"""What a trial of one network found, as a line of the log; and sums over logs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

CATEGORIES = {
    "same": "folded, and the same wherever both were run",
    "wrong": "another result than the original's, beyond rounding",
    "crash": "an exception that is none of refold's own, or the death of the process",
    "prover": "refused by the proof, or called not to run, although the fold is right",
    "caught": "a wrong fold that the proof found, so that nothing was given",
    "refused": "refused by refold although torch.export or the runtime takes it",
    "untraceable": "torch.export itself does not take it, or the runtime does not run it",
}
"""What can come of a network."""
SIZES = 12
"""Sizes at which a network is compared, the example's among them; fewer where the original runs at fewer."""
FAULTS = ("wrong", "crash", "prover", "caught", "refused")


@dataclass
class Outcome:
    """What came of one network; sizes are counted where the original runs."""

    category: str = "same"
    text: str = ""
    sizes: int = 0
    refused: int = 0
    unworded: int = 0
    refusals: list[str] = field(default_factory=list)
    branches: bool = False
    folds: int = 0
    operators: list[str] = field(default_factory=list)
    apart: int = 0
    """Of `refused`, those where axes that belong together were torn apart."""

    def refuse(self, text: str, *, apart: bool, in_words: bool) -> None:
        """One size that the original runs and the folded network does not."""
        self.refused += 1
        self.apart += apart
        self.unworded += not in_words
        self.refusals.append(text)


def append(path: Path, kind: str, seed: int, index: int, outcome: Outcome, versions: dict[str, str]) -> None:
    """One more line of the log."""
    line = {"kind": kind, "seed": seed, "index": index, **asdict(outcome), "versions": versions}
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """All lines of logs; of a network that was tried twice by one version, the last."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in paths:
        for text in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            found[line["kind"], line["seed"], line["index"], line["versions"].get("commit")] = line
    return list(found.values())


def summary(lines: Iterable[dict[str, Any]]) -> str:
    """The sums, a paragraph for each kind of network."""
    told = []
    lines = list(lines)
    for kind in sorted({line["kind"] for line in lines}):
        own = [line for line in lines if line["kind"] == kind]
        counts = Counter(line["category"] for line in own)
        judged = [line for line in own if line["category"] != "untraceable"]
        told.append(f"{kind}: {len(judged)} networks judged, {sum(line['folds'] for line in judged)} folds, of seeds {_seeds(own)}")
        told += [f"  {name:12} {counts[name]:6}   {text}" for name, text in CATEGORIES.items()]
        for words, some in (("that branch on no size", False), ("that branch on a size", True)):
            part = [line for line in judged if line["branches"] is some]
            told.append(f"  networks {words}: {len(part)}; {_sizes(part)}")
        told.append(f"  in all: {_sizes(judged)}, {sum(line['unworded'] for line in judged)} of these not in words")
    return "\n".join(told)


def _sizes(lines: list[dict[str, Any]]) -> str:
    sizes, refused = sum(line["sizes"] for line in lines), sum(line["refused"] for line in lines)
    apart = sum(line["apart"] for line in lines)
    share = f"{refused / sizes:.2%}" if sizes else "none"
    return f"{sizes} sizes that the original runs, {refused} ({share}) refused by the fold, {apart} where axes that belong together differ"


def one_line(error: BaseException) -> str:
    """The first line of an error that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:400]


def _seeds(lines: Iterable[dict[str, Any]]) -> str:
    return ", ".join(map(str, sorted({line["seed"] for line in lines})))
