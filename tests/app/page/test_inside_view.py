"""Looking inside, as a visitor does it: why a word was said, which words used a patch, and a part hidden."""

import re
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import BrowserContext, Page, expect

from tests.support.browser import Served, open_page, ran


def _dragged(page: Page, left: float, top: float, right: float, bottom: float) -> None:
    """Drag a box over the first map, given as shares of its sides."""
    picture = page.locator("#vh-overlays svg").first
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + left * box["width"], box["y"] + top * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + right * box["width"], box["y"] + bottom * box["height"], steps=4)
    page.mouse.up()


def test_a_word_tells_what_it_was_chosen_from_and_who_spoke_for_it(visitor: BrowserContext, served: Served) -> None:
    page = open_page(visitor, served)
    page.click("#vh-strips [data-side=mitigated][data-token='3']")
    why = page.locator("#vh-why")
    expect(why).to_contain_text("Why “car” in the mitigated answer?")
    plain, mitigated = (why.locator("table.vh-candidates").nth(number) for number in range(2))
    expect(plain.locator("tr").first).to_contain_text("dog")  # without the method it would be this
    expect(mitigated.locator("tr.vh-said-row")).to_contain_text("car (said)")
    expect(mitigated.locator("tr").first).to_contain_text("%")
    routes = why.locator("table.vh-routes tbody tr")
    expect(routes).to_have_count(4)  # the vision heads, which are those that were acted on
    expect(routes.first).to_contain_text(re.compile(r"layer [23], head \d\+\d+\.\d\d"))


def test_a_patch_shows_which_words_used_it(visitor: BrowserContext, served: Served) -> None:
    page = open_page(visitor, served)
    page.locator("#vh-overlays [data-patch='5']").first.click()  # on the red square
    expect(page.locator("#vh-strips")).to_contain_text("Which words used the chosen patch")
    car = page.locator("#vh-strips [data-side=mitigated][data-token='3']")
    expect(car).to_have_attribute("title", re.compile(r"car, \d+\.\d % of its attention on this patch"))
    expect(car).to_have_attribute("style", "--level:1.000")
    page.locator("#vh-overlays [data-patch='5']").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#vh-overlays [data-patch='9']").first).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Enter")  # once more: back to T-VHD
    expect(page.locator("#vh-strips")).to_contain_text("Which words leaned on the image")


def test_a_dragged_box_hides_that_part_and_asks_again(visitor: BrowserContext, served: Served) -> None:
    page = open_page(visitor, served)
    _dragged(page, 0.2, 0.2, 0.8, 0.8)
    expect(page.locator("#vh-show-all")).to_be_visible()
    expect(page.locator("#vh-mitigated .vh-text")).not_to_contain_text("car")  # nobody sees it now
    ran(page)
    hidden = parse_qs(urlsplit(page.url).query)["hidden"][0]
    assert all(
        abs(float(one) - about) < 0.03 for one, about in zip(hidden.split(","), (0.2, 0.2, 0.6, 0.6), strict=True)
    )
    expect(page.locator("#vh-older")).to_be_empty()
    page.click("#vh-show-all")
    expect(page.locator("#vh-older")).to_contain_text("the whole picture is seen")
    page.click("#vh-run")
    expect(page.locator("#vh-mitigated .vh-text")).to_contain_text("car")
    ran(page)
    page.locator("#vh-overlays [data-patch='0']").first.press("Delete")  # by the keyboard: one patch, a grey corner
    expect(page.locator("#vh-show-all")).to_be_visible()
    ran(page)
    expect(page).to_have_url(re.compile(r"hidden=0[.\d]*%2C0[.\d]*%2C0\.2\d*%2C0\.2\d*"))
