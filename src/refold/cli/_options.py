"""What commands take besides their arguments, and how it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import click

Command: TypeAlias = Callable[..., None]


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


def one_or_two(ctx: click.Context, param: click.Parameter, value: str | tuple[str, ...]) -> tuple[int, ...]:
    """One number for both axes or two, given as `3`, `1,7` or `1 7`."""
    text = value if isinstance(value, str) else ",".join(value)
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 2):
        raise click.BadParameter(f"`{text}` is not one or two whole numbers; write 3 or 1,7", ctx, param)
    return numbers * 2 if len(numbers) == 1 else numbers


def names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Names with commas between them."""
    return None if value is None else tuple(part.strip() for part in value.split(","))


def numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Whole numbers with commas between them."""
    try:
        return None if value is None else tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"`{value}` is not a list of whole numbers; write 1 or 1,8", ctx, param) from None
