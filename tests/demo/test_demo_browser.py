"""The page in a real browser, as a person uses it."""

import re
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from negguide.demo import app
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
    _open(opened, server.url)
    yield opened
    opened.close()


def _open(page: Any, url: str) -> None:
    page.goto(url)
    _filled(page)


def _filled(page: Any) -> None:
    """Wait until the page has filled in the words with which it begins, over whatever is typed before."""
    page.wait_for_selector("#negatives-draw")
    for field in ("#negatives-prompt", "#negatives-negative-1"):
        playwright.expect(page.locator(f"{field} textarea")).not_to_have_value("", timeout=WAIT)


def _drawing(page: Any, backend: Any, steps: int) -> None:
    """Wait until so many steps were made."""
    for _ in range(WAIT // 50):
        if len(backend.prompts) >= steps:
            return
        page.wait_for_timeout(50)
    raise AssertionError("nothing was drawn")


def _tab(page: Any, title: str) -> None:
    page.get_by_role("tab", name=title).click()


def test_the_page_begins_with_two_negatives_and_each_method_says_what_it_does(page: Any) -> None:
    expect = playwright.expect
    expect(page.locator("#negatives-negative-2 textarea")).to_have_value("brown fur", timeout=WAIT)
    assert page.input_value("#negatives-negative-1 textarea") == "black glasses"
    weight = page.locator("#negatives-weight-1 input[type=range]")
    assert weight.is_enabled() and weight.input_value() == "1.5"
    assert "perpendicular to the prompt" in page.inner_text("#negatives-explained")
    page.get_by_role("radio", name="NAG").check()
    expect(page.locator("#negatives-explained")).to_contain_text(
        "extrapolates attention", timeout=WAIT, ignore_case=True
    )
    link = page.locator("#negatives-explained a")
    assert link.get_attribute("href") == "https://arxiv.org/abs/2505.21179"
    page.get_by_role("radio", name="Perp-Neg").check()
    expect(page.locator("#negatives-explained")).to_contain_text("perpendicular", timeout=WAIT)


def test_an_example_of_negatives_runs_at_a_click(page: Any) -> None:
    page.click("#negatives-example-2")
    page.wait_for_selector("#negatives-numbers table")
    assert page.input_value("#negatives-prompt textarea") == "a bear wearing a hat"
    # what happened comes first in plain words, the numbers below the pictures
    assert "“a bear wearing a hat”" in page.inner_text("#negatives-said")
    assert "overlaps the prompt" in page.inner_text("#negatives-numbers")
    assert page.locator("#negatives-slider img").count() == 2
    assert page.locator("#negatives-gallery img").count() == 12
    shown = page.locator("#negatives-slider img").first.get_attribute("src")
    page.locator("#negatives-gallery button.thumbnail-item").nth(7).click()
    playwright.expect(page.locator("#negatives-slider img").first).not_to_have_attribute(
        "src", shown, timeout=WAIT
    )
    playwright.expect(page.locator("#negatives-sides")).to_contain_text(
        "Left Negative prompt, right Perp-Neg, seed 2", timeout=WAIT
    )
    page.get_by_role("button", name="Use seed 2").click()
    playwright.expect(page.get_by_label("Seed").first).to_have_value("2", timeout=WAIT)


def test_the_line_moves_by_the_keys_and_pictures_say_what_they_are(page: Any) -> None:
    line = page.locator("#negatives-slider [role=slider]")
    before = line.bounding_box()["x"]
    line.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    playwright.expect(line).to_have_attribute("aria-valuenow", "70", timeout=WAIT)
    width = page.locator("#negatives-slider .slider-wrap > .wrap").bounding_box()["width"]
    assert line.bounding_box()["x"] - before == pytest.approx(0.2 * width, abs=4)
    page.wait_for_timeout(500)
    assert page.evaluate(_WORDLESS) == []
    texts = page.locator("#negatives-slider img").evaluate_all("images => images.map(image => image.alt)")
    assert texts == ["Negative prompt", "Perp-Neg"]


def test_a_slider_changes_what_is_drawn(page: Any) -> None:
    before = page.inner_text("#negatives-python .cm-content") if page.is_visible("#negatives-python") else ""
    weight = page.locator("#negatives-weight-1 input[type=range]")
    weight.focus()
    # keyboard only: the slider, then the button
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.locator("#negatives-draw").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="The same in Python").first.click()
    code = page.locator("#negatives-python .cm-content")
    playwright.expect(code).to_contain_text("weight=2.0", timeout=WAIT)
    assert code.inner_text() != before


def test_unknown_words_are_answered_on_the_page_without_a_traceback(page: Any) -> None:
    page.fill("#negatives-prompt textarea", "a bear wearing sunglasses")
    page.press("#negatives-prompt textarea", "Enter")
    toast = page.locator(".toast-body").first
    playwright.expect(toast).to_contain_text("Did you mean “glasses”?", timeout=WAIT)
    assert "Traceback" not in page.content()
    page.locator(".toast-close").first.click()
    # nothing of before stands beside the words that were refused
    playwright.expect(page.locator("#negatives-said")).to_contain_text("Nothing was drawn", timeout=WAIT)
    playwright.expect(page.locator("#negatives-draw")).to_have_text("Draw", timeout=WAIT)
    # and why stays when the message has gone
    assert "Did you mean “glasses”?" in page.inner_text("#negatives-said")
    assert page.locator("#negatives-gallery img").count() == 0


def test_what_is_written_runs_nowhere_on_the_page(page: Any) -> None:
    page.evaluate("window.ran = 0")
    page.fill("#negatives-prompt textarea", "<img src=x onerror='window.ran = 1'>")
    page.press("#negatives-prompt textarea", "Enter")
    toast = page.locator(".toast-body").first
    playwright.expect(toast).to_contain_text("‹img", timeout=WAIT)
    assert toast.locator("img").count() == 0
    page.locator(".toast-close").first.click()
    assert page.evaluate("window.ran") == 0
    # the same words in the page's own line: whoever is asked for the picture is found by the last test of this page
    page.fill("#negatives-prompt textarea", "![picture](//127.0.0.9/p.png) [link](//127.0.0.9)")
    page.press("#negatives-prompt textarea", "Enter")
    said = page.locator("#negatives-said")
    playwright.expect(said).to_contain_text("![picture](//127", timeout=WAIT)
    assert said.locator("img, a").count() == 0
    page.locator(".toast-close").first.click()


def test_draw_starts_over_while_something_is_drawn(page: Any, backend: Any, gate: threading.Event) -> None:
    expect = playwright.expect
    gate.clear()
    backend.prompts.clear()
    page.fill("#negatives-prompt textarea", "a bear wearing a hat")
    page.click("#negatives-draw")
    _drawing(page, backend, 1)
    expect(page.locator("#negatives-draw")).to_have_text("Start over with these words", timeout=WAIT)
    page.fill("#negatives-prompt textarea", "a cat wearing a hat")
    page.click("#negatives-draw")
    page.wait_for_timeout(500)
    gate.set()
    expect(page.locator("#negatives-said")).to_contain_text("a cat wearing a hat", timeout=WAIT)
    expect(page.locator("#negatives-draw")).to_have_text("Draw", timeout=WAIT)
    assert backend.prompts.count("a bear wearing a hat") == 1
    # what was begun before ends without a word
    assert page.locator(".toast-body").all_inner_texts() == []


def test_stop_ends_a_run(page: Any, backend: Any, gate: threading.Event) -> None:
    page.fill("#negatives-prompt textarea", "a bear wearing glasses")
    gate.clear()
    backend.prompts.clear()
    page.click("#negatives-draw")
    _drawing(page, backend, 1)
    page.click("#negatives-stop")
    playwright.expect(page.locator("#negatives-said")).to_contain_text("Stopped.", timeout=WAIT)
    # and can be used again
    playwright.expect(page.locator("#negatives-draw")).to_have_text("Draw", timeout=WAIT)
    gate.set()
    page.wait_for_timeout(1500)
    assert backend.prompts == ["a bear wearing glasses"]
    # in the page's own line, where it stays; nothing lies over the page
    said = page.locator("#negatives-said")
    assert said.inner_text().startswith("Stopped. Pictures that are here were drawn before")
    assert page.locator(".toast-body").all_inner_texts() == []
    # what is not being drawn cannot be stopped, and what is said of it stays
    page.click("#negatives-example-2")
    page.wait_for_selector("#negatives-numbers table")
    playwright.expect(page.locator("#negatives-draw")).to_have_text("Draw", timeout=WAIT)
    page.click("#negatives-stop")
    page.wait_for_timeout(1500)
    assert "“a bear wearing a hat”" in said.inner_text()


def test_a_batch_is_pushed_apart(page: Any) -> None:
    _tab(page, "Variety")
    page.click("#diversity-example-0")
    page.wait_for_selector("#diversity-numbers table")
    assert page.locator("#diversity-after img").count() == 4


def test_a_picture_is_uploaded_and_kept_away_from(page: Any, tmp_path: Path) -> None:
    _tab(page, "Keep away from an image")
    page.click("#reference-example-0")
    page.wait_for_selector("#reference-numbers table")
    assert "Pip himself" in page.inner_text("#reference-said")

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
    said = page.locator("#reference-numbers")
    playwright.expect(page.locator("#reference-said")).to_contain_text("before and after", timeout=WAIT)
    assert "Pip" not in said.inner_text()
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


TABS = {title: (name, module.__name__.rsplit(".", 1)[1]) for name, (title, module) in app.TABS.items()}
"""{title: (end of the address, how its elements are called)}."""


def _done(page: Any, name: str) -> None:
    """Wait until all of a tab's results are there."""
    page.wait_for_selector(
        {
            "mining": "#mining-keep label",
            "compare": "#compare-said table",
            "views": "#views-perp-neg img",
        }.get(name, f"#{name}-numbers table")
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_every_tab_can_be_reached_and_shows_its_results_below_the_button(
    browser: Any, server: Server, scheme: str
) -> None:
    phone = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    phone.set_default_timeout(WAIT)
    _open(phone, server.url)
    background = phone.evaluate("getComputedStyle(document.body).backgroundColor")
    levels = [int(level) for level in re.findall(r"\d+", background)[:3]]
    assert (sum(levels) < 200) == (scheme == "dark")
    for title, (link, name) in TABS.items():
        phone.click(f"#nav-{link}")
        # and one sees which of them is open
        phone.wait_for_function(_IN_VIEW, arg=f"#nav-{link}.open")
        # a solid takes long; the turntables that are made in advance are there at once
        if name != "views":
            phone.click(f"#{name}-example-0")
            # brought into view
            phone.wait_for_function("scrollY > 100")
        _done(phone, name)
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390, title
        # right below the button
        gap = phone.evaluate(_GAP, [f"#{name}-draw", f"#{name}-said"])
        assert 0 <= gap < 60, (title, gap)
        assert phone.evaluate(_TOO_SMALL) == [], title
    phone.click("#nav-leave-out")
    top = phone.evaluate("document.querySelector('#negatives-slider').getBoundingClientRect().top + scrollY")
    assert top < 1200
    phone.close()


_IN_VIEW = """selector => { const box = document.querySelector(selector)?.getBoundingClientRect();
    return box && box.left >= 0 && box.right <= innerWidth; }"""
_GAP = """([above, below]) => document.querySelector(below).getBoundingClientRect().top
    - document.querySelector(above).getBoundingClientRect().bottom"""
_WORDLESS = """() => [...document.querySelectorAll("img")].filter(image => image.checkVisibility() && !image.alt)
    .map(image => image.outerHTML.slice(0, 200))"""
_TOO_SMALL = """() => [...document.querySelectorAll("button.example, .actions button, #nav button")]
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
        page.wait_for_timeout(500)
        assert page.evaluate(_NAMELESS) == [], title
        assert page.evaluate(_WORDLESS) == [], title


def test_a_tab_has_an_address_and_back_goes_to_the_one_before(browser: Any, server: Server) -> None:
    expect = playwright.expect
    visitor = browser.new_page()
    visitor.set_default_timeout(WAIT)
    visitor.goto(f"{server.url}#compare")
    expect(visitor.get_by_role("tab", name="Compare")).to_have_attribute(
        "aria-selected", "true", timeout=WAIT
    )
    _tab(visitor, "Variety")
    visitor.wait_for_url("**/#variety")
    visitor.fill("#diversity-prompt textarea", "a cat in the snow")
    visitor.go_back()
    expect(visitor.get_by_role("tab", name="Compare")).to_have_attribute(
        "aria-selected", "true", timeout=WAIT
    )
    # and the words that were written stay
    _tab(visitor, "Variety")
    written = visitor.locator("#diversity-prompt textarea")
    expect(written).to_have_value("a cat in the snow", timeout=WAIT)
    # also when one was on another page, whether their tab is opened at once or later, on a slow computer as well:
    # there Gradio's own words arrive last
    _tab(visitor, "Compare")
    left_out = visitor.locator("#compare-negative textarea")
    left_out.fill("a red hat")
    visitor.context.new_cdp_session(visitor).send("Emulation.setCPUThrottlingRate", {"rate": 4})
    for opened in ("#variety", ""):
        visitor.evaluate(f"location.hash = '{opened}'")
        visitor.goto(f"{server.url}gradio_api/info")
        if not opened:
            # a page that is left before it has begun has no words of its own
            visitor.go_back(wait_until="commit")
            visitor.goto(f"{server.url}gradio_api/info")
        visitor.go_back()
        visitor.wait_for_selector("#negatives-draw", state="attached")
        if not opened:
            _tab(visitor, "Variety")
        expect(written).to_have_value("a cat in the snow", timeout=WAIT)
        _tab(visitor, "Compare")
        expect(left_out).to_have_value("a red hat", timeout=WAIT)
    visitor.close()


def test_a_page_that_is_closed_leaves_nothing_running(
    browser: Any, server: Server, backend: Any, gate: threading.Event
) -> None:
    visitor = browser.new_context().new_page()
    visitor.set_default_timeout(WAIT)
    _open(visitor, server.url)
    gate.clear()
    backend.prompts.clear()
    visitor.click("#negatives-draw")
    _drawing(visitor, backend, 1)
    visitor.context.close()
    end = time.monotonic() + WAIT / 1000
    running = server.page._queue.active_jobs
    while any(event.alive for job in running for event in job or ()) and time.monotonic() < end:
        time.sleep(0.05)
    gate.set()
    while any(running) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(running) and len(backend.prompts) == 1


def test_the_whole_way_to_a_picture_works_with_the_keyboard(browser: Any, server: Server) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(WAIT)
    _open(page, server.url)

    def until(selector: str, key: str = "Tab") -> None:
        """Press Tab until the focus is on it, and see that this shows."""
        for _ in range(80):
            page.keyboard.press(key)
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
    until("#negatives-draw", "Shift+Tab")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#negatives-said")).to_contain_text("NAG", timeout=WAIT)
    playwright.expect(page.locator("#negatives-gallery img")).to_have_count(12, timeout=WAIT)
    page.close()


def test_visitors_do_not_see_each_others_pictures(browser: Any, server: Server) -> None:
    visitors = [browser.new_context().new_page() for _ in range(2)]
    for visitor in visitors:
        visitor.set_default_timeout(WAIT)
        _open(visitor, server.url)
    mine, theirs = visitors
    mine.fill("#negatives-prompt textarea", "a robot wearing a hat")
    mine.click("#negatives-draw")
    mine.wait_for_selector("#negatives-numbers table")
    assert theirs.locator("#negatives-gallery img").count() == 0
    assert theirs.input_value("#negatives-prompt textarea") == "a bear wearing glasses"
    theirs.reload()
    _filled(theirs)
    assert theirs.locator("#negatives-gallery img").count() == 0
    for visitor in visitors:
        visitor.context.close()
