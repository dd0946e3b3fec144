"""The command line of the fuzzer: `run`, `replay`, `shrink` and `sum`; see `python -m tests.fuzz --help`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click

from tests.fuzz import outcome as outcomes
from tests.fuzz import recipe as recipes
from tests.fuzz import running

SAVED = Path(__file__).parent / "saved"


@click.group()
def main() -> None:
    """Random networks, folded with proof and compared with the original at many sizes."""


@main.command()
@click.option("--kind", type=click.Choice(["torch", "onnx", "both"]), default="both", show_default=True)
@click.option("--seed", type=int, default=None, help="By default one is drawn; it is printed.")
@click.option("--minutes", type=float, default=10.0, show_default=True)
@click.option("--start", type=int, default=0, show_default=True, help="The first index.")
@click.option("--count", type=int, default=10**9, help="Networks of each kind.")
@click.option("--log", type=click.Path(path_type=Path), default=Path("fuzz.jsonl"), show_default=True)
@click.option("--save/--no-save", default=True, help="Shrink what fails and save it among the tests.")
def run(kind: str, seed: int | None, minutes: float, start: int, count: int, log: Path, save: bool) -> None:
    """Try networks for some minutes; exit status 1 where one failed."""
    seed = int.from_bytes(os.urandom(3)) if seed is None else seed
    kinds = ["torch", "onnx"] if kind == "both" else [kind]
    versions = running.versions()
    click.echo(f"seed {seed}, from index {start} on, {minutes:g} minutes of {' and '.join(kinds)}; log {log}")
    began, failed, done = time.monotonic(), 0, 0
    for number, one in enumerate(kinds):
        until = began + 60 * minutes * (number + 1) / len(kinds)
        for index, outcome in running.run(one, seed, start, until, count):
            outcomes.append(log, one, seed, index, outcome, versions)
            done += 1
            if not running.is_fault(outcome):
                continue
            failed += 1
            click.echo(f"{one} {seed} {index}: {outcome.category}: {outcome.text}")
            if save and "process died" not in outcome.text and "no answer" not in outcome.text:
                smallest = running.shrunk(running.drawn(one, seed, index), outcome.category)
                click.echo(
                    f"  shrunk to {len(smallest.steps)} steps: {running.save(SAVED, smallest, running.tried(smallest), seed, index)}"
                )
    click.echo(f"{done} networks, {done / (time.monotonic() - began):.2f} a second, {failed} failed; seed {seed}")
    click.echo(outcomes.summary(line for line in outcomes.read([log]) if line["seed"] == seed))
    sys.exit(1 if failed else 0)


@main.command()
@click.argument("kind", type=click.Choice(["torch", "onnx"]))
@click.argument("seed", type=int)
@click.argument("start", type=int)
@click.argument("count", type=int)
def work(kind: str, seed: int, start: int, count: int) -> None:
    """Try networks and say what came of each, a line each; for `run`."""
    running.work(kind, seed, start, count, lambda text: print(text, flush=True))


@main.command()
@click.option("--kind", type=click.Choice(["torch", "onnx"]), default="torch")
@click.option("--seed", type=int)
@click.option("--index", type=int)
@click.option("--file", type=click.Path(path_type=Path, exists=True), help="A saved network, instead of a seed and an index.")
@click.option("--shrink/--no-shrink", default=False)
def replay(kind: str, seed: int | None, index: int | None, file: Path | None, shrink: bool) -> None:
    """Try one network again, and shrink it where asked."""
    if file is None and (seed is None or index is None):
        raise click.UsageError("give --seed and --index, or --file")
    found = recipes.load(file) if file is not None else running.drawn(kind, seed or 0, index or 0)
    outcome = running.tried(found)
    if shrink and running.is_fault(outcome):
        found = running.shrunk(found, outcome.category)
        outcome = running.tried(found)
    for step in (*found.inputs, *found.steps, found.outputs, dict(found.options)):
        click.echo(str(step))
    click.echo(f"{outcome.category}: {outcome.text}")
    for refusal in outcome.refusals:
        click.echo(f"refused {refusal}")
    sys.exit(1 if running.is_fault(outcome) else 0)


@main.command("sum")
@click.argument("logs", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
def add_up(logs: tuple[Path, ...]) -> None:
    """Add up logged runs."""
    click.echo(outcomes.summary(outcomes.read(logs)))


if __name__ == "__main__":
    main()
