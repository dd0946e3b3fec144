"""A browser and what the tests ask of it: Chromium without a window, over its own driver."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

import refold
from refold.folding import FoldResult

SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
)
ARTIFACTS = Path(os.environ.get("REFOLD_ARTIFACTS") or Path(refold.__file__).parents[2] / "build" / "report-screenshots")
WIDE, PHONE = (1400, 1000), (360, 740)
PIXEL = 1.0
"""Scrolling goes by whole pixels, lengths by parts of one."""


@dataclass
class Browser:
    """Chromium, and what the tests ask of it."""

    driver: Any

    def ask(self, script: str, *values: Any) -> Any:
        """What a line of JavaScript gives."""
        return self.driver.execute_script(f"return {script}", *values)

    def tell(self, command: str, **options: Any) -> Any:
        """Send a command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(command, options)

    def open(self, page: Path, size: tuple[int, int] = WIDE, scheme: str = "light", media: str = "screen") -> None:
        """Load a page as a screen of this size shows it."""
        width, height = size
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=size == PHONE)
        self.tell("Emulation.setTouchEmulationEnabled", enabled=size == PHONE)
        self.tell("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.driver.get(page.as_uri())

    def all(self, selector: str) -> list[Any]:
        """The elements that a selector finds."""
        found: list[Any] = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found

    def one(self, selector: str) -> Any:
        """The only element that a selector finds."""
        (found,) = self.all(selector)
        return found

    def texts(self, selector: str) -> list[str]:
        """The text of elements, as it is seen."""
        return [
            " ".join(text.split()) for text in self.ask("[...document.querySelectorAll(arguments[0])].map((e) => e.innerText)", selector)
        ]

    def rows(self, section: str) -> list[list[str]]:
        """The cells of a table's body."""
        script = "[...document.querySelectorAll(arguments[0] + ' tbody tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"
        return [[" ".join(cell.split()) for cell in row] for row in self.ask(script, section)]

    def box(self, panel: str, number: int) -> Any:
        """A box of a picture."""
        return self.one(f"[data-panel={panel}] .box[data-at='{number}']")

    def boxes(self, panel: str, which: str = "") -> list[int]:
        """The numbers of the boxes of a panel that a selector finds."""
        found = self.ask(
            "[...document.querySelectorAll(arguments[0])].map((e) => Number(e.dataset.at))", f"[data-panel={panel}] .box{which}"
        )
        return [int(number) for number in found]

    def click(self, element: Any) -> None:
        """Bring an element into sight and click it."""
        self.ask("arguments[0].scrollIntoView({ block: 'center', inline: 'center' })", element)
        ActionChains(self.driver).move_to_element(element).click().perform()

    def press(self, *keys: str) -> None:
        """Press keys one after another."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def details(self) -> dict[str, str]:
        """What is told of the chosen box, by name, with its title and branches."""
        names, values = self.texts("#details dt"), self.texts("#details dd")
        branches = self.ask("document.querySelector('#details pre')?.innerText ?? ''")
        return {"title": self.texts("#details h3")[0], "branches": branches, **dict(zip(names, values, strict=True))}

    def frame(self, selector: str) -> dict[str, float]:
        """Where an element stands on the screen."""
        return dict(self.ask("document.querySelector(arguments[0]).getBoundingClientRect().toJSON()", selector))

    def width(self, panel: str) -> float:
        """How wide a picture is shown."""
        return self.frame(f"[data-panel={panel}] svg")["width"]

    def scale(self, panel: str) -> float:
        """How large a picture is shown, for one at full size."""
        return self.width(panel) / float(self.ask(f"document.querySelector('[data-panel={panel}] svg').viewBox.baseVal.width"))

    def scrolled(self, panel: str) -> list[float]:
        """How far a view is scrolled."""
        view = f"document.querySelector('[data-panel={panel}] .view')"
        return [float(one) for one in self.ask(f"[{view}.scrollLeft, {view}.scrollTop]")]

    def keep(self, name: str) -> None:
        """Keep a picture of the screen for people to look at."""
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        assert self.driver.save_screenshot(str(ARTIFACTS / f"{name}.png"))


@dataclass(frozen=True)
class Run:
    """One run of the command: the page it wrote and what it printed."""

    page: Path
    said: Any


def missing() -> str:
    """What is not installed here, or nothing."""
    programs = ("chromium", "chromedriver")
    return " and ".join(program for program in programs if shutil.which(program) is None)


def start(profile: Path) -> Browser:
    """Start Chromium with a profile of its own."""
    options = Options()
    options.binary_location = str(shutil.which("chromium"))
    for switch in (*SWITCHES, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Browser(webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver"))))


def three(number: float) -> str:
    return f"{number:.3g}"


def milliseconds(seconds: float) -> str:
    return f"{three(seconds * 1e3)} ms" if seconds < 0.0995 else f"{seconds * 1e3:,.0f} ms"


def change(fold: Any, name: str) -> str:
    return f"{fold['before'][name]:,} → {fold['after'][name]:,}"


def told_of(number: int, measured: Run, result: FoldResult) -> dict[str, str]:
    fold, proof = measured.said["folds"][number], measured.said["certificate"]["regions"][number]
    return {
        "title": f"Fold {number + 1}: {fold['name']}",
        "branches": "\n".join(result.drawing.branches_of(number)),
        "became": " + ".join(fold["became"]),
        "by": " and ".join(fold["laws"]),
        "operators": change(fold, "operators"),
        "multiply-adds": change(fold, "multiply_adds"),
        "weights": change(fold, "weights"),
        "residual": f"{three(proof['residual'])} in float64",
        "allowed": three(proof["bound"]),
        "of its bound": three(proof["ratio"]),
    }


def lit(browser: Browser, measured: Run, number: int) -> None:
    """The boxes of one fold are lit, and no others."""
    labels = [browser.box("before", at).get_attribute("aria-label") for at in browser.boxes("before", ".lit")]
    assert Counter(label.split(", ")[0] for label in labels) == Counter(measured.said["folds"][number]["operations"])
    assert {label.split(", ")[-1] for label in labels} == {f"fold {number + 1}"}
    (at,) = browser.boxes("after", ".lit")
    assert browser.box("after", at).get_attribute("aria-label").endswith(f"fold {number + 1}")


def in_view(browser: Browser, panel: str, number: int) -> bool:
    box, view = browser.frame(f"[data-panel={panel}] .box[data-at='{number}'] rect"), browser.frame(f"[data-panel={panel}] .view")
    return view["left"] <= box["left"] < box["right"] <= view["right"] and view["top"] <= box["top"] < box["bottom"] <= view["bottom"]
