"""Choosing well: methods by lever, a contrast as a choice of one, and what a setting did on many scenes."""

import re

from playwright.sync_api import BrowserContext, expect
from vlm_app.view.cards import presets

from tests.support.browser import Served, open_page, ran


def test_methods_stand_by_lever_with_their_cost(visitor: BrowserContext, served: Served) -> None:
    page = open_page(visitor, served)
    for lever, methods, cost in (
        ("heads", ["VHR", "RouteGain"], "one pass a token"),
        ("attention", ["PAI", "VAR"], "one pass a token"),
        ("contrast", ["VCD", "M3ID"], "about twice the work"),
        ("check", ["AskBack"], "and the questions"),
    ):
        group = page.locator(f"#vh-lever-{lever}")
        expect(group).to_contain_text(cost)
        for method in methods:
            expect(group.get_by_label(method, exact=True)).to_be_visible()
    expect(page.locator("#vh-card-vhr")).to_contain_text(
        "Costs 1 pass a token; needs an image-free pass over the prompt"
    )


def test_one_second_stream_at_most(visitor: BrowserContext, served: Served) -> None:
    page = open_page(visitor, served)
    for method, card in (("VCD", "vcd"), ("M3ID", "m3id")):
        page.locator("#vh-lever-contrast").get_by_label(method, exact=True).check()
        expect(page.locator(f"#vh-card-{card}")).to_be_visible()
    expect(page.locator("#vh-card-vcd")).to_be_hidden()
    expect(page.locator("#vh-card-vhr")).to_be_visible()  # another lever is another choice
    page.locator("#vh-lever-contrast").get_by_label("none", exact=True).check()
    expect(page.locator("#vh-card-m3id")).to_be_hidden()


def test_no_preset_is_blank(visitor: BrowserContext, served: Served) -> None:
    page = open_page(visitor, served)
    page.locator("#vh-preset input").click()
    options = page.get_by_role("option")
    expect(options).to_have_count(len(presets()))
    assert all(text.strip(" ✓\n") for text in options.all_inner_texts())


def test_the_chart_follows_the_settings(visitor: BrowserContext, served: Served) -> None:
    page = open_page(visitor, served)
    chart = page.locator("#vh-chart")
    expect(chart).to_contain_text("What this setting did on 600 scenes")
    expect(chart).to_contain_text("37.3 % of the captions invent something")  # VHR as published
    expect(chart.locator("circle.vh-this")).to_have_count(1)
    expect(chart).to_contain_text("Measured with mini, not with planted")
    page.locator("#vh-vhr-gain input[type=range]").focus()
    page.keyboard.press("Home")
    expect(chart).to_contain_text("This setting was not measured. Of the same methods were: vhr")
    expect(chart.locator("circle.vh-this")).to_have_count(0)
    expect(page.locator("#vh-older")).to_contain_text("Settings changed since these answers: vhr is now vhr:gain=0")


def test_what_a_check_took_back_is_shown(visitor: BrowserContext, served: Served) -> None:
    """The planted model knows no yes and no, so its words' own probability decides."""
    page = open_page(visitor, served, "?with=askback%3Aby%3Dconfidence%2Cmargin%3D0&run=1")
    asked = page.locator("#vh-mitigated .vh-asked")
    expect(asked).to_contain_text(re.compile(r"1 object, 1 taken back\."))
    expect(asked.locator(".vh-gone")).to_contain_text("“dog” had")
    expect(page.locator("#vh-mitigated .vh-text")).not_to_contain_text("dog")
    ran(page)
