"""`refold fold`, and what it would do: `check` and `explain`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from refold.cli._files import check_output, check_report, read
from refold.cli._options import model_options, output_options
from refold.cli._program import WORK_FOUND, main
from refold.report import count
from refold.saving import files_of
from refold.terminal import echo, explanation, print_json, progress


@main.command(short_help="Fold MODEL, prove the result and write it.")
@click.argument("name", metavar="MODEL")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="OUT", help="A .pt2, .onnx or .safetensors.")
@click.option("--in-place", is_flag=True, help="Replace the file MODEL itself, instead of -o.")
@model_options
@click.option("--no-verify", is_flag=True, help="Do not prove that the result is the same function.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE", help="Write a report too, a .html page that opens from disk.")
@click.option("--no-latency", is_flag=True, help="Leave latency out of the report; measuring it takes some seconds.")
@output_options
def fold(
    name: str,
    output: Path | None,
    in_place: bool,
    weights: Path | None,
    shapes: Sequence[str],
    inputs: Path | None,
    dtype: str | None,
    no_verify: bool,
    report: Path | None,
    no_latency: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fold MODEL, prove that the result is the same function, and write it to OUT.

    With --report, also write a page that shows it all: the figures, the network before and after, latency
    in the engines that are installed, the differences, the refusals, the certificate.
    """
    if (output is None) is not in_place:
        raise click.UsageError("say where to write: either -o OUT, or --in-place to replace a file MODEL itself")
    output = output or Path(name)
    check_output(output, *(() if in_place else (Path(name), weights, inputs)), original=name)
    if report is not None:
        check_report(report)
    elif no_latency:
        raise click.UsageError("--no-latency goes with --report; add it")
    latency = None
    with progress(f"reading {name}", quiet) as say:
        from refold.folding import fold as run

        named, example = read(name, weights, shapes, inputs, dtype, quiet)
        result = run(named.model, example, verify=not no_verify, progress=say)
        if not in_place:
            say(f"writing {output}")
            result.save(output)
        if report is not None and not no_latency:
            from refold.bench import bench

            latency = bench({"original": named.model, "folded": result.model}, example, progress=say).to_dict()
        is_left = in_place and not result.report.folds
        if in_place and not is_left:  # what it replaces has been measured first
            say(f"writing {output}")
            result.save(output, in_place=True)
        if report is not None:
            say(f"writing {report}")
            result.save_report(report, name=name, output=output, latency=latency)
    written = files_of(output)
    size = sum(one.stat().st_size for one in written)
    told = {} if report is None else {"report": str(report), "latency": latency}
    if as_json:
        said = {"file_notes": list(result.file_notes.get(output.name, ()))}
        print_json({"model": name, "output": str(output), "bytes": size, **result.report.to_dict(), **said, **told})
    elif not quiet:
        notes = "".join(f"\nnote: {note}" for note in result.file_notes.get(output.name, ()))
        if result.proof is None:
            notes += "\nnot verified, and no certificate was written: --no-verify"
        end = f"{output} is left as it is" if is_left else f"written to {' and '.join(map(str, written))} ({size:,} bytes)"
        echo(f"{result.report}{notes}\n\n{end}")
        if report is not None:
            echo(f"report: {report}")


@main.command(short_help="Exit with 1 where MODEL still folds.")
@click.argument("name", metavar="MODEL")
@model_options
@output_options
@click.pass_context
def check(
    ctx: click.Context,
    name: str,
    weights: Path | None,
    shapes: Sequence[str],
    inputs: Path | None,
    dtype: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say what in MODEL would still fold; exit with 1 where something does."""
    with progress(f"reading {name}", quiet) as say:
        from refold.folding import check as run

        named, example = read(name, weights, shapes, inputs, dtype, quiet)
        say("looking for what folds")
        found = run(named.model, example)
    if as_json:
        print_json({"model": name, "ready": not found, "folds": list(found)})
    elif not quiet:
        many = f"{count(len(found), 'stretch', 'stretches')} of {name} would still fold; ship what `refold fold` makes of it"
        echo("\n".join([*found, "", many]) if found else f"nothing in {name} folds: ready to ship")
    ctx.exit(WORK_FOUND if found else 0)


@main.command(short_help="Show what folds in MODEL and what does not, and why.")
@click.argument("name", metavar="MODEL")
@model_options
@click.option("--quantization", is_flag=True, help="What folding does to rounding the kernels to int8, instead.")
@click.option("--data", type=click.Path(path_type=Path), metavar="PATH", help="Samples for an int8 model: an .npz, or a folder.")
@click.option("--int8", type=click.Path(path_type=Path), metavar="FILE", help="Where to keep that int8 model, an .onnx.")
@output_options
def explain(
    name: str,
    weights: Path | None,
    shapes: Sequence[str],
    inputs: Path | None,
    dtype: str | None,
    quantization: bool,
    data: Path | None,
    int8: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Show each stretch of MODEL: what it was and became at what cost, or why it stays.

    With --quantization, each folded kernel beside those that went into it: their ranges, their tails, and
    the noise of rounding them to int8. With --data too, ONNX Runtime's int8 model of the folded network is
    calibrated on it and compared with MODEL.
    """
    if quantization:
        _explain_quantization(name, weights, shapes, inputs, dtype, data, int8, as_json, quiet)
        return
    if data is not None or int8 is not None:
        raise click.UsageError("--data and --int8 go with --quantization; add it")
    with progress(f"reading {name}", quiet) as say:
        from refold.folding import fold as run

        named, example = read(name, weights, shapes, inputs, dtype, quiet)
        result = run(named.model, example, verify=False, progress=say)
    if as_json:
        print_json({"model": name, **result.report.to_dict()})
    elif not quiet:
        echo(explanation(result.report, result.drawing))


def _explain_quantization(
    name: str,
    weights: Path | None,
    shapes: Sequence[str],
    inputs: Path | None,
    dtype: str | None,
    data: Path | None,
    int8: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    if int8 is not None:
        check_output(int8, Path(name), data, original="model.onnx")
    with progress(f"reading {name}", quiet) as say:
        from refold.quantization import examine

        named, example = read(name, weights, shapes, inputs, dtype, quiet)
        report = examine(named.model, example, data=data, int8=int8, progress=say)
    if as_json:
        print_json({"model": name, **report.to_dict()})
    elif not quiet:
        echo(str(report))
