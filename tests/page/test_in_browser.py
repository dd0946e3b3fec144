"""The page in a browser: every number on it, and what choosing a box or a fold shows."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from refold.folding import FoldResult

pytest.importorskip("torch")
pytest.importorskip("fast_sugiyama")
pytest.importorskip("selenium")
from selenium.common.exceptions import NoAlertPresentException

from tests.page.browser import PIXEL, Browser, Run, change, in_view, lit, milliseconds, three, told_of
from tests.page.pages import HOSTILE

# What is seen


def test_the_page_loads_by_itself_in_silence(browser: Browser, measured: Run) -> None:
    browser.open(measured.page)
    assert browser.ask("[document.readyState, document.documentElement.dataset.ready]") == ["complete", "yes"]
    assert browser.ask("performance.getEntriesByType('resource').map((one) => one.name)") == []
    assert browser.ask("document.title") == "tests.page.pages:blocks: refold report"
    assert browser.ask("document.querySelectorAll('.box').length") == sum(len(browser.boxes(panel)) for panel in ("before", "after"))
    browser.keep("light")


def test_the_headline(browser: Browser, measured: Run) -> None:
    browser.open(measured.page)
    said = measured.said
    before, after = said["before"], said["after"]
    tiles = dict(
        zip(browser.texts(".tiles dt"), zip(browser.texts(".tiles dt + dd"), browser.texts(".tiles dd + dd"), strict=True), strict=True)
    )
    shares = {name: f"{after[name] / before[name]:.1%} left" for name in after if before[name]}
    assert tiles["operators"] == (f"{before['operators']} → {after['operators']}", shares["operators"])
    assert tiles["convolutions"] == (f"{before['convolutions']} → {after['convolutions']}", shares["convolutions"])
    thousands = [f"{one['multiply_adds'] / 1e3:.0f} k" for one in (before, after)]
    assert tiles["multiply-adds"] == (" → ".join(thousands), shares["multiply_adds"])
    kibibytes = [f"{one['weight_bytes'] / 1024:.3g} KiB" for one in (before, after)]
    assert tiles["weights"] == (kibibytes[1], f"{kibibytes[0]} before")
    for ratio in said["latency"]["ratios"]:
        assert tiles[f"{ratio['engine']}, batch {ratio['batch']}"] == (f"{ratio['ratio']['median']:.2f}", "time of original ÷ folded")
    assert tiles["largest difference"] == (three(said["certificate"]["largest_difference"]), "of the output's scale")
    assert len(tiles) == 5 + len(said["latency"]["ratios"]) > 5
    elsewhere = sum(check["refusal"] is None for check in said["certificate"]["sizes"])
    assert browser.texts(".verdict") == [
        f"Same function: {len(said['folds'])} folds proven in float64, 1 output compared (and at {elsewhere} other sizes)"
    ]
    assert browser.texts("header .muted") == [f"Written to out.onnx, {said['bytes']:,} bytes."]


def test_the_counts(browser: Browser, measured: Run) -> None:
    browser.open(measured.page)
    before, after = measured.said["before"], measured.said["after"]
    names = browser.ask("[...document.querySelectorAll('[data-count]')].map((row) => row.dataset.count)")
    assert sorted(names) == sorted(before)
    shares = [f"{after[name] / before[name]:.1%}" if before[name] else "-" for name in names]
    expected = [[f"{before[name]:,}", f"{after[name]:,}", share] for name, share in zip(names, shares, strict=True)]
    assert [row[1:] for row in browser.rows("[aria-labelledby=counts-title]")] == expected


def test_the_latency(browser: Browser, measured: Run) -> None:
    browser.open(measured.page)
    latency = measured.said["latency"]
    expected = []
    for one in latency["measurements"]:
        took = one["latency"]
        row = [one["engine"], str(one["batch"]), one["model"], milliseconds(took["median"])]
        row += [f"{milliseconds(took['lower'])} to {milliseconds(took['upper'])}", milliseconds(one["floor"]["median"])]
        expected.append(row)
    found = browser.rows("#latency")
    assert [row[:-1] for row in found] == expected
    assert len(expected) >= 4
    sizes = [one["peak_memory"] for one in latency["measurements"]]
    assert [row[-1].partition(" ")[0] for row in found] == [in_its_unit(size, row[-1]) for size, row in zip(sizes, found, strict=True)]
    told = ["{median:.3f} times as long as folded ({lower:.3f} to {upper:.3f})".format(**one["ratio"]) for one in latency["ratios"]]
    assert [line.partition("takes ")[2] for line in browser.texts("#latency li")] == told
    (chart,) = browser.ask("[...document.querySelectorAll('#latency .chart')].map((e) => e.textContent)")
    assert all(milliseconds(one["latency"]["median"]) in chart for one in latency["measurements"])


def in_its_unit(size: int | None, shown: str) -> str:
    if size is None:
        return "-"
    number = size / {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[shown.split()[1]]
    assert number < 1024
    return three(number) if number < 99.5 else f"{number:,.0f}"


def test_the_differences(browser: Browser, measured: Run) -> None:
    browser.open(measured.page)
    (one,) = measured.said["certificate"]["outputs"]
    numbers = [three(one["difference"]), three(one["difference"] / one["scale"])]
    numbers += [three(one[name]) for name in ("folded_error", "original_error", "bound")]
    assert browser.rows("#differences") == [[one["name"], *numbers, f"{one['equal']:,}", f"{one['agreement']:.2%}"]]
    assert sum(n for _, n in one["histogram"]) + one["equal"] == 10


def test_the_folds_and_refusals(browser: Browser, measured: Run) -> None:
    browser.open(measured.page)
    proofs = measured.said["certificate"]["regions"]
    rows = browser.rows("#folds")
    for number, (fold, proof, row) in enumerate(zip(measured.said["folds"], proofs, rows, strict=True)):
        assert (row[0], row[1], row[3]) == (str(number + 1), fold["name"], " + ".join(fold["became"]))
        assert Counter(fold["operations"]) == {word.split()[-1]: int(word.split()[0]) if " " in word else 1 for word in row[2].split(" + ")}
        assert row[4:7] == [change(fold, name) for name in ("operators", "multiply_adds", "weights")]
        assert row[7:] == [three(proof["residual"]), three(proof["ratio"])]
    assert len(rows) == 4
    expected = [[f"{one['node']} {one['operation']}", one["law"], one["fact"], one["remedy"]] for one in measured.said["refusals"]]
    assert browser.rows("#refusals") == expected
    assert len(expected) == 2
    assert browser.texts("#folds-title, #refusals-title") == ["4 folds", "2 refusals"]


def test_the_certificate(browser: Browser, measured: Run) -> None:
    browser.open(measured.page)
    written = json.loads((measured.page.parent / "out.certificate.json").read_text())
    assert f"sha256 {written['sha256']}" in browser.texts("#certificate dd")
    browser.click(browser.one("#certificate summary"))
    assert json.loads(browser.one("#certificate pre").text) == written


# Choosing


def test_a_folded_convolution_shows_what_went_into_it(browser: Browser, measured: Run, result: FoldResult) -> None:
    browser.open(measured.page)
    for number, at in enumerate(browser.boxes("after", ".fold")):
        browser.click(browser.box("after", at))
        assert browser.details() == told_of(number, measured, result)
        lit(browser, measured, number)
        assert in_view(browser, "before", browser.boxes("before", ".lit")[0])
    browser.open(measured.page)
    browser.click(browser.box("after", browser.boxes("after", ".fold")[1]))
    browser.ask("document.getElementById('network').scrollIntoView()")
    browser.keep("chosen")


def test_a_box_that_folds_shows_what_it_becomes(browser: Browser, measured: Run, result: FoldResult) -> None:
    browser.open(measured.page)
    browser.click(browser.box("before", browser.boxes("before", ".fold")[-1]))
    assert browser.details() == told_of(3, measured, result)
    lit(browser, measured, 3)
    assert in_view(browser, "after", browser.boxes("after", ".lit")[0])


def test_the_table_chooses_too(browser: Browser, measured: Run, result: FoldResult) -> None:
    browser.open(measured.page)
    for number, button in enumerate(browser.all("#folds [data-fold]")):
        browser.click(button)
        assert browser.details() == told_of(number, measured, result)
        lit(browser, measured, number)
        assert browser.frame("#network")["top"] == pytest.approx(0, abs=PIXEL)
        assert all(in_view(browser, panel, browser.boxes(panel, ".lit")[0]) for panel in ("before", "after"))


def test_a_box_that_does_not_fold_says_why(browser: Browser, measured: Run) -> None:
    browser.open(measured.page)
    refusal = next(one for one in measured.said["refusals"] if one["law"] == "composition")
    places = browser.ask("facts.drawing.after.map((box) => box.place)")
    browser.click(browser.box("after", places.index(refusal["node"])))
    told = browser.details()
    assert (told["not folded"], told["by the law"], told["remedy"]) == (refusal["fact"], refusal["law"], refusal["remedy"])
    assert told["parameters"] == "down.weight, down.bias"
    assert (browser.boxes("before", ".lit"), len(browser.boxes("after", ".lit"))) == ([], 1)


# Names that are markup


def test_names_run_nothing(browser: Browser, named: Run) -> None:
    browser.open(named.page)
    assert browser.ask("document.documentElement.dataset.ready") == "yes"
    for panel in ("before", "after"):
        for at in browser.boxes(panel):
            browser.click(browser.box(panel, at))
            assert browser.ask("document.querySelectorAll('img, #details b, #details script').length") == 0
    browser.click(browser.one("[data-fold]"))
    told = " ".join(browser.details().values())
    assert all(name in told for name in HOSTILE)
    assert browser.texts("h1") == [named.said["model"]]
    assert browser.ask("document.scripts.length") == 2
    assert browser.ask("performance.getEntriesByType('resource').length") == 0
    with pytest.raises(NoAlertPresentException):
        browser.driver.switch_to.alert.accept()
