"""Small screens, the keyboard, screen readers and contrast: axe finds nothing, and the answers follow Run."""

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import PATIENCE, Served, open_page, ran

# of Gradio itself: what its own markup leaves open, and no style or text of ours can mend
GRADIOS = ()


def _violations(page: Page) -> list[str]:
    """Return what axe finds wrong, a line for each kind of fault: rule, level and first place."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
    found = axe.Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
    return [
        f"{one['id']} ({one['impact']}): {one['nodes'][0]['target']} {one['nodes'][0]['html'][:160]}"
        for one in found.response["violations"]
        if one["id"] not in GRADIOS
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(browser: Browser, served: Served, scheme: str, width: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme) as context:
        context.set_default_timeout(PATIENCE)
        page = open_page(context, served)
        ran(page)
        page.locator("#vh-legend summary").click()
        page.get_by_role("button", name="Decoding").click()
        assert _violations(page) == []
        page.get_by_role("tab", name="As code").click()
        assert _violations(page) == []


_PLACES = """(selectors) => selectors.map((one) => {
  const box = document.querySelector(one).getBoundingClientRect();
  return [box.top, box.left];
})"""


@pytest.mark.parametrize("width", [390, 768])
def test_on_one_column_the_answers_follow_run_at_once(browser: Browser, served: Served, width: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 900}) as context:
        context.set_default_timeout(PATIENCE)
        page = open_page(context, served)
        order = ["#vh-picture", "#vh-prompt", "#vh-run", "#vh-status", "#vh-plain", "#vh-strips", "#vh-preset"]
        expect(page.locator("#vh-picture img")).to_be_visible()
        places = page.evaluate(_PLACES, order)
        tops, lefts = zip(*places, strict=True)
        assert list(tops) == sorted(tops)
        assert max(lefts) - min(lefts) < 40  # pixels: one column, whatever is indented in it
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.locator("#vh-run").scroll_into_view_if_needed()
        page.click("#vh-run")
        ran(page)
        expect(page.locator("#vh-status")).to_be_in_viewport()


_THUMB = """() => {
  const rail = document.querySelector('#vh-vhr-gain input[type=range]').getBoundingClientRect();
  const box = document.querySelector('#vh-vhr-gain').getBoundingClientRect();
  const middle = (rail.top + rail.bottom) / 2;
  return Math.min(middle - box.top, box.bottom - middle);
}"""


@pytest.mark.parametrize("width", [390, 1280])
def test_a_sliders_thumb_is_not_cut(browser: Browser, served: Served, width: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 900}) as context:
        page = open_page(context, served)
        expect(page.locator("#vh-vhr-gain input[type=range]")).to_be_visible()
        assert page.evaluate(_THUMB) >= 8  # pixels: half of Gradio's thumb


def test_whoever_wants_no_motion_gets_none(browser: Browser, served: Served) -> None:
    with browser.new_context(reduced_motion="reduce") as context:
        context.set_default_timeout(PATIENCE)
        page = open_page(context, served)
        moving = page.evaluate("document.getAnimations().filter((one) => one.playState === 'running').length")
        assert moving == 0
        durations = page.evaluate(
            "[...document.querySelectorAll('.gradio-container *')]"
            ".map((one) => parseFloat(getComputedStyle(one).transitionDuration)).filter((one) => one > 0.01).length"
        )
        assert durations == 0


def test_whatever_has_the_keyboard_is_outlined(browser: Browser, served: Served) -> None:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        context.set_default_timeout(PATIENCE)
        page = open_page(context, served)
        page.locator("body").press("Tab")
        for _ in range(40):
            seen = page.evaluate(
                """() => {
                  const one = document.activeElement;
                  if (one === document.body) return ["end", 1, 0];
                  const outlined = (node) => parseFloat(getComputedStyle(node).outlineWidth) > 0 &&
                    getComputedStyle(node).outlineStyle !== 'none' || getComputedStyle(node).boxShadow !== 'none';
                  const near = [one, one.parentElement, one.closest('label'), one.closest('.wrap-inner')];
                  const shown = near.filter(Boolean).some(outlined);
                  return [one.outerHTML.slice(0, 200), shown ? 1 : 0];
                }"""
            )
            assert seen[1], f"no visible focus: {seen[0]}"
            page.keyboard.press("Tab")
