"""The program that the commands belong to: its help, its exit statuses, and what it does with errors and signals."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any, NoReturn

import click

from refold import __version__
from refold.errors import RefoldError, VerificationError
from refold.terminal import echo

WORK_FOUND, INPUT_AT_FAULT, NOT_THE_SAME, BUG, INTERRUPTED, TERMINATED = 1, 2, 3, 70, 130, 143


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
            echo(traceback.format_exc().rstrip(), err=True)
            _end(
                ctx,
                f"Error: this is a bug in refold {__version__}, not a fault of yours: {type(error).__name__}; {_where_to_report()}",
                BUG,
            )


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="refold", message="%(prog)s %(version)s")
def main() -> None:
    """Train wide, ship narrow: fold the linear stretches of a trained network, and prove it.

    MODEL is file.onnx, file.pt2, package.module:factory or timm:name. Give the last two their weights
    with --weights; a factory is a function without arguments that returns a torch.nn.Module.

    Results go to standard output, progress and errors to standard error. Exit status: 0 done, 1 check
    found work, 2 the input is at fault, 3 verification failed, 70 a bug in refold, 130 interrupted.
    """


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
    echo(message, err=True)
    ctx.exit(status)


def _where_to_report() -> str:
    try:
        links = metadata("refold").get_all("Project-URL") or []
    except PackageNotFoundError:
        links = []
    names = ("issues", "bug", "source", "repository")
    place = next((link.partition(", ")[2] for link in links if link.lower().startswith(names)), "the project that you have refold from")
    return f"please report it, with the command and the traceback above, to {place}"
