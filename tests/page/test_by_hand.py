"""The page in use: by keys alone, with a mouse, with fingers on a phone."""

from __future__ import annotations

import math

import pytest

from refold.folding import FoldResult

pytest.importorskip("torch")
pytest.importorskip("fast_sugiyama")
pytest.importorskip("selenium")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.page.browser import PHONE, PIXEL, Browser, Run, in_view, told_of

CONTROL = 2
"""The Ctrl key, as the protocol counts it."""


# Keys


def focused(browser: Browser) -> str | None:
    number = browser.ask("document.activeElement.closest('.box')?.dataset.at ?? null")
    return None if number is None else str(number)


def tab_to_a_box(browser: Browser) -> int:
    for presses in range(1, 20):
        browser.press(Keys.TAB)
        if focused(browser) is not None:
            return presses
    raise AssertionError("Tab reaches no box")


def test_keys_alone_are_enough(browser: Browser, measured: Run, result: FoldResult) -> None:
    browser.open(measured.page)
    tab_to_a_box(browser)
    assert focused(browser) == "0"
    for key, number in ((Keys.ARROW_DOWN, 1), (Keys.ARROW_RIGHT, 2), (Keys.ARROW_LEFT, 1), (Keys.ARROW_UP, 0), (Keys.ARROW_UP, 0)):
        browser.press(key)
        assert focused(browser) == str(number)
    last = len(browser.boxes("before")) - 1
    browser.press(Keys.END)
    assert focused(browser) == str(last)
    assert in_view(browser, "before", last)
    browser.press(Keys.HOME, Keys.ARROW_DOWN)
    assert in_view(browser, "before", 1)
    for key in (Keys.ENTER, Keys.SPACE):
        browser.press(Keys.ARROW_DOWN, key)
        assert browser.details() == told_of(0, measured, result)
    browser.press(Keys.TAB)
    assert focused(browser) is None


def test_keys_zoom(browser: Browser, measured: Run) -> None:
    browser.open(measured.page)
    tab_to_a_box(browser)
    first, other = browser.width("before"), browser.width("after")
    browser.press("+")
    assert browser.width("before") == pytest.approx(first * 1.4, abs=PIXEL)
    browser.press("-")
    assert browser.width("before") == pytest.approx(first, abs=PIXEL)
    browser.press("+", "+", "1")
    assert browser.scale("before") == 1
    browser.press("0")
    picture, view = browser.frame("[data-panel=before] svg"), browser.frame("[data-panel=before] .view")
    assert picture["height"] <= view["height"] + PIXEL
    assert picture["width"] <= view["width"] + PIXEL
    assert browser.width("before") < first
    assert browser.width("after") == other


def test_focus_is_seen(browser: Browser, measured: Run) -> None:
    """Whatever Tab reaches is marked: an outline, or on a box the thick line in its colour."""
    browser.open(measured.page)
    colour = browser.ask("getComputedStyle(document.documentElement).getPropertyValue('--lit')")
    mark = """(() => {
      const told = getComputedStyle(document.activeElement);
      const rect = document.activeElement.matches('.box') ? getComputedStyle(document.activeElement.firstChild) : null;
      return rect ? [rect.stroke, rect.strokeWidth] : [told.outlineColor, told.outlineWidth];
    })()"""
    lit = "rgb({}, {}, {})".format(*(int(colour[at : at + 2], 16) for at in (1, 3, 5)))
    names = []
    for _ in range(40):
        browser.press(Keys.TAB)
        if browser.ask("document.activeElement === document.body"):
            break
        names.append(
            browser.ask("document.activeElement.ariaLabel || document.activeElement.innerText || document.activeElement.className")
        )
        expected = "3.5px" if focused(browser) else "3px"
        assert browser.ask(mark) == [lit, expected], names[-1]
    assert names[0] == "Skip to the network"
    assert sum("in the network" in name for name in names) == 4
    assert sum(name.startswith("Zoom in") for name in names) == 2


def test_the_network_can_be_skipped_to(browser: Browser, measured: Run) -> None:
    browser.open(measured.page, PHONE)
    browser.press(Keys.TAB, Keys.ENTER)
    assert browser.ask("location.hash") == "#network"
    assert browser.frame("#network")["top"] == pytest.approx(0, abs=PIXEL)


# The mouse


def enlarge(browser: Browser) -> None:
    """The picture before folding at a size at which it scrolls both ways."""
    browser.click(browser.one("[data-panel=before] [data-zoom=full]"))
    for _ in range(2):
        browser.click(browser.one("[data-panel=before] [data-zoom=in]"))
    browser.ask("document.querySelector('[data-panel=before] .view').scrollTo(200, 300)")
    assert browser.scrolled("before") == [200, 300]


def test_dragging_moves_the_picture(browser: Browser, measured: Run) -> None:
    browser.open(measured.page)
    enlarge(browser)
    view = browser.one("[data-panel=before] .view")
    ActionChains(browser.driver).move_to_element(view).click_and_hold().move_by_offset(-60, 40).release().perform()
    assert browser.scrolled("before") == [260, 260]
    assert browser.details()["title"] == "Nothing chosen"
    ActionChains(browser.driver).move_by_offset(-30, -30).perform()
    assert browser.scrolled("before") == [260, 260]
    assert browser.ask("getComputedStyle(arguments[0]).cursor", view) == "grab"


def test_buttons_zoom(browser: Browser, measured: Run) -> None:
    browser.open(measured.page)
    first, scale = browser.width("after"), browser.scale("after")
    for button, factor in (("in", 1.4), ("in", 1.4**2), ("out", 1.4), ("out", 1.0), ("in", 1.4), ("full", 1 / scale)):
        browser.click(browser.one(f"[data-panel=after] [data-zoom={button}]"))
        assert browser.width("after") == pytest.approx(first * factor, abs=PIXEL)
    browser.click(browser.one("[data-panel=after] [data-zoom=fit]"))
    view = browser.one("[data-panel=after] .view")
    assert browser.ask("[arguments[0].scrollWidth, arguments[0].scrollHeight]", view) == browser.ask(
        "[arguments[0].clientWidth, arguments[0].clientHeight]", view
    )


@pytest.mark.parametrize("turns", [-120.0, 120.0])
def test_the_wheel_zooms_about_the_pointer(browser: Browser, measured: Run, turns: float) -> None:
    browser.open(measured.page)
    enlarge(browser)
    view, width = browser.frame("[data-panel=before] .view"), browser.width("before")
    x, y = view["left"] + 0.3 * view["width"], view["top"] + 0.6 * view["height"]

    def under() -> list[float]:
        """The point of the picture that is under the pointer."""
        picture = browser.frame("[data-panel=before] svg")
        return [(x - picture["left"]) / browser.scale("before"), (y - picture["top"]) / browser.scale("before")]

    page, point = browser.ask("scrollY"), under()
    browser.tell("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=turns, modifiers=CONTROL)
    assert browser.width("before") == pytest.approx(width * math.exp(-turns / 300), abs=PIXEL)
    assert under() == pytest.approx(point, abs=PIXEL / browser.scale("before"))
    assert browser.ask("scrollY") == page


def test_the_wheel_alone_scrolls(browser: Browser, measured: Run) -> None:
    browser.open(measured.page)
    enlarge(browser)
    view, width = browser.frame("[data-panel=before] .view"), browser.width("before")
    browser.tell("Input.dispatchMouseEvent", type="mouseWheel", x=view["left"] + 50, y=view["top"] + 50, deltaX=0, deltaY=120)
    browser.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(arguments[0], 300)))")
    assert browser.scrolled("before")[1] > 300
    assert browser.width("before") == width


# A phone


BEYOND = """[...document.querySelectorAll('body *')].filter((one) => {
  const { left, right, width } = one.getBoundingClientRect();
  const scrolls = (up) => up && up !== document.body && (/auto|scroll/.test(getComputedStyle(up).overflowX) || scrolls(up.parentElement));
  return width > 1 && !one.matches('.skip') && (right > document.documentElement.clientWidth + 1 || left < -1) && !scrolls(one);
}).map((one) => one.outerHTML.slice(0, 80))"""


def test_a_phone_shows_it_all(browser: Browser, measured: Run) -> None:
    browser.open(measured.page, PHONE)
    browser.keep("phone")
    assert browser.ask("[innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    assert browser.ask(BEYOND) == []
    for scroll in browser.all(".scroll, .view"):
        browser.ask("arguments[0].scrollTo(99999, 0)", scroll)
        left, all_of_it, shown = browser.ask("[arguments[0].scrollLeft, arguments[0].scrollWidth, arguments[0].clientWidth]", scroll)
        assert left == pytest.approx(all_of_it - shown, abs=PIXEL)
    assert browser.ask("document.documentElement.scrollHeight") > PHONE[1]


def test_what_lies_beyond_a_phone_is_found(browser: Browser, measured: Run) -> None:
    browser.open(measured.page, PHONE)
    browser.ask("document.querySelector('h1').style.width = '500px'")
    assert len(browser.ask(BEYOND)) == 1


def touch(browser: Browser, *moments: list[tuple[float, float]]) -> None:
    """Fingers on the screen, moment by moment."""
    for number, fingers in enumerate(moments):
        points = [{"x": x, "y": y, "id": finger} for finger, (x, y) in enumerate(fingers)]
        browser.tell("Input.dispatchTouchEvent", type="touchMove" if number else "touchStart", touchPoints=points)
    browser.tell("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])


def test_a_finger_chooses_and_sees(browser: Browser, measured: Run, result: FoldResult) -> None:
    """What is told of a box stands on the screen with it."""
    browser.open(measured.page, PHONE)
    at = browser.boxes("before", ".fold")[0]
    browser.ask("arguments[0].scrollIntoView({ block: 'start' })", browser.one("[data-panel=before]"))
    box = browser.frame(f"[data-panel=before] .box[data-at='{at}'] rect")
    touch(browser, [((box["left"] + box["right"]) / 2, (box["top"] + box["bottom"]) / 2)])
    assert browser.details() == told_of(0, measured, result)
    details, box = browser.frame("#details"), browser.frame(f"[data-panel=before] .box[data-at='{at}'] rect")
    assert box["bottom"] < details["top"] < details["bottom"] <= PHONE[1]
    browser.keep("phone-chosen")


def test_two_fingers_zoom(browser: Browser, measured: Run) -> None:
    browser.open(measured.page, PHONE)
    browser.ask("arguments[0].scrollIntoView({ block: 'start' })", browser.one("[data-panel=before]"))
    view, width = browser.frame("[data-panel=before] .view"), browser.width("before")
    x, y = view["left"] + view["width"] / 2, view["top"] + view["height"] / 2
    touch(browser, *([(x, y - reach), (x, y + reach)] for reach in (20, 30, 40)))
    assert browser.width("before") == pytest.approx(2 * width, abs=PIXEL)
    assert browser.ask("visualViewport.scale") == 1
