"""`refold bench`: models side by side in the engines that they will run in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from refold.cli._files import tell
from refold.cli._options import names, numbers, output_options
from refold.cli._program import INPUT_AT_FAULT, main
from refold.terminal import echo, print_json, progress


@main.command(short_help="Measure models side by side in the engines they will run in.")
@click.argument("names", nargs=-1, required=True, metavar="MODEL [MODEL ...]")
@click.option("--engine", "engines", metavar="NAMES", callback=names, help="Of torch, torch-compile, onnxruntime and openvino.")
@click.option("--batch", "batches", metavar="N[,N]", callback=numbers, help="Batch sizes; that of the inputs by default.")
@click.option("--threads", type=int, default=1, show_default=True, metavar="N", help="Threads of an engine.")
@click.option("--seconds", type=float, default=2.0, show_default=True, metavar="S", help="Time for each model, engine and batch.")
@click.option("--no-floor", is_flag=True, help="Do not measure the convolutions alone, which are the lower limit.")
@click.option("--layers", is_flag=True, help="Time each layer too, where the engine tells it.")
@click.option("--weights", multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="For each factory or timm name, in order.")
@click.option("--input", "shapes", multiple=True, metavar="SHAPE", help="One for each input: 1,3,224,224 or 1,16:int64.")
@click.option("--inputs", type=click.Path(path_type=Path), metavar="FILE", help="An .npz of inputs instead of shapes.")
@click.option("--dtype", metavar="NAME", help="Dtype of the inputs; the model's own by default.")
@output_options
@click.pass_context
def bench(
    ctx: click.Context,
    names: Sequence[str],
    engines: Sequence[str] | None,
    batches: Sequence[int] | None,
    threads: int,
    seconds: float,
    no_floor: bool,
    layers: bool,
    weights: Sequence[Path],
    shapes: Sequence[str],
    inputs: Path | None,
    dtype: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run models in turn (A B A B ...) in each engine at each batch, and compare them turn by turn.

    The floor is what the convolutions and linear layers of a model take alone, back to back in the same
    engine. A .onnx runs in onnxruntime and openvino; a PyTorch model in torch and torch-compile, and exported
    in the others. Ctrl-C prints what was measured until then.
    """
    from refold.bench import BenchInterrupted, read_models
    from refold.bench import bench as run

    with progress("reading", quiet) as say:
        named = read_models(names, weights, shapes, inputs, dtype)
        for one in named:
            tell(one, quiet)
        interrupted: BaseException | None = None
        try:
            result = run(
                named,
                engines=engines,
                batches=batches,
                threads=threads,
                seconds=seconds,
                floor=not no_floor,
                layers=layers,
                progress=say,
            )
        except BenchInterrupted as error:
            result, interrupted = error.result, error.__cause__
    if as_json:
        print_json(result.to_dict())
    elif not quiet:
        echo(str(result))
    if interrupted is not None:
        raise interrupted
    if not result.measurements:
        echo("Error: nothing was measured; name an engine that is installed and runs the model", err=True)
        ctx.exit(INPUT_AT_FAULT)
