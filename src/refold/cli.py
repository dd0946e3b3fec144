"""The command line, a thin skin over the verbs: `fold`, `check`, `explain`, `verify`, `bench`, `padding`, `segments`."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import click

from refold import __version__
from refold.errors import FoldError, RefoldError, VerificationError
from refold.geometry import get_padding, plan_segments
from refold.terminal import bar, count, explanation, print_json, progress

if TYPE_CHECKING:
    from refold.datasets import Dataset
    from refold.models import NamedModel

WORK_FOUND, INPUT_AT_FAULT, NOT_THE_SAME, BUG, INTERRUPTED, TERMINATED = 1, 2, 3, 70, 130, 143
ENDINGS = (".pt2", ".onnx", ".safetensors")

Command: TypeAlias = Callable[..., None]


class Terminated(KeyboardInterrupt):
    """Somebody asked the process to end: what it was writing is tidied away as after Ctrl-C."""


class Program(click.Group):
    """The commands, with the exit statuses that the help lists; a traceback is shown for a bug alone."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command and turn what it raises into a message and an exit status."""
        try:
            with _tidy_when_terminated():
                return super().invoke(ctx)
        except VerificationError as error:
            _end(ctx, f"Error: {error}", NOT_THE_SAME)
        except RefoldError as error:
            _end(ctx, f"Error: {error}", INPUT_AT_FAULT)
        except Terminated:
            _end(ctx, "Terminated; no half-written file is left", TERMINATED)
        except KeyboardInterrupt:
            _end(ctx, "Interrupted; no half-written file is left", INTERRUPTED)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as error:
            traceback.print_exc()
            _end(
                ctx,
                f"Error: this is a bug in refold {__version__}, not a fault of yours: {type(error).__name__}; {_where_to_report()}",
                BUG,
            )


def model_options(command: Command) -> Command:
    """What a command that reads a model takes besides its name."""
    for option in reversed(
        (
            click.option("--weights", type=click.Path(path_type=Path), metavar="FILE", help="Weights: .safetensors, .pth, .pt."),
            click.option("--input", "shapes", multiple=True, metavar="SHAPE", help="One for each input: 1,3,224,224 or 1,16:int64."),
            click.option("--inputs", type=click.Path(path_type=Path), metavar="FILE", help="An .npz of inputs instead of shapes."),
            click.option("--dtype", metavar="NAME", help="Dtype of the inputs; the model's own by default."),
        )
    ):
        command = option(command)
    return command


def output_options(command: Command) -> Command:
    """How a command speaks."""
    command = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors, and what --json asks for.")(command)
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def _one_or_two(ctx: click.Context, param: click.Parameter, value: str | tuple[str, ...]) -> tuple[int, ...]:
    """One number for both axes or two, given as `3`, `1,7` or `1 7`."""
    text = value if isinstance(value, str) else ",".join(value)
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 2):
        raise click.BadParameter(f"`{text}` is not one or two whole numbers; write 3 or 1,7", ctx, param)
    return numbers * 2 if len(numbers) == 1 else numbers


def _names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Names with commas between them."""
    return None if value is None else tuple(part.strip() for part in value.split(","))


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Whole numbers with commas between them."""
    try:
        return None if value is None else tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"`{value}` is not a list of whole numbers; write 1 or 1,8", ctx, param) from None


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="refold", message="%(prog)s %(version)s")
def main() -> None:
    """Train wide, ship narrow: fold the linear stretches of a trained network, and prove it.

    MODEL is file.onnx, file.pt2, package.module:factory or timm:name. Give the last two their weights
    with --weights; a factory is a function without arguments that returns a torch.nn.Module.

    Results go to standard output, progress and errors to standard error. Exit status: 0 done, 1 check
    found work, 2 the input is at fault, 3 verification failed, 70 a bug in refold, 130 interrupted.
    """


@main.command(short_help="Fold MODEL, prove the result and write it.")
@click.argument("name", metavar="MODEL")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="OUT", help="A .pt2, .onnx or .safetensors.")
@click.option("--in-place", is_flag=True, help="Replace the file MODEL itself, instead of -o.")
@model_options
@click.option("--no-verify", is_flag=True, help="Do not prove that the result is the same function.")
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
    as_json: bool,
    quiet: bool,
) -> None:
    """Fold MODEL, prove that the result is the same function, and write it to OUT."""
    if (output is None) is not in_place:
        raise click.UsageError("say where to write: either -o OUT, or --in-place to replace a file MODEL itself")
    output = output or Path(name)
    _check_output(output, *(() if in_place else (Path(name), weights, inputs)), original=name)
    with progress(f"reading {name}", quiet) as say:
        from refold.folding import fold as run

        named, example = _read(name, weights, shapes, inputs, dtype, quiet)
        result = run(named.model, example, verify=not no_verify, progress=say)
        say(f"writing {output}")
        result.save(output, in_place=in_place)
    size = output.stat().st_size
    if as_json:
        print_json({"model": name, "output": str(output), "bytes": size, **result.report.to_dict()})
    elif not quiet:
        click.echo(f"{result.report}\n\nwritten to {output} ({size:,} bytes)")


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

        named, example = _read(name, weights, shapes, inputs, dtype, quiet)
        say("looking for what folds")
        found = run(named.model, example)
    if as_json:
        print_json({"model": name, "ready": not found, "folds": list(found)})
    elif not quiet:
        many = f"{count(len(found), 'stretch', 'stretches')} of {name} would still fold; ship what `refold fold` makes of it"
        click.echo("\n".join([*found, "", many]) if found else f"nothing in {name} folds: ready to ship")
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

        named, example = _read(name, weights, shapes, inputs, dtype, quiet)
        report = run(named.model, example, verify=False, progress=say).report
    if as_json:
        print_json({"model": name, **report.to_dict()})
    elif not quiet:
        click.echo(explanation(report))


@main.command(short_help="Prove that A and B are the same function.")
@click.argument("original", metavar="A")
@click.argument("folded", metavar="B")
@model_options
@click.option("--folded-weights", type=click.Path(path_type=Path), metavar="FILE", help="Weights of B; --weights are those of A.")
@click.option("--certificate", type=click.Path(path_type=Path), metavar="FILE", help="That of B; by default the one beside or in B.")
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
    with progress(f"reading {original}", quiet) as say:
        from refold.recheck import compare, compare_over, find_departure, inputs_for, open_data, read_pair

        opened: list[Dataset] = []

        def example(named: NamedModel) -> Any:
            _tell(named, quiet)
            opened.extend([] if data is None else [open_data(data, batch, skip_bad, named)])
            return inputs_for(named, shapes, inputs, dtype, opened[0] if opened else None)

        of_b = {"folded_weights": folded_weights, "certificate": certificate}
        pair = read_pair(original, folded, weights=weights, **of_b, inputs=example, locating=locate, say=say)
        say("comparing")
        found = compare(pair)
    for dataset in opened:
        with bar(f"comparing on {data}", dataset.samples, quiet) as advance:
            found = compare_over(found, dataset, advance)
        if dataset.skipped and not quiet:
            from refold.datasets import told_of

            click.echo(f"note: {told_of(dataset.skipped, dataset.samples)}", err=True)
    if locate:
        with progress("comparing value by value", quiet):
            found = find_departure(found)
    if as_json:
        print_json(found.to_dict())
    elif not quiet:
        click.echo(str(found))
    if found.complaint:
        click.echo(f"Error: {found.complaint}", err=True)
        ctx.exit(NOT_THE_SAME)


@main.command(short_help="Measure models side by side in the engines they will run in.")
@click.argument("names", nargs=-1, required=True, metavar="MODEL [MODEL ...]")
@click.option("--engine", "engines", metavar="NAMES", callback=_names, help="Of torch, torch-compile, onnxruntime and openvino.")
@click.option("--batch", "batches", metavar="N[,N]", callback=_numbers, help="Batch sizes; that of the inputs by default.")
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
            _tell(one, quiet)
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
        click.echo(str(result))
    if interrupted is not None:
        raise interrupted
    if not result.measurements:
        click.echo("Error: nothing was measured; name an engine that is installed and runs the model", err=True)
        ctx.exit(INPUT_AT_FAULT)


@main.command(short_help="Padding under which a layer keeps ceil(n / stride).")
@click.argument("kernel", nargs=-1, required=True, metavar="KERNEL", callback=_one_or_two)
@click.option("--stride", default="1", metavar="N[,N]", callback=_one_or_two, help="One number for both axes, or two.")
@click.option("--dilation", default="1", metavar="N[,N]", callback=_one_or_two, help="One number for both axes, or two.")
@output_options
def padding(kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], as_json: bool, quiet: bool) -> None:
    """Give the padding under which a layer of KERNEL makes ceil(n / stride) of n items.

    KERNEL is one number for both axes or two, as in `refold padding 3 --stride 2` and `refold padding 1,7`.
    """
    pads = get_padding(kernel, stride, dilation)
    uneven = [spread * (size - 1) % 2 == 1 for size, spread in zip(kernel, dilation, strict=True)]
    if as_json:
        print_json({"padding": list(pads), "every_size": not any(uneven)})
    elif not quiet:
        click.echo(str(pads))
        for axis, (step, odd) in enumerate(zip(stride, uneven, strict=True)):
            which = f"n divisible by {step}" if odd else "every n"
            click.echo(f"axis {axis}: {'n' if step == 1 else f'ceil(n / {step})'} positions for {which}")


@main.command(short_help="Cut a sequence into exactly so many segments.")
@click.argument("length", type=int)
@click.argument("segments", type=int)
@click.option("--first-kernel", type=int, metavar="N", help="Items to a block; by default the one that needs least padding.")
@click.option("--discipline", type=click.Choice(["disjoint", "overlap", "published"]), default="disjoint", show_default=True)
@output_options
def segments(length: int, segments: int, first_kernel: int | None, discipline: Any, as_json: bool, quiet: bool) -> None:
    """Cut LENGTH items into exactly SEGMENTS segments with two strided convolutions."""
    plan = plan_segments(length, segments, first_kernel=first_kernel, discipline=discipline)
    if as_json:
        parts = ("length", "segments", "discipline", "kernels", "strides", "paddings", "blocks", "ranges")
        print_json({part: getattr(plan, part) for part in parts})
    elif not quiet:
        click.echo(plan.draw())


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
        _check_output(int8, Path(name), data, original="model.onnx")
    with progress(f"reading {name}", quiet) as say:
        from refold.quantization import examine

        named, example = _read(name, weights, shapes, inputs, dtype, quiet)
        report = examine(named.model, example, data=data, int8=int8, progress=say)
    if as_json:
        print_json({"model": name, **report.to_dict()})
    elif not quiet:
        click.echo(str(report))


def _read(
    name: str, weights: Path | None, shapes: Sequence[str], inputs: Path | None, dtype: str | None, quiet: bool
) -> tuple[NamedModel, Any]:
    from refold.models import make_inputs, read_model

    named = read_model(name, weights)
    _tell(named, quiet)
    return named, make_inputs(named, shapes, inputs, dtype)


def _tell(named: NamedModel, quiet: bool) -> None:
    for note in () if quiet else named.notes:
        click.echo(f"note: {note}", err=True)


def _check_output(output: Path, *sources: Path | None, original: str) -> None:
    """Refuse before the long work what could not be written after it."""
    if output.suffix.lower() not in ENDINGS:
        raise FoldError(f"cannot write {output}: the ending says what to write and must be one of {', '.join(ENDINGS)}")
    if Path(original).suffix.lower() == ".onnx" and output.suffix.lower() != ".onnx":
        raise FoldError(f"cannot write {output}: what is folded from an ONNX file is one too; give a name that ends in .onnx")
    if output.is_dir():
        raise FoldError(f"cannot write {output}: it is a folder; name a file in it")
    if not output.parent.is_dir():
        raise FoldError(f"cannot write {output}: there is no folder {output.parent}; make it first")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise FoldError(f"cannot write {output}: the folder {output.parent} may not be written by this user; choose another")
    for source in sources:
        if source is not None and output.exists() and source.exists() and output.samefile(source):
            raise FoldError(f"cannot write {output}: it is the input {source} itself, which stays as it is; choose another name")


@contextmanager
def _tidy_when_terminated() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(ctx: click.Context, message: str, status: int) -> NoReturn:
    click.echo(message, err=True)
    ctx.exit(status)


def _where_to_report() -> str:
    try:
        links = metadata("refold").get_all("Project-URL") or []
    except PackageNotFoundError:
        links = []
    names = ("issues", "bug", "source", "repository")
    place = next((link.partition(", ")[2] for link in links if link.lower().startswith(names)), "the project that you have refold from")
    return f"please report it, with the command and the traceback above, to {place}"
