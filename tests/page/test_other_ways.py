"""The page as others meet it: without scripts, in the dark, on paper, read aloud."""

from __future__ import annotations

import base64
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("fast_sugiyama")
pytest.importorskip("selenium")
from tests.page.browser import ARTIFACTS, PIXEL, Browser, Run


def test_without_scripts_the_pictures_and_tables_are_there(browser: Browser, measured: Run) -> None:
    browser.tell("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(measured.page)
    snapshot = browser.tell("DOMSnapshot.captureSnapshot", computedStyles=["display"])
    (document,), strings = snapshot["documents"], snapshot["strings"]
    layout = document["layout"]
    shown = dict(zip(layout["nodeIndex"], layout["bounds"], strict=True))
    names = [strings[index] for index in document["nodes"]["nodeName"]]
    attributes = [{strings[k]: strings[v] for k, v in zip(flat[::2], flat[1::2], strict=True)} for flat in document["nodes"]["attributes"]]
    assert all("data-ready" not in one for one in attributes)
    boxes = [node for node, one in enumerate(attributes) if "box" in one.get("class", "").split()]
    assert len(boxes) > 40
    assert all(node in shown and shown[node][2] > 50 for node in boxes)
    assert sum(names[node].lower() == "tr" for node in shown) == 8 + 4 + 1 + 4 + 2 + 5
    text = " ".join(strings[index] for index in layout["text"] if index >= 0)
    assert "Scripts are off" in text
    assert "Click a box" not in text
    assert "Nothing chosen" not in text
    browser.keep("without-scripts")


def test_the_dark(browser: Browser, measured: Run) -> None:
    def colours() -> list[str]:
        ground = "getComputedStyle(document.body).backgroundColor"
        bar = "getComputedStyle(document.querySelector('#latency .chart path[style*=\"--after\"]')).fill"
        return list(browser.ask(f"[{ground}, getComputedStyle(document.body).color, {bar}]"))

    browser.open(measured.page)
    light = colours()
    browser.open(measured.page, scheme="dark")
    dark = colours()
    assert light == ["rgb(250, 249, 246)", "rgb(28, 34, 48)", "rgb(15, 143, 136)"]
    assert dark == ["rgb(18, 21, 28)", "rgb(232, 233, 236)", "rgb(53, 181, 173)"]
    browser.keep("dark")
    browser.ask("document.getElementById('latency').scrollIntoView()")
    browser.keep("dark-charts")


def test_paper(browser: Browser, measured: Run) -> None:
    browser.open(measured.page, (718, 1000), scheme="dark", media="print")
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.ask("getComputedStyle(document.querySelector('.box.fold rect')).fill") == "rgb(215, 236, 251)"
    assert browser.ask("document.documentElement.scrollWidth") == 718
    assert {browser.ask("getComputedStyle(arguments[0]).display", one) for one in browser.all(".tools, .hint, #details")} == {"none"}
    for panel in ("before", "after"):
        picture, view = browser.frame(f"[data-panel={panel}] svg"), browser.frame(f"[data-panel={panel}] .view")
        assert picture["height"] <= view["height"] + PIXEL
        assert picture["width"] <= view["width"] + PIXEL
    assert browser.ask("[...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth + 1).length") == 0
    browser.tell("Emulation.setEmulatedMedia", media="", features=[])
    printed = base64.b64decode(browser.tell("Page.printToPDF", printBackground=True)["data"])
    assert printed.startswith(b"%PDF-")
    assert printed.count(b"/Type /Page\n") >= 4
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    (ARTIFACTS / "paper.pdf").write_bytes(printed)


def heard(browser: Browser) -> list[tuple[str, str, dict[str, Any]]]:
    """Roles, names and properties, as a screen reader is told them."""
    nodes = browser.tell("Accessibility.getFullAXTree")["nodes"]
    return [
        (
            node["role"]["value"],
            node.get("name", {}).get("value", ""),
            {one["name"]: one["value"].get("value") for one in node.get("properties", ())},
        )
        for node in nodes
        if not node["ignored"]
    ]


def test_it_can_be_heard(browser: Browser, measured: Run) -> None:
    browser.open(measured.page)
    told = heard(browser)
    buttons = Counter(name for role, name, _ in told if role == "button")
    assert "" not in buttons
    for panel in ("before", "after"):
        labels = Counter(browser.ask("[...document.querySelectorAll(arguments[0])].map((e) => e.ariaLabel)", f"[data-panel={panel}] .box"))
        assert labels
        assert not labels - buttons
    assert buttons["Show fold 1, stem.folded, in the network"] == 1
    assert [name for role, name, _ in told if role in ("image", "img")] == browser.ask(
        "[...document.querySelectorAll('.chart')].map((e) => e.ariaLabel)"
    )
    assert sum(role in ("image", "img") and bool(name) for role, name, _ in told) == 2
    levels = [properties["level"] for role, _, properties in told if role == "heading"]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    assert all(name for role, name, _ in told if role == "heading")
    roles = Counter(role for role, _, _ in told)
    assert roles["table"] == 5
    assert roles["columnheader"] == 4 + 7 + 8 + 9 + 4
    assert roles["rowheader"] == 8 + 4 + 1 + 4 + 2
    assert all(name for role, name, _ in told if role in ("columnheader", "rowheader"))
    assert {"banner", "main", "contentinfo", "complementary"} <= set(roles)
    assert {name for role, name, _ in told if role == "complementary"} == {"Details of the chosen box"}


def test_what_is_chosen_is_announced(browser: Browser, measured: Run) -> None:
    browser.open(measured.page)
    browser.click(browser.box("after", browser.boxes("after", ".fold")[0]))
    (properties,) = (properties for role, _, properties in heard(browser) if role == "complementary")
    assert properties["live"] == "polite"
