"""What a person sees in a terminal: explanations as text, results as JSON, progress on standard error."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import click

from refold.report import NOTHING, FoldRecord, Report, count, counted

if TYPE_CHECKING:
    from refold.drawing import Drawing

DRAWN = 24
"""Lines of a drawing that an explanation shows."""
HARMFUL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What names of a file may hold and a terminal must not get: control characters, those that turn the direction of text, half characters."""


def printable(text: str) -> str:
    """Text with whatever moves, hides or renames something in a terminal written out.

    >>> printable("layer\\x1b[2J\\u202eone")
    'layer\\\\x1b[2J\\\\u202eone'
    """
    return HARMFUL.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def echo(text: str, *, err: bool = False) -> None:
    """Write a line to standard output, or to standard error; names in it come from files and are made printable."""
    click.echo(printable(text), err=err)


def explanation(report: Report, drawing: Drawing) -> str:
    """Every fold with what it was, branch by branch, and became, every refusal with its law, fact and remedy."""
    lines = [count(len(report.folds), "fold") if report.folds else NOTHING]
    for number, one in enumerate(report.folds):
        lines += ["", *_told(one, list(drawing.branches_of(number)))]
    if report.refusals:
        lines += ["", count(len(report.refusals), "refusal")]
    for refusal in report.refusals:
        lines += ["", f"  {refusal.node} ({refusal.operation})"]
        lines += [f"      {part:7} {getattr(refusal, part)}" for part in ("law", "fact", "remedy")]
    if report.notes:
        lines += ["", *(f"note: {note}" for note in report.notes)]
    return "\n".join(lines)


def _told(one: FoldRecord, drawn: Sequence[str]) -> Iterator[str]:
    yield f"  {one.name}"
    yield f"      was     {counted(one.operations)}"
    yield from (f"              {line}" for line in drawn[:DRAWN])
    if len(drawn) > DRAWN:
        yield f"              and {count(len(drawn) - DRAWN, 'line')} more"
    yield f"      became  {counted(one.became)}, by {' and '.join(one.laws) or 'rewriting'}"
    for label, name in (("operators", "operators"), ("multiply-adds", "multiply_adds"), ("weights", "weights")):
        yield f"      {label:13} {getattr(one.before, name):16,} → {getattr(one.after, name):,}"


def print_json(data: Mapping[str, Any]) -> None:
    """Write data to standard output as JSON, with NaN and infinity as text."""
    text = json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False)
    click.echo(HARMFUL.sub(lambda found: f"\\u{ord(found.group()):04x}", text))


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they become text."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case Mapping():
            return {name: _finite(one) for name, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
    return value


@contextmanager
def progress(text: str, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Says on standard error what is being done, where that is a terminal.

    What a model prints in the block goes there too, since standard output is for results.
    """
    with redirect_stdout(sys.stderr):
        if quiet or not sys.stderr.isatty():
            yield lambda text: None
            return
        from rich.console import Console
        from rich.markup import escape

        with Console(stderr=True).status(escape(printable(text))) as status:
            yield lambda text: status.update(escape(printable(text)))


@contextmanager
def bar(text: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Shows on standard error how many of a known number are done, where that is a terminal; speaks as `progress` does."""
    with redirect_stdout(sys.stderr):
        if quiet or not sys.stderr.isatty():
            yield lambda done: None
            return
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import Progress

        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task(escape(printable(text)), total=total)
            yield lambda done: bar.advance(task, done)
