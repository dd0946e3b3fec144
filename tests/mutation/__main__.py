"""Draws mutants of refold and tries each on the tests of its room: `python -m tests.mutation --count 300 --seed 1`."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict

from tests.mutation import proof
from tests.mutation.children import warm_up
from tests.mutation.equivalents import SHARE, equivalents
from tests.mutation.mutants import Mutant, drawn, mutants_of
from tests.mutation.reach import KEPT, by_pytest, recorded
from tests.mutation.rooms import ROOMS, module_of
from tests.mutation.trial import Outcome, tried

SURVIVES = {"alive", "unreached"}


def main() -> int:
    """0 where every mutant was killed, 1 where one lives."""
    options = _options()
    warm_up()
    population = {mutant: name for name, room in ROOMS.items() if name in options.room for mutant in _mutants(name)}
    if options.proof:
        return _hold(list(_chosen(population, options, [])), options.verbose)
    reaches = {name: recorded(name, ROOMS[name].tests, by_pytest(ROOMS[name].tests)) for name in options.room}
    print(f"{len(population):,} mutants, seed {options.seed}", flush=True)
    begin, outcomes, apart = time.perf_counter(), list[Outcome](), list[Mutant]()
    for number, mutant in _chosen(population, options, apart):
        outcomes.append(tried(mutant, reaches[population[mutant]]))
        _tell(number, population[mutant], outcomes[-1], options.verbose)
        _write(outcomes, population)
    seconds = time.perf_counter() - begin
    return _sum_up(outcomes, apart, population, seconds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="mutants to try (300)")
    parser.add_argument("--first", type=int, default=1, help="number in the draw to begin at, where an earlier run ended (1)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of the draw; a fresh one by default")
    parser.add_argument("--room", choices=sorted(ROOMS), nargs="+", default=list(ROOMS), help="rooms to draw from (all)")
    parser.add_argument("--only", default="", help="try all mutants whose key holds this text, instead of a draw")
    parser.add_argument("--proof", action="store_true", help="ask instead whether the proof objects where a mutant makes a fold wrong")
    parser.add_argument("--verbose", action="store_true", help="tell of the killed too")
    return parser.parse_args()


def _mutants(name: str) -> Iterator[Mutant]:
    for path in ROOMS[name].files():
        yield from mutants_of(module_of(path), path.read_text(encoding="utf-8"))


def _chosen(population: Iterable[Mutant], options: argparse.Namespace, apart: list[Mutant]) -> Iterator[tuple[int, Mutant]]:
    """The mutants to try with their numbers, in the order drawn; those listed as equivalent are put apart, others come in their place."""
    listed = equivalents()
    wanted = [mutant for mutant in population if options.only in mutant.key] if options.only else drawn(population, options.seed)
    last, number = len(wanted) if options.only else options.count, 1
    for mutant in wanted:
        if number > last:
            return
        if mutant.key in listed:
            if number >= options.first:
                apart.append(mutant)
            continue
        if number >= options.first:
            yield number, mutant
        number += 1


def _hold(mutants: list[tuple[int, Mutant]], verbose: bool) -> int:
    """Ask of each mutant what the proof does where it makes a fold wrong."""
    reach = proof.record()
    print(f"{len(mutants)} mutants, {len(reach.seconds)} networks and files", flush=True)
    found = []
    for number, mutant in mutants:
        one = proof.held(mutant, reach)
        found.append(one)
        if verbose or one.sort == "missed":
            print(f"{number:4} {one.sort:9} {one.seconds:5.1f} s  line {mutant.lines.start}: {mutant.key}", flush=True)
        if one.missed:
            print(f"     wrong without a word: {', '.join(one.missed)}", flush=True)
    print(", ".join(f"{sort} {count}" for sort, count in proof.table(found).items()))
    return int(any(one.sort == "missed" for one in found))


def _tell(number: int, room: str, outcome: Outcome, verbose: bool) -> None:
    if verbose or outcome.verdict in SURVIVES:
        line = outcome.mutant.lines.start
        print(f"{number:4} {room:8} {outcome.verdict:9} {outcome.seconds:5.1f} s  line {line}: {outcome.mutant.key}", flush=True)
        if verbose and outcome.by:
            print(f"     by {outcome.by}", flush=True)


def _write(outcomes: Iterable[Outcome], population: dict[Mutant, str]) -> None:
    KEPT.mkdir(exist_ok=True)
    with (KEPT / "last.jsonl").open("w", encoding="utf-8") as file:
        for outcome in outcomes:
            told = asdict(outcome) | {"mutant": outcome.mutant.key, "room": population[outcome.mutant]}
            file.write(json.dumps(told, ensure_ascii=False) + "\n")


def _sum_up(outcomes: list[Outcome], apart: list[Mutant], population: dict[Mutant, str], seconds: float) -> int:
    print(f"\n{'room':10}{'tried':>7}{'killed':>8}{'timeout':>9}{'alive':>7}{'equivalent':>12}")
    survivors = 0
    for name in [*dict.fromkeys(population.values()), "all"]:
        counts = Counter(one.verdict for one in outcomes if name in ("all", population[one.mutant]))
        alive = counts["alive"] + counts["unreached"]
        survivors = alive
        equal = sum(name in ("all", population[one]) for one in apart)
        print(f"{name:10}{counts.total():7}{counts['killed']:8}{counts['timeout']:9}{alive:7}{equal:12}")
    print(f"{seconds:.0f} s, {seconds / max(1, len(outcomes)):.1f} s a mutant")
    if len(apart) > SHARE * len(outcomes) and len(outcomes) >= 100:
        print(f"{len(apart)} of {len(outcomes)} were put apart as equivalent, more than {SHARE:.0%}: look at them again")
        return 1
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
