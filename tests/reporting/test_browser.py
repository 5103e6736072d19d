"""The page in a browser: it loads, steps, searches, and shows both colour schemes.

Needs the extra `test-browser` and a Chromium; skipped where there is none.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs the extra `test-browser`"
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = ["--no-sandbox", "--disable-gpu", "--disable-quic"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, page: str, tmp_path: Path) -> Iterator[Any]:
    file = tmp_path / "page.html"
    file.write_text(page)
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    messages: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda r: r.url.startswith("file:") or messages.append(r.url))
    tab.goto(file.as_uri())
    yield tab
    assert messages == [], "no errors, no requests"
    tab.close()


def drawn(tab: Any, side: str) -> list[str]:
    return tab.locator(f"#{side} svg title").all_text_contents()


def test_it_opens_with_the_first_rewrite(opened: Any) -> None:
    assert opened.title() == "qat_fuse · rewrites"
    assert opened.locator("#count").text_content() == "1 / 20"
    assert {"conv2d", "batch_norm"} <= set(drawn(opened, "before"))
    assert len(drawn(opened, "after")) > len(drawn(opened, "before"))
    assert opened.locator("svg .matched").count() == 2


@pytest.mark.parametrize("forward", ["#next", "ArrowRight", "j"])
def test_stepping_changes_the_picture(opened: Any, forward: str) -> None:
    before = drawn(opened, "before")
    if forward == "#next":
        opened.click(forward)
    else:
        opened.keyboard.press(forward)
    assert opened.locator("#count").text_content() == "2 / 20"
    assert drawn(opened, "before") != before
    assert opened.locator(".r.now").first.is_visible()
    opened.keyboard.press("ArrowLeft")
    assert drawn(opened, "before") == before


def test_the_rows_of_a_rewrite_come_into_view(opened: Any) -> None:
    for _ in range(14):
        opened.keyboard.press("j")
    opened.wait_for_function(
        """() => {
            const row = document.querySelector(".r.now").getBoundingClientRect();
            const stage = document.getElementById("stage").getBoundingClientRect();
            return row.top >= stage.bottom && row.top < stage.bottom + 60;
        }""",
        timeout=10_000,
    )


def test_a_rewrite_is_shown_from_its_row_and_from_the_list(opened: Any) -> None:
    opened.click("nav a[data-k='7']")
    assert opened.locator("#count").text_content() == "7 / 20"
    opened.locator(".r a[data-k='3']").click()
    assert opened.locator("#count").text_content() == "3 / 20"


def test_search_finds_a_node(opened: Any) -> None:
    opened.keyboard.press("/")
    assert opened.evaluate("document.activeElement.id") == "search"
    opened.fill("#search", "batch_norm_19")  # at once: a pause would start the search
    opened.wait_for_selector(".r.hit")
    hit = opened.locator(".r.hit")
    assert "batch_norm_19" in (hit.text_content() or "")
    assert hit.is_visible()
    assert (opened.locator("#hits").text_content() or "").startswith("1 of ")
    opened.keyboard.press("Enter")
    assert (opened.locator("#hits").text_content() or "").startswith("2 of ")
    opened.fill("#search", "no such node")
    opened.wait_for_selector("#hits:has-text('not found')")


def test_both_colour_schemes(opened: Any) -> None:
    def background() -> str:
        return opened.evaluate("getComputedStyle(document.body).backgroundColor")

    light = background()
    opened.keyboard.press("t")
    dark = background()
    assert light != dark
    opened.keyboard.press("t")
    assert background() == light


def test_the_text_is_there_without_scripts(browser: Any, page: str, tmp_path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page)
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(file.as_uri())
    assert tab.locator(".r.d").first.is_visible()
    assert not tab.locator("#stage").is_visible()
    assert tab.locator("nav li").count() > 20
    context.close()
