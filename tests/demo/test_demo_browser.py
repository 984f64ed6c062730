"""The page in a real browser, as a person uses it."""

import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from negguide.demo.server import Server
from negguide.mining.packed import unpack
from negguide.toyworld import parse, render

playwright = pytest.importorskip(
    "playwright.sync_api", reason="these tests need playwright (pip install playwright)"
)

WAIT = 60_000
"""Milliseconds; machines that run tests may be slow."""
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page(browser: Any, server: Server) -> Iterator[Any]:
    """One visitor at a desk, who notes what the page does wrong."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    opened.set_default_timeout(WAIT)
    opened.wrong = []
    opened.on("pageerror", lambda error: opened.wrong.append(str(error)))
    opened.on(
        "console", lambda message: opened.wrong.append(message.text) if message.type == "error" else None
    )

    def asked(request: Any) -> None:
        if not request.url.startswith((server.url, "data:", "blob:")):
            opened.wrong.append(f"outside: {request.url}")

    opened.on("request", asked)
    opened.goto(server.url)
    opened.wait_for_selector("#negatives-draw")
    yield opened
    opened.close()


def _tab(page: Any, title: str) -> None:
    page.get_by_role("tab", name=title).click()


def test_the_page_begins_with_two_negatives_that_weigh_themselves(page: Any) -> None:
    playwright.expect(page.locator("#negatives-negative-2 textarea")).to_have_value("brown fur", timeout=WAIT)
    assert page.input_value("#negatives-negative-1 textarea") == "black glasses"
    assert page.is_checked("#negatives-automatic input")
    weight = page.locator("#negatives-weight-1 input[type=range]")
    assert weight.is_disabled()
    # a method that has no such weights
    page.get_by_role("radio", name="NAG").check()
    playwright.expect(page.locator("#negatives-automatic")).to_be_hidden(timeout=WAIT)
    assert weight.is_enabled()
    page.get_by_role("radio", name="Perp-Neg").check()
    playwright.expect(page.locator("#negatives-automatic input")).to_be_checked(timeout=WAIT)


def test_an_example_of_negatives_runs_at_a_click(page: Any) -> None:
    page.click("#negatives-example-1")
    page.wait_for_selector("#negatives-said table")
    assert page.input_value("#negatives-prompt textarea") == "a bear wearing a hat"
    assert "overlaps the prompt" in page.inner_text("#negatives-said")
    assert page.locator("#negatives-slider img").count() == 2
    assert page.locator("#negatives-gallery img").count() == 12
    shown = page.locator("#negatives-slider img").first.get_attribute("src")
    page.locator("#negatives-gallery button.thumbnail-item").nth(4).click()
    playwright.expect(page.locator("#negatives-slider img").first).not_to_have_attribute(
        "src", shown, timeout=WAIT
    )


def test_a_slider_changes_what_is_drawn(page: Any) -> None:
    before = page.inner_text("#negatives-python .cm-content") if page.is_visible("#negatives-python") else ""
    weight = page.locator("#negatives-weight-1 input[type=range]")
    page.uncheck("#negatives-automatic input")
    playwright.expect(weight).to_be_enabled(timeout=WAIT)
    weight.focus()
    # keyboard only: the slider, then the button
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.locator("#negatives-draw").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="The same in Python").first.click()
    code = page.locator("#negatives-python .cm-content")
    playwright.expect(code).to_contain_text("weight=3.5", timeout=WAIT)
    assert code.inner_text() != before


def test_unknown_words_are_answered_on_the_page_without_a_traceback(page: Any) -> None:
    page.fill("#negatives-prompt textarea", "a bear wearing sunglasses")
    page.press("#negatives-prompt textarea", "Enter")
    toast = page.locator(".toast-body").first
    playwright.expect(toast).to_contain_text("Did you mean “glasses”?", timeout=WAIT)
    assert "Traceback" not in page.content()
    page.locator(".toast-close").first.click()


def test_stop_ends_a_run(page: Any, backend: Any, gate: threading.Event) -> None:
    page.fill("#negatives-prompt textarea", "a bear wearing glasses")
    gate.clear()
    backend.prompts.clear()
    page.click("#negatives-draw")
    for _ in range(WAIT // 50):
        if backend.prompts:
            break
        page.wait_for_timeout(50)
    page.click("#negatives-stop")
    playwright.expect(page.locator("#negatives-said")).to_contain_text("Stopped.", timeout=WAIT)
    # and can be used again
    playwright.expect(page.locator("#negatives-draw")).to_be_enabled()
    gate.set()
    page.wait_for_timeout(300)
    assert backend.prompts == ["a bear wearing glasses"]


def test_a_batch_is_pushed_apart(page: Any) -> None:
    _tab(page, "Diversity")
    page.click("#diversity-example-0")
    page.wait_for_selector("#diversity-said table")
    assert page.locator("#diversity-after img").count() == 4


def test_a_picture_is_uploaded_and_kept_away_from(page: Any, tmp_path: Path) -> None:
    _tab(page, "Keep away from an image")
    page.click("#reference-example-0")
    page.wait_for_selector("#reference-said table")
    assert "is Pip himself" in page.inner_text("#reference-said")

    render(parse("a white cat in front view wearing a red hat in the snow"), 256).save(tmp_path / "cat.png")
    page.locator("#reference-character label", has_text="my picture").click()
    editor = page.locator("#reference-picture")
    editor.locator("input[type=file]").first.set_input_files(str(tmp_path / "cat.png"))
    canvas = editor.locator("canvas").first
    canvas.wait_for()
    page.wait_for_timeout(1500)
    # paint over the middle
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 30, box["y"] + box["height"] / 2 + 10, steps=5)
    page.mouse.up()
    page.click("#reference-draw")
    said = page.locator("#reference-said")
    playwright.expect(said).not_to_contain_text("is Pip himself", timeout=WAIT)
    playwright.expect(said).to_contain_text("distance to the picture", timeout=WAIT)
    # the painted mask came with it
    playwright.expect(page.get_by_text("reference-mask").last).to_be_visible(timeout=WAIT)


def test_a_set_of_hard_negatives_is_made_chosen_and_downloaded(page: Any, tmp_path: Path) -> None:
    _tab(page, "Hard negatives")
    page.click("#mining-scene")
    playwright.expect(page.locator("#mining-caption textarea")).not_to_have_value(
        "a brown bear in front view wearing a red hat in a meadow", timeout=WAIT
    )
    page.click("#mining-example-0")
    page.wait_for_selector("#mining-keep label")
    boxes = page.locator("#mining-keep input[type=checkbox]")
    playwright.expect(boxes).to_have_count(4, timeout=WAIT)
    boxes.nth(0).set_checked(False)
    boxes.nth(1).set_checked(True)
    page.click("#mining-pack")
    with page.expect_download(timeout=WAIT) as download:
        page.locator("#mining-zip a[download]").first.click()
    download.value.save_as(tmp_path / "set.zip")
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        rows = unpack(archive.read("data/00000000.tar"))["metadata.jsonl"].decode()
    assert '"id": "2"' in rows and '"id": "1"' not in rows


def test_a_grid_is_compared(page: Any) -> None:
    _tab(page, "Compare")
    page.click("#compare-example-1")
    page.wait_for_selector("#compare-said table")
    assert "weight 1" in page.inner_text("#compare-said")
    assert page.locator("#compare-sheet img").get_attribute("src").endswith(".png")


def test_nothing_went_wrong_and_nobody_else_was_asked(page: Any) -> None:
    assert page.wrong == []


TABS = {
    "Negative prompts": "negatives",
    "Diversity": "diversity",
    "Keep away from an image": "reference",
    "Hard negatives": "mining",
    "Compare": "compare",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_at_phone_width_no_tab_is_wider_than_the_screen_with_its_results(
    browser: Any, server: Server, scheme: str
) -> None:
    phone = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    phone.set_default_timeout(WAIT)
    phone.goto(server.url)
    phone.wait_for_selector("#negatives-draw")
    background = phone.evaluate("getComputedStyle(document.body).backgroundColor")
    levels = [int(level) for level in re.findall(r"\d+", background)[:3]]
    assert (sum(levels) < 200) == (scheme == "dark")
    for title, name in TABS.items():
        tab = phone.get_by_role("tab", name=title)
        if not (tab.count() and tab.first.is_visible()):
            phone.locator(".overflow-menu > button").click()
            tab = phone.locator(".overflow-dropdown button", has_text=title)
        tab.first.click()
        phone.click(f"#{name}-example-0")
        phone.wait_for_selector(f"#{name}-keep label" if name == "mining" else f"#{name}-said table")
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390, title
        # the results lie below what can be set, and are brought into view
        assert phone.evaluate("scrollY") > 300, title
        assert phone.evaluate(_TOO_SMALL) == [], title
    phone.close()


_TOO_SMALL = """() => [...document.querySelectorAll("button.example, .actions button")]
    .filter(button => button.offsetParent && button.offsetHeight < 36).map(button => button.innerText)"""
_NAMELESS = """() => [...document.querySelectorAll("input, textarea, button, select, [role=tab]")]
    .filter(field => field.checkVisibility() && field.type !== "file")
    // Gradio gives the button around a picture no name, and takes none
    .filter(field => !field.querySelector(".image-frame"))
    .filter(field => !(field.innerText || field.ariaLabel || field.title || field.labels?.length
                       || field.getAttribute("aria-labelledby")))
    .map(field => field.outerHTML.slice(0, 200))"""


def test_every_field_and_button_has_a_name_for_those_who_do_not_see_it(page: Any) -> None:
    for title in TABS:
        _tab(page, title)
        assert page.evaluate(_NAMELESS) == [], title


def test_the_whole_way_to_a_picture_works_with_the_keyboard(browser: Any, server: Server) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(WAIT)
    page.goto(server.url)
    page.wait_for_selector("#negatives-draw")

    def until(selector: str) -> None:
        """Press Tab until the focus is on it, and see that this shows."""
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                break
        assert page.evaluate("selector => document.activeElement.matches(selector)", selector), selector
        style = page.evaluate(
            "(({outlineStyle, boxShadow, borderColor}) => [outlineStyle, boxShadow, borderColor])"
            "(getComputedStyle(document.activeElement))"
        )
        assert style[0] != "none" or style[1] != "none", (selector, style)

    until("[role=tab]")
    until("#negatives-prompt textarea")
    page.keyboard.press("Control+A")
    page.keyboard.type("a cat wearing a hat")
    until("#negatives-negative-1 textarea")
    page.keyboard.press("Control+A")
    page.keyboard.type("a red hat")
    until("#negatives-method input[value=nag]")
    page.keyboard.press("Space")
    until("#negatives-draw")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#negatives-said")).to_contain_text("NAG changed", timeout=WAIT)
    assert page.locator("#negatives-gallery img").count() == 12
    page.close()


def test_visitors_do_not_see_each_others_pictures(browser: Any, server: Server) -> None:
    visitors = [browser.new_context().new_page() for _ in range(2)]
    for visitor in visitors:
        visitor.set_default_timeout(WAIT)
        visitor.goto(server.url)
        visitor.wait_for_selector("#negatives-draw")
    mine, theirs = visitors
    mine.fill("#negatives-prompt textarea", "a robot wearing a hat")
    mine.click("#negatives-draw")
    mine.wait_for_selector("#negatives-said table")
    assert theirs.locator("#negatives-gallery img").count() == 0
    assert theirs.input_value("#negatives-prompt textarea") == "a bear wearing glasses"
    theirs.reload()
    theirs.wait_for_selector("#negatives-draw")
    assert theirs.locator("#negatives-gallery img").count() == 0
    for visitor in visitors:
        visitor.context.close()
