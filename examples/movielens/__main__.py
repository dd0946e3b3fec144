"""Train both kinds of attention on several seeds, each run in a process of its own, and print one table."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from examples.movielens.data import NoData, cache_folder, fetch, read
from examples.movielens.model import Config
from examples.movielens.train import train

KINDS = ("full", "segments")
METRICS = ("HR@10", "NDCG@10", "MRR@10")


def main() -> int:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m examples.movielens", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one training for each, of both kinds")
    parser.add_argument("--threads", type=int, default=1, help="of each training")
    parser.add_argument("--results", type=Path, help="folder of results and checkpoints; finished runs are not run again")
    parser.add_argument("--only", choices=KINDS, help="train one kind only, with the seed given first")
    for field in fields(Config):
        if field.name not in ("attention", "seed"):
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    arguments = parser.parse_args()
    results = arguments.results or cache_folder() / "results"
    settings = {field.name: getattr(arguments, field.name) for field in fields(Config) if field.name not in ("attention", "seed")}
    try:
        path = fetch()
    except NoData as error:
        print(f"No data: {error}", file=sys.stderr)
        return 2
    if arguments.only:
        torch.set_num_threads(arguments.threads)
        train(read(path), Config(attention=arguments.only, seed=arguments.seeds[0], **settings), results)
        return 0
    for seed in arguments.seeds:
        for kind in KINDS:
            options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
            command = [
                sys.executable,
                "-m",
                "examples.movielens",
                "--only",
                kind,
                "--seeds",
                str(seed),
                "--results",
                str(results),
                *options,
            ]
            if subprocess.run([*command, f"--threads={arguments.threads}"]).returncode:
                return 1
    print(table({kind: [json.loads((results / f"{kind}-{seed}.json").read_text()) for seed in arguments.seeds] for kind in KINDS}))
    return 0


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Quality as mean and spread over the seeds, with what it costs, in Markdown."""
    lines = [f"| attention | {' | '.join(METRICS)} | seconds per epoch | peak memory | parameters |", "| --- |" + " --- |" * 6]
    for kind, results in runs.items():
        cells = []
        for metric in METRICS:
            values = [result["test"][metric] for result in results]
            cells.append(f"{statistics.mean(values):.4f} ± {statistics.stdev(values) if len(values) > 1 else 0:.4f}")
        cells.append(f"{min(result['seconds_per_epoch'] for result in results):.2f}")  # the run that other work disturbed least
        cells.append(f"{max(result['peak_mb'] for result in results):.0f} MB")
        cells.append(f"{results[0]['parameters']:,}")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    full, segments = (statistics.mean(result["test"]["NDCG@10"] for result in runs[kind]) for kind in KINDS)
    lines += ["", f"NDCG@10 of segments over full attention: {segments / full:.3f}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
