"""The charts, drawn by Matplotlib as SVG that takes its colours from the page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from refold.page._numbers import milliseconds
from refold.page._picture import cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, BEFORE, AFTER, MARK = "#010101", "#020202", "#030303", "#040404", "#050505"
ROLES = {INK: "var(--ink)", FAINT: "var(--line)", BEFORE: "var(--before)", AFTER: "var(--after)", MARK: "var(--mark)"}
"""Colours that stand for the page's own, so that a chart is dark where the page is."""
INCHES = 4.6
BAR = 0.3
LETTERS = 24
"""That a name has room for."""
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def latency_chart(measurements: Sequence[Mapping[str, Any]], label: str) -> Markup:
    """Median milliseconds of each model in each engine, with the quartiles, and the floor as a mark."""
    cells = list(dict.fromkeys((one["engine"], one["batch"]) for one in measurements))
    firsts = {one["model"]: one for one in reversed(measurements)}
    models = list(dict.fromkeys(one["model"] for one in measurements))

    def paint(axes: Axes) -> None:
        longest = max(one["latency"]["upper"] for one in measurements) * 1e3
        for one in measurements:
            place = cells.index((one["engine"], one["batch"])) + BAR * 1.15 * (models.index(one["model"]) - (len(models) - 1) / 2)
            median, lower, upper = (one["latency"][name] * 1e3 for name in ("median", "lower", "upper"))
            colour = BEFORE if one["model"] == models[0] else AFTER
            axes.barh(place, median, BAR, color=colour, label=cut(one["model"], LETTERS) if one is firsts[one["model"]] else None)
            axes.plot([lower, upper], [place, place], color=INK, linewidth=1)
            if one["floor"] is not None:
                floor = one["floor"]["median"] * 1e3
                axes.plot([floor, floor], [place - BAR / 2, place + BAR / 2], color=MARK, linewidth=2)
            axes.text(max(median, upper) + longest * 0.015, place, milliseconds(one["latency"]["median"]), va="center")
        axes.set_yticks(
            range(len(cells)), [cut(engine, LETTERS) + ("" if batch is None else f"\nbatch {batch}") for engine, batch in cells]
        )
        axes.invert_yaxis()
        axes.set_xlim(0, longest * 1.22)
        axes.set_xlabel("milliseconds for one run")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderpad=0, handlelength=1)

    return _chart(paint, 1.0 + 0.75 * len(cells), label)


def difference_chart(check: Mapping[str, Any], label: str) -> Markup:
    """How many numbers of an output differ by how much, relative to its scale, beside the original's own error and what is allowed."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    histogram = check["histogram"]
    scale = check["scale"] or 1.0
    limits = [(check[name] / scale, style) for name, style in (("original_error", ":"), ("bound", "--")) if check[name] is not None]

    def paint(axes: Axes) -> None:
        axes.bar([power + 0.5 for power, _ in histogram], [count for _, count in histogram], 0.9, color=AFTER)
        for place, style in limits:
            if place > 0 and math.isfinite(place):
                axes.axvline(math.log2(place), color=MARK, linestyle=style, linewidth=1.5)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda power, _: f"{2.0**power:.0e}"))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
        axes.set_xlabel("difference, relative to the largest number of the output")
        axes.set_ylabel("numbers")

    return _chart(paint, 2.3, label)


def _chart(paint: Any, inches: float, label: str) -> Markup:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE | {"svg.hashsalt": label}):
        figure = Figure(figsize=(INCHES, inches), layout="constrained")
        axes = figure.add_subplot()
        paint(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        return _inline(figure, label)


def _inline(figure: Figure, label: str) -> Markup:
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = re.sub(r' id="[a-z0-9.]+_\d+"', "", text[text.index("<svg") :])  # names of parts, the same in every chart
    for colour, role in ROLES.items():
        text = text.replace(colour, role)
    head = Markup('<svg class="chart" role="img" aria-label="{}"').format(label)
    return Markup(text.replace("<svg", head, 1))
