"""Puts the page together: figures in words, the pictures, the charts, and one script and style sheet laid inside it."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Any

from refold.drawing import Box, Drawing
from refold.errors import FoldError
from refold.files import replacing
from refold.page._numbers import in_bytes, milliseconds, rounded, share, short
from refold.report import ROWS, count, counted

PACKAGES = {"jinja2": "Jinja2", "matplotlib": "Matplotlib", "fast_sugiyama": "fast-sugiyama"}
CHARTS = 4
"""Outputs whose differences are drawn; the table has all."""
BRANCHES = 400
"""Lines of a fold's drawing that the page holds."""


def check_installed() -> None:
    """Raise `FoldError` where a package is missing that the page is made with."""
    missing = [title for name, title in PACKAGES.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise FoldError(f"a report is made with {' and '.join(missing)}, not installed here; pip install 'refold[report]'")


def write_page(path: str | os.PathLike[str], facts: Mapping[str, Any], drawing: Drawing, certificate: Mapping[str, Any] | None) -> Path:
    """Write a report, atomically.

    `facts` are those of `Report.to_dict()` with `model`, the name of the original; `output` and `bytes` of what was written, or None; and
    `latency`, what `BenchResult.to_dict()` gives, or None. `certificate` is the content of the certificate's file, if there is one.

    Raises `FoldError` where the name does not end in .html, a package is missing or the file cannot be written.
    """
    place = Path(path)
    if place.suffix.lower() not in (".html", ".htm"):
        raise FoldError(f"cannot write {place}: a report is a page; give a name that ends in .html")
    check_installed()
    text = _render(dict(facts), drawing, certificate)
    with replacing(place) as draft:
        draft.write_text(text, encoding="utf-8")
    return place


def _render(facts: dict[str, Any], drawing: Drawing, certificate: Mapping[str, Any] | None) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from refold.page._charts import difference_chart, latency_chart
    from refold.page._picture import COLOURS, picture

    environment = Environment(
        loader=PackageLoader("refold", "page"), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {"counted": count, "milliseconds": milliseconds, "bytes": in_bytes, "short": short, "relative": _relative}
    script, style = ((files("refold.page") / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    folds = [{**one, "branches": _branches(drawing, number)} for number, one in enumerate(facts["folds"])]
    proofs, outputs = ((facts["certificate"] or {}).get(part, ()) for part in ("regions", "outputs"))
    panels = [
        {"key": key, "title": title, "boxes": len(boxes), "picture": picture(boxes, f"The network {title.lower()} folding")}
        for key, title, boxes in (("before", "Before", drawing.before), ("after", "After", drawing.after))
    ]
    data = {**facts, "folds": folds, "drawing": {"before": _told(drawing.before), "after": _told(drawing.after)}}
    latency = facts["latency"]
    return environment.get_template("page.html.j2").render(
        facts
        | {
            "tiles": list(_tiles(facts)),
            "panels": panels,
            "counts": list(_counts(facts)),
            "latency_chart": latency_chart(latency["measurements"], _in_words(latency)) if latency and latency["measurements"] else None,
            "charts": [
                {"name": one["name"], "chart": difference_chart(one, f"How many numbers of {one['name']} differ by how much")}
                for one in [one for one in outputs if one["histogram"]][:CHARTS]
            ],
            "folds": [
                {**one, "was": counted(one["operations"]), "now": counted(one["became"]), "proof": proof}
                for one, proof in zip_longest(folds, proofs)
            ],
            "colours": COLOURS,
            "stated": list(_stated(certificate)) if certificate else [],
            "certificate_text": json.dumps(_plain(certificate or facts["certificate"]), indent=2, ensure_ascii=False),
            "version": version("refold"),
            "facts_json": Markup(json.dumps(_plain(data)).replace("<", "\\u003c")),  # so that no tag begins in it
            "script": Markup(script),
            "script_hash": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            "style": Markup(style),
        }
    )


def _plain(data: Any) -> Any:
    """What JSON makes of it; NaN and infinity become text."""
    return json.loads(json.dumps(data), parse_constant=str)


def _branches(drawing: Drawing, number: int) -> list[str]:
    lines = list(drawing.branches_of(number))
    return lines if len(lines) <= BRANCHES else [*lines[:BRANCHES], f"and {count(len(lines) - BRANCHES, 'line')} more"]


def _told(boxes: Sequence[Box]) -> list[dict[str, Any]]:
    from refold.page._picture import size_of

    return [
        {
            "name": box.name,
            "operation": box.operation,
            "shape": size_of(box),
            "reads": box.reads,
            "sources": box.sources,
            "place": box.place,
            "folds": box.folds,
        }
        for box in boxes
    ]


def _tiles(facts: Any) -> Iterator[dict[str, str]]:
    """What a person wants to know first."""
    before, after = facts["before"], facts["after"]
    for label, name in (("operators", "operators"), ("convolutions", "convolutions"), ("multiply-adds", "multiply_adds")):
        remark = f"{share(after[name], before[name])} left" if before[name] else "none before"
        yield {"label": label, "value": f"{rounded(before[name])} → {rounded(after[name])}", "remark": remark}
    yield {"label": "weights", "value": in_bytes(after["weight_bytes"]), "remark": f"{in_bytes(before['weight_bytes'])} before"}
    for one in (facts["latency"] or {}).get("ratios", ()):
        batch = "" if one["batch"] is None else f", batch {one['batch']}"
        remark = f"time of {one['model']} ÷ {one['other']}"
        yield {"label": one["engine"] + batch, "value": f"{one['ratio']['median']:.2f}", "remark": remark}
    if facts["certificate"] and facts["certificate"]["outputs"]:
        yield {
            "label": "largest difference",
            "value": short(facts["certificate"]["largest_difference"]),
            "remark": "of the output's scale",
        }


def _counts(facts: Any) -> Iterator[dict[str, Any]]:
    for label, key in ROWS:
        before, after = facts["before"][key], facts["after"][key]
        yield {"key": key, "label": label, "before": before, "after": after, "share": share(after, before)}


def _stated(certificate: Any) -> Iterator[tuple[str, str]]:
    """What a certificate says of files and circumstances."""
    for part in ("original", "output"):
        weights = certificate[part]["weights"]
        yield part, certificate[part]["name"]
        yield f"its {count(weights['tensors'], 'tensor')}, {weights['bytes']:,} bytes", f"sha256 {weights['sha256']}"
    for name, digest in certificate["output"].get("files", {}).items():
        yield f"file {name}", f"sha256 {digest}"
    given = certificate["inputs"].get("given")
    yield "inputs", ", ".join(given) if given else "drawn at random"
    yield "seed", str(certificate["seed"])
    yield "versions", ", ".join(f"{name} {number}" for name, number in certificate["versions"].items())
    yield "certificate", f"sha256 {certificate['sha256']}"


def _relative(check: Any) -> float:
    """The largest difference of an output, relative to its scale where it has one."""
    return float(check["difference"] / check["scale"] if check["scale"] else check["difference"])


def _in_words(latency: Any) -> str:
    told = (f"{one['model']} in {one['engine']} {milliseconds(one['latency']['median'])}" for one in latency["measurements"])
    return f"Latency: {', '.join(told)}"
