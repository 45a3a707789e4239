"""The first view: a finished run that is explained, a tour, a legend, and what is true of the answers."""

from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.support.browser import PATIENCE, Served, open_page, ran
from vlm_heads.models import planted_image


def _lit(page: Page) -> Locator:
    return page.locator("#vh-truth rect.vh-lit")


def test_the_page_opens_on_a_finished_run_and_says_what_was_done(visitor: BrowserContext, served: Served) -> None:
    page = open_page(visitor, served)
    plain, mitigated = ran(page)
    assert plain.startswith("there is a dog")
    assert mitigated.startswith("there is a car")
    story = page.locator("#vh-story")
    expect(story).to_contain_text("An attention head is one of the small readers inside a model, 4 layers of 4 here")
    expect(story).to_contain_text("VHR was attached to the same model. It acted on 4 heads")
    expect(story).to_contain_text("The plain answer invents a dog; the other one does not.")
    page.click("#vh-strips [data-side=mitigated][data-token='3']")  # it can be looked into like any other
    expect(page.locator("#vh-overlays .vh-what")).to_contain_text("“car”")
    page.click("#vh-run")
    expect(story).to_be_empty()
    ran(page)


def test_a_link_opens_on_what_it_says_and_not_on_a_run(visitor: BrowserContext, served: Served) -> None:
    page = open_page(visitor, served, "?with=pai")
    expect(page.locator("#vh-status")).to_contain_text("press Run")
    expect(page.locator("#vh-story")).to_be_empty()
    expect(page.locator("#vh-plain")).to_be_empty()


def test_the_tour_has_three_steps_and_does_not_come_back(browser: Browser, served: Served) -> None:
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        page = open_page(context, served)
        tour = page.locator(".vh-tour")
        for step, pointed_at in (("1 of 3", "#vh-plain"), ("2 of 3", "#vh-tabs"), ("3 of 3", "#vh-run")):
            expect(tour.locator("li:visible")).to_contain_text(step)
            expect(page.locator(pointed_at)).to_have_css("outline-style", "solid")
            tour.get_by_role("button").nth(1).press("Enter")
        expect(tour).to_be_hidden()
        expect(page.locator("#vh-run")).to_have_css("outline-style", "none")
        again = open_page(context, served)
        expect(again.locator(".vh-tour")).to_be_hidden()
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        page = open_page(context, served)
        page.locator(".vh-tour").get_by_role("button", name="Next").press("Escape")
        expect(page.locator(".vh-tour")).to_be_hidden()


def test_words_are_explained_to_the_mouse_and_to_the_keyboard(visitor: BrowserContext, served: Served) -> None:
    page = open_page(visitor, served)
    term = page.locator("#vh-legend .vh-term").filter(has_text="acted on").first
    tip = term.locator("[role=tooltip]")
    expect(tip).to_be_hidden()
    term.hover()
    expect(tip).to_be_visible()
    page.mouse.move(0, 0)
    expect(tip).to_be_hidden()
    term.get_by_role("button").focus()
    expect(tip).to_be_visible()
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    page.locator("#vh-legend summary").press("Enter")
    expect(page.locator("#vh-legend li")).not_to_have_count(0)
    expect(page.locator("#vh-legend")).to_contain_text("invented: named, and not in the picture")
    expect(page.locator("#vh-overlays figcaption").first).to_contain_text("% of the attention is on the image")


def test_an_object_that_is_pointed_at_has_its_box_drawn(visitor: BrowserContext, served: Served) -> None:
    page = open_page(visitor, served)
    expect(page.locator("#vh-truth .vh-side").nth(0)).to_contain_text("found 0 of 1")
    expect(page.locator("#vh-truth .vh-side").nth(1)).to_contain_text("found 1 of 1")
    expect(_lit(page)).to_have_count(0)
    page.locator("#vh-truth .vh-missed").hover()
    expect(_lit(page)).to_have_count(1)
    page.locator("#vh-truth .vh-not-there").hover()  # a dog, which is nowhere
    expect(_lit(page)).to_have_count(0)
    page.locator("#vh-truth [data-object=car]").first.focus()
    expect(_lit(page)).to_have_count(1)


def test_ones_own_picture_is_judged_by_what_is_said_of_it(
    visitor: BrowserContext, served: Served, tmp_path: Path
) -> None:
    planted_image("car").save(tmp_path / "mine.png")
    page = open_page(visitor, served)
    told = page.locator("#vh-told textarea, #vh-told input")
    expect(told).to_be_hidden()  # what a sample shows is known
    page.get_by_role("button", name="Remove Image").click()
    page.locator("#vh-picture input[type=file]").set_input_files(tmp_path / "mine.png")
    page.click("#vh-run")
    ran(page)
    expect(page.locator("#vh-plain")).to_contain_text("not checked")
    expect(page.locator("#vh-truth")).to_be_empty()
    told.fill("unicorn")
    expect(page.locator("#vh-status [role=alert]")).to_contain_text("none of the 80 objects")
    told.fill("a car")
    expect(page.locator("#vh-plain .vh-absent")).to_have_text("dog (not in the picture)")
    expect(page.locator("#vh-truth")).to_contain_text("invented")
    page.locator("#vh-prompt textarea, #vh-prompt input").fill("Is there a dog in the image?")
    page.click("#vh-run")
    ran(page)
    expect(page.locator("#vh-truth .vh-reply").first).to_contain_text("dog: not in the picture")
