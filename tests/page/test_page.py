"""The page as a file: whole, safe whatever names a model has, legible, and refused with a reason where it cannot be written."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import math
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner

import refold
from refold.cli import main
from refold.drawing import INPUT, Box, Drawing
from refold.errors import FoldError
from refold.folding import FoldResult

pytest.importorskip("torch")
pytest.importorskip("fast_sugiyama")
import torch
from torch import Tensor, nn

from refold.page import _page, write_page
from tests.page.pages import HOSTILE, IMAGE, QUOTES, SCRIPT, Page, blocks, hostile, plain

COUNTS = dict.fromkeys(
    ("operators", "convolutions", "linears", "batch_norms", "additions", "parameters", "weight_bytes", "multiply_adds"), 7
)
DRAWING = Drawing((Box("x", INPUT), Box("y", "relu", ("x",))), (Box("x", INPUT), Box("y", "relu", ("x",))))


def facts(**changed: Any) -> dict[str, Any]:
    """The facts of a network of one relu."""
    nothing: dict[str, Any] = {"folds": [], "refusals": [], "before": COUNTS, "after": COUNTS, "certificate": None, "notes": []}
    return {"model": "m", "output": None, "bytes": None, "latency": None, **nothing, **changed}


def data(page: Page) -> Any:
    """The facts that the script reads."""
    return json.loads(page.scripts[0])


# What cannot be written


@pytest.mark.parametrize("name", ["report.pdf", "report", "report.html.txt"])
def test_a_report_ends_in_html(tmp_path: Path, name: str) -> None:
    with pytest.raises(FoldError, match=rf"cannot write .*{re.escape(name)}: a report is a page; give a name that ends in \.html"):
        write_page(tmp_path / name, facts(), DRAWING, None)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(FoldError, match=r"cannot write .*report\.html: No such file or directory; choose a folder that exists"):
        write_page(tmp_path / "none" / "report.html", facts(), DRAWING, None)


def lack(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in missing else find_spec(name, *rest))


@pytest.mark.parametrize(
    ("missing", "said"),
    [(("jinja2",), "Jinja2"), (("matplotlib", "fast_sugiyama"), "Matplotlib and fast-sugiyama")],
)
def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...], said: str) -> None:
    lack(monkeypatch, *missing)
    with pytest.raises(FoldError, match=re.escape(f"a report is made with {said}, not installed here; pip install 'refold[report]'")):
        write_page(tmp_path / "report.html", facts(), DRAWING, None)


@pytest.mark.parametrize(
    ("report", "missing", "said"),
    [
        ("report.txt", (), "give a name that ends in .html"),
        ("none/report.html", (), "there is no folder none"),
        ("report.html", ("jinja2",), "pip install 'refold[report]'"),
    ],
)
def test_the_command_refuses_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: str, missing: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    lack(monkeypatch, *missing)
    outcome = CliRunner().invoke(main, ["fold", "nowhere:at_all", "-o", "out.onnx", "--report", report])
    assert (outcome.exit_code, said in outcome.stderr) == (2, True), outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_page_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "report.html"
    place.write_text("before")
    write_text = Path.write_text

    def on_a_full_disk(path: Path, text: str, **options: Any) -> int:
        write_text(path, text[: len(text) // 2], **options)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", on_a_full_disk)
        with pytest.raises(FoldError, match="No space left on device; what stood there before is untouched"):
            write_page(place, facts(), DRAWING, None)
    assert [one.read_text() for one in tmp_path.iterdir()] == ["before"]
    assert write_page(place, facts(), DRAWING, None) == place
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    assert Page.of(place).faults == []


# Whole pages


def test_a_page_of_blocks(tmp_path: Path, result: FoldResult) -> None:
    out = result.save(tmp_path / "out.pt2")
    page = Page.of(result.save_report(tmp_path / "report.html", output=out))
    assert page.faults == []
    assert "Same function: 4 folds proven in float64, 1 output compared" in page.text
    assert f"Written to out.pt2, {out.stat().st_size:,} bytes." in page.text
    assert "Not measured." in page.text
    assert len(page.classed("chart")) == 1
    assert len(page.classed("box")) == len(result.drawing.before) + len(result.drawing.after)
    written = json.loads((tmp_path / "out.certificate.json").read_text())
    for digest in (written["sha256"], written["original"]["weights"]["sha256"], written["output"]["weights"]["sha256"]):
        assert f"sha256 {digest}" in page.text
    for refusal in result.report.refusals:
        assert all(part in page.text for part in (refusal.law, refusal.fact, refusal.remedy))


def test_a_fold_without_verification(tmp_path: Path) -> None:
    model, example = blocks()
    result = refold.fold(model, example, verify=False)
    out = result.save(tmp_path / "out.safetensors")
    page = Page.of(result.save_report(tmp_path / "report.html", output=out))
    assert page.faults == []
    for words in ("Not verified: proof was switched off", "No output was compared.", "None: the result was not verified.", "4 folds"):
        assert words in page.text
    assert "Same function" not in page.text
    assert page.classed("chart") == []


def test_a_network_in_which_nothing_folds(tmp_path: Path) -> None:
    model, example = plain()
    result = refold.fold(model, example)
    page = Page.of(result.save_report(tmp_path / "report.html"))
    assert page.faults == []
    for words in ("0 folds", "Nothing to fold: the network has no two linear operators that merge.", "0 refusals", "2 → 2", "100.0% left"):
        assert words in page.text
    assert "Written to" not in page.text
    assert len(page.classed("box")) == 2 * 3


def test_a_network_that_failed(tmp_path: Path, result: FoldResult) -> None:
    certificate = {**result.report.to_dict()["certificate"], "passed": False}
    known = facts(**{**result.report.to_dict(), "certificate": certificate})
    page = Page.of(write_page(tmp_path / "report.html", known, result.drawing, None))
    assert "Not the same function" in page.text
    assert "Same function" not in page.text


class ManyOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.norm(self.conv(x)) * 0.3
        return tuple(torch.tanh(y * n) for n in range(1, 7))


def test_some_outputs_are_drawn_and_all_are_told(tmp_path: Path) -> None:
    result = refold.fold(ManyOutputs().eval(), (torch.randn(2, 3, 8, 8),))
    assert result.report.certificate is not None
    page = Page.of(result.save_report(tmp_path / "report.html"))
    assert len(page.classed("chart")) == _page.CHARTS < 6
    assert all(f"{one.difference:.3g}" in page.text for one in result.report.certificate.outputs)


def test_long_branches_are_cut(tmp_path: Path) -> None:
    terms = [Box(f"v{number}", "conv", ("x",), folds=(0,)) for number in range(_page.BRANCHES + 9)]
    total = Box("y", "add", tuple(box.name for box in terms), folds=(0,), adds=True)
    drawing = Drawing((Box("x", INPUT), *terms, total), (Box("x", INPUT), Box("y", "Conv2d", ("x",), folds=(0,))))
    cost = {"operators": 1, "multiply_adds": 1, "weights": 1}
    fold = {"name": "y", "operations": ["conv"], "became": ["Conv2d"], "laws": [], "sources": [], "before": cost, "after": cost}
    page = Page.of(write_page(tmp_path / "report.html", facts(folds=[fold]), drawing, None))
    branches = data(page)["folds"][0]["branches"]
    assert (len(branches), branches[-1]) == (_page.BRANCHES + 1, "and 10 lines more")


def latency(**changed: Any) -> dict[str, Any]:
    spread = {"median": 0.002, "lower": 0.001, "upper": 0.003, "runs": 9}
    one = {"engine": "torch", "batch": 1, "model": "original", "latency": spread, "floor": None, "over_floor": None, "peak_memory": None}
    measurements = [one, {**one, "model": "folded", "floor": spread, "peak_memory": 2**21}, {**one, "engine": "openvino", "batch": None}]
    ratio = {"engine": "torch", "batch": 1, "model": "original", "other": "folded", "ratio": spread}
    return {"threads": 1, "measurements": measurements, "ratios": [ratio], "failures": [], "skipped": {}, **changed}


def test_latency(tmp_path: Path) -> None:
    failure = {"engine": "openvino", "batch": 1, "model": "folded", "message": "no <b>such</b> operator", "part": "model"}
    measured = latency(failures=[failure], skipped={"tvm": "pip install tvm"})
    page = Page.of(write_page(tmp_path / "report.html", facts(latency=measured), DRAWING, None))
    assert page.faults == []
    (chart,) = page.classed("chart")
    assert chart["aria-label"] == "Latency: original in torch 2 ms, folded in torch 2 ms, original in openvino 2 ms"
    for words in (
        "torch 1 original 2 ms 1 ms to 3 ms - -",
        "torch 1 folded 2 ms 1 ms to 3 ms 2 ms 2 MiB",
        "openvino as given original 2 ms",
        "torch, batch 1: original takes 0.002 times as long as folded (0.001 to 0.003)",
        "folded did not run in openvino: no <b>such</b> operator",
        "tvm is not installed; pip install tvm",
    ):
        assert words in page.text


def test_latency_of_which_nothing_was_measured(tmp_path: Path) -> None:
    page = Page.of(write_page(tmp_path / "report.html", facts(latency=latency(measurements=[], ratios=[])), DRAWING, None))
    assert "Not measured." in page.text


# Numbers that JSON does not know


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none(tmp_path: Path, result: FoldResult, number: float) -> None:
    known = result.report.to_dict()
    regions = [{**one, "residual": number, "bound": number, "ratio": number} for one in known["certificate"]["regions"]]
    (output,) = known["certificate"]["outputs"]
    strange = dict.fromkeys(("difference", "original_error", "folded_error", "bound", "agreement", "scale"), number)
    for changed in (strange, {**strange, "scale": 0.0}, {**strange, "scale": 1.0}):
        certificate = {**known["certificate"], "largest_difference": number, "regions": regions, "outputs": [{**output, **changed}]}
        page = Page.of(write_page(tmp_path / "report.html", facts(**{**known, "certificate": certificate}), result.drawing, None))
        assert page.faults == []
        assert f"{number:.3g}" in page.text
        assert data(page)["certificate"]["outputs"][0]["difference"] == json.dumps(number)


def test_near_ties_in_another_order_are_told(tmp_path: Path, result: FoldResult) -> None:
    known = result.report.to_dict()
    (output,) = known["certificate"]["outputs"]
    order = {"axis": 1, "moved": 1_400, "items": 3_000, "places": 1, "own": 12, "difference": 2e-6}
    certificate = {**known["certificate"], "outputs": [{**output, "order": order}]}
    page = Page.of(write_page(tmp_path / "report.html", facts(**{**known, "certificate": certificate}), result.drawing, None))
    assert page.faults == []
    assert (
        "1,400 of 3,000 items along axis 1 are near-equal and came in another order (rounding moves 12 in the original itself)" in page.text
    )


# Names


def assert_only_text(page: Page) -> None:
    assert page.faults == []
    assert page.all("img") == []
    assert len(page.all("script")) == len(page.scripts) == 2
    assert [name for _, attributes in page.elements for name in attributes if name.startswith("on")] == []
    assert "49" not in page.text.split()


def test_names_are_text(tmp_path: Path) -> None:
    """Names of a model file, wherever the page tells them, are not markup."""
    onnx.save(hostile(), tmp_path / "model.onnx")
    result = refold.fold(tmp_path / "model.onnx")
    out = result.save(tmp_path / "out.onnx")
    page = Page.of(result.save_report(tmp_path / "report.html", name=f"{IMAGE}{SCRIPT}{QUOTES}", output=out))
    assert_only_text(page)
    assert all(name in page.text for name in HOSTILE)
    assert f"{IMAGE}{SCRIPT}{QUOTES}: refold report" in page.text
    assert data(page)["drawing"]["before"][0]["name"] == f"{QUOTES}{SCRIPT}"
    assert [box["aria-label"] for box in page.classed("end")] == [f"{QUOTES}{SCRIPT}, 1 x 4 x 9 x 9"] * 2


def test_words_of_others_are_text(tmp_path: Path) -> None:
    name = "".join(HOSTILE)
    refusal = dict.fromkeys(("node", "operation", "law", "fact", "remedy"), name)
    failure = {"engine": name, "batch": 1, "model": name, "message": name, "part": "model"}
    (one, *_), (ratio,) = latency()["measurements"], latency()["ratios"]
    told_of = facts(
        model=name,
        output=name,
        bytes=1,
        refusals=[refusal],
        notes=[name],
        latency=latency(
            failures=[failure],
            skipped={name: name},
            measurements=[{**one, "engine": name, "model": name}],
            ratios=[{**ratio, "engine": name, "model": name, "other": name}],
        ),
    )
    page = Page.of(write_page(tmp_path / "report.html", told_of, DRAWING, None))
    assert_only_text(page)
    assert page.text.count(SCRIPT) >= 16


# What a page may load and run


def addresses(page: Page, text: str) -> list[str]:
    """Whatever a browser would fetch."""
    fetching = {"src", "href", "xlink:href", "action", "data", "srcset"}
    named = [value for _, attributes in page.elements for name, value in attributes.items() if name in fetching]
    styled = re.findall(r"url\(\s*[\"']?([^)\"']*)", text) + re.findall(r"@import\s+\S+", text)
    return [one for one in (*named, *styled) if not one.startswith(("#", "data:,"))]


def test_nothing_is_fetched(tmp_path: Path, result: FoldResult) -> None:
    place = result.save_report(tmp_path / "report.html", latency=latency())
    text = place.read_text(encoding="utf-8")
    page = Page.of(place)
    assert addresses(page, text) == []
    assert set(re.findall(r"https?://[^\s\"'<>]*", text)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert {"img", "iframe", "object", "embed", "form", "base", "audio", "video"}.isdisjoint(tag for tag, _ in page.elements)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert sorted(ids) == sorted(set(ids))


def test_addresses_are_found() -> None:
    text = "<img src='http://a'><a href='#in'></a><style>@import 'b.css'; a { background: url(\"//c\") }</style>"
    page = Page()
    page.feed(text)
    assert addresses(page, text) == ["http://a", "//c", "@import 'b.css';"]


def test_only_the_script_of_the_page_may_run(tmp_path: Path, result: FoldResult) -> None:
    page = Page.of(result.save_report(tmp_path / "report.html"))
    (policy,) = (meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert rules == {"default-src": "'none'", "style-src": "'unsafe-inline'", "script-src": f"'sha256-{digest}'", "img-src": "data:"}
    assert page.all("script")[0]["type"] == "application/json"


# Colours


def palettes() -> dict[str, Mapping[str, str]]:
    style = (files("refold.page") / "page.css").read_text(encoding="utf-8")
    _, *parts = style.split(":root {")
    light, dark, printed = (dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{3,6})\b", part)) for part in parts)
    return {"light": light, "dark": light | dark, "print": light | printed}


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    red, green, blue = (int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_measured_right() -> None:
    assert contrast("#000", "#ffffff") == 21.0
    assert contrast("#777777", "#fff") < 4.5 < contrast("#767676", "#fff")


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_text_can_be_read_and_marks_be_seen(scheme: str) -> None:
    """WCAG 2.2: 4.5 for text (1.4.3), 3 for bars, lines and outlines (1.4.11)."""
    colours = palettes()[scheme]
    grounds = ("paper", "card")
    text = [(name, ground) for name in ("ink", "muted", "accent", "good", "bad", "mark") for ground in grounds]
    text += [(name, f"f{number}") for name in ("ink", "muted") for number in range(8)]
    text += [(f"e{number}", "card") for number in range(8)]
    marks = [(name, ground) for name in ("before", "after", "mark", "lit") for ground in grounds]
    marks += [("lit", f"f{number}") for number in range(8)] + [(f"e{number}", f"f{number}") for number in range(8)]
    measured = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in (*text, *marks)}
    assert {pair: value for pair, value in measured.items() if value < (4.5 if pair in text else 3.0)} == {}


def test_the_page_uses_no_colour_but_these() -> None:
    style = (files("refold.page") / "page.css").read_text(encoding="utf-8")
    used = set(re.findall(r"var\(--([\w-]+)\)", style)) - {"tint", "edge"}
    assert used <= set(palettes()["light"])
    assert set(palettes()["dark"]) == set(palettes()["light"])
    rules = re.sub(r"--[\w-]+:\s*#[0-9a-f]+;?", "", style)
    assert re.findall(r"#[0-9a-f]{3,8}\b", rules) == []
