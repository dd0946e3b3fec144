"""`refold padding` and `refold segments`: window arithmetic."""

from __future__ import annotations

from typing import Any

import click

from refold.cli._options import one_or_two, output_options
from refold.cli._program import main
from refold.geometry import get_padding, plan_segments
from refold.terminal import echo, print_json


@main.command(short_help="Padding under which a layer keeps ceil(n / stride).")
@click.argument("kernel", nargs=-1, required=True, metavar="KERNEL", callback=one_or_two)
@click.option("--stride", default="1", metavar="N[,N]", callback=one_or_two, help="One number for both axes, or two.")
@click.option("--dilation", default="1", metavar="N[,N]", callback=one_or_two, help="One number for both axes, or two.")
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
        echo(str(pads))
        for axis, (step, odd) in enumerate(zip(stride, uneven, strict=True)):
            which = f"n divisible by {step}" if odd else "every n"
            echo(f"axis {axis}: {'n' if step == 1 else f'ceil(n / {step})'} positions for {which}")


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
        echo(plan.draw())
