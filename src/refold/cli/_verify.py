"""`refold verify`: whether two models are one function, and where they part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from refold.cli._files import tell
from refold.cli._options import model_options, output_options
from refold.cli._program import NOT_THE_SAME, main
from refold.terminal import bar, echo, print_json, progress

if TYPE_CHECKING:
    from refold.datasets import Dataset
    from refold.models import NamedModel


@main.command(short_help="Prove that A and B are the same function.")
@click.argument("original", metavar="A")
@click.argument("folded", metavar="B")
@model_options
@click.option("--folded-weights", type=click.Path(path_type=Path), metavar="FILE", help="Weights of B; --weights are those of A.")
@click.option("--certificate", type=click.Path(path_type=Path), metavar="FILE", help="That of B; by default the one beside or in B.")
@click.option("--no-certificate", is_flag=True, help="Compare A and B whatever the certificate of B is of.")
@click.option("--data", type=click.Path(path_type=Path), metavar="PATH", help="Samples to compare all of: an .npz, or a folder.")
@click.option("--batch", type=int, default=32, show_default=True, metavar="N", help="Samples of --data to a batch.")
@click.option("--skip-bad", is_flag=True, help="Pass over files of --data that cannot be read.")
@click.option("--locate", is_flag=True, help="Where they differ, find the operator and the likely cause.")
@output_options
@click.pass_context
def verify(
    ctx: click.Context,
    original: str,
    folded: str,
    weights: Path | None,
    shapes: Sequence[str],
    inputs: Path | None,
    dtype: str | None,
    folded_weights: Path | None,
    certificate: Path | None,
    no_certificate: bool,
    data: Path | None,
    batch: int,
    skip_bad: bool,
    locate: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare models A and B on the same inputs; exit with 3 where they are not the same function.

    B may be no further from the float64 truth of A than a small multiple of what A itself is. Where B has
    a certificate, A and B must also be what was certified. Over all of --data the two are compared batch by
    batch, and judged where they are furthest apart. An .npz has samples along its first axis; a folder
    holds .npy files, or images, which come as channels x height x width from 0 to 1.
    """
    if certificate is not None and no_certificate:
        raise click.UsageError("--certificate and --no-certificate ask for opposite things; give one")
    with progress(f"reading {original}", quiet) as say:
        from refold.recheck import compare, compare_over, find_departure, inputs_for, open_data, read_pair

        opened: list[Dataset] = []

        def example(named: NamedModel) -> Any:
            tell(named, quiet)
            opened.extend([] if data is None else [open_data(data, batch, skip_bad, named)])
            return inputs_for(named, shapes, inputs, dtype, opened[0] if opened else None)

        pair = read_pair(
            original,
            folded,
            weights=weights,
            folded_weights=folded_weights,
            certificate=certificate,
            certified=not no_certificate,
            inputs=example,
            say=say,
        )
        say("comparing")
        found = compare(pair)
    for dataset in opened:
        with bar(f"comparing on {data}", dataset.samples, quiet) as advance:
            found = compare_over(found, dataset, advance)
        if dataset.skipped and not quiet:
            from refold.datasets import told_of

            echo(f"note: {told_of(dataset.skipped, dataset.samples)}", err=True)
    if locate:
        with progress("comparing value by value", quiet):
            found = find_departure(found)
    if as_json:
        print_json(found.to_dict())
    elif not quiet:
        echo(str(found))
    if found.complaint:
        echo(f"Error: {found.complaint}", err=True)
        ctx.exit(NOT_THE_SAME)
