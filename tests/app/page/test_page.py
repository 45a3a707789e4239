"""The page in a real browser: Debian's Chromium, driven through what a visitor does.

What the page shows without a browser is in `test_session.py`.
"""

import re
import socket
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect
from vlm_app.commands.demo import free_port
from vlm_app.view.offline import POLICY

from tests.support.browser import PATIENCE, Served, open_page, ran, serve
from vlm_heads.models import planted_image


def _chosen(page: Page) -> list[str]:
    return _checked(page).all_inner_texts()


def _checked(page: Page) -> Locator:
    return page.locator("#vh-methods label:has(input:checked)").filter(has_not_text="none")


def test_a_visit_from_sample_to_export(visitor: BrowserContext, served: Served, tmp_path: Path) -> None:
    page = open_page(visitor, served)
    page.click("[data-pick=planted-car]")
    page.click("#vh-run")
    plain, mitigated = ran(page)
    assert plain.startswith("there is a dog")
    assert mitigated.startswith("there is a car")
    expect(page.locator("#vh-plain .vh-absent")).to_have_attribute("title", "dog: not in the picture")
    expect(page.locator("#vh-mitigated .vh-receipt")).to_contain_text("vhr: 2 layers, 4 heads")
    expect(page.locator("#vh-plain .vh-speed")).to_contain_text("tokens/s")

    # a token, then a head: hovered, clicked
    page.click("#vh-strips [data-side=mitigated][data-token='3']")
    expect(page.locator("#vh-overlays .vh-what")).to_contain_text("“car” of the mitigated answer: all heads")
    assert page.locator("#vh-overlays svg").count() == 2
    head = page.locator("#vh-heads [data-layer='2'][data-head='1']")
    head.hover()
    expect(page.locator(".vh-hover")).to_contain_text("layer 2, head 1, VHD")
    head.click()
    expect(page.locator("#vh-overlays .vh-what")).to_contain_text("layer 2, head 1")

    # a slider, moved by the keyboard: 2.00 to 0.00
    page.locator("#vh-vhr-gain input[type=range]").focus()
    page.keyboard.press("Home")
    page.click("#vh-run")
    ran(page)
    expect(page.locator("#vh-mitigated h2")).to_have_text("vhr:gain=0")
    expect(page).to_have_url(re.compile("gain"))
    assert parse_qs(urlsplit(page.url).query)["with"] == ["vhr:gain=0"]
    page.get_by_role("tab", name="As code").click()
    expect(page.locator("#vh-command")).to_contain_text("--with vhr:gain=0")
    expect(page.locator("#vh-python")).to_contain_text("HeadReinforcement(gain=0")

    # its link, opened again
    link = page.url
    again = visitor.new_page()
    again.goto(link)
    expect(again.locator("#vh-vhr-gain input[type=number]")).to_have_value("0", timeout=PATIENCE)
    again.close()

    page.get_by_role("tab", name="Export").click()
    page.click("#vh-export")
    with page.expect_download() as download:
        page.get_by_role("link").filter(has_text=re.compile("B")).first.click()
    assert download.value.path().stat().st_size > 0


def test_two_visitors_at_once_keep_their_own_answers(browser: Browser, served: Served) -> None:
    contexts = [browser.new_context() for _ in range(2)]
    pages = [
        open_page(context, served, query)
        for context, query in zip(contexts, ("?with=vhr", "?with=vhr:gain=0.5"), strict=True)
    ]
    for page in pages:
        page.click("#vh-run")
    said = [ran(page)[1] for page in pages]
    assert [text.split()[3].strip(".") for text in said] == ["car", "dog"]
    for page in pages:  # and what is inside is each one's own
        page.click("#vh-strips [data-side=mitigated][data-token='3']")
    expect(pages[0].locator("#vh-overlays .vh-what")).to_contain_text("“car”")
    expect(pages[1].locator("#vh-overlays .vh-what")).to_contain_text("“dog”")
    for context in contexts:
        context.close()


def test_pictures_that_cannot_be_used_get_a_line(visitor: BrowserContext, served: Served, tmp_path: Path) -> None:
    broken = tmp_path / "holiday.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    page = open_page(visitor, served)
    page.get_by_role("button", name="Remove Image").click()
    page.locator("#vh-picture input[type=file]").set_input_files(broken)
    expect(page.locator("#vh-samples .vh-thumb[aria-pressed=true]")).to_have_count(0)
    page.click("#vh-run")
    alert = page.locator("#vh-status [role=alert]")
    expect(alert).to_contain_text("holiday.png")
    expect(alert).not_to_contain_text(str(served.temporary))
    expect(page.locator("#vh-run")).to_be_enabled()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("?with=vrh", "did you mean 'vhr'"),
        ("?seed=" + "9" * 400, "a finite number, 0..4294967295, is needed"),
        ("?with=vhr&with=vhr", "vhr is named twice"),
    ],
    ids=["unknown", "absurd", "twice"],
)
def test_a_link_that_cannot_be_followed_gets_a_line(
    visitor: BrowserContext, served: Served, query: str, said: str
) -> None:
    page = open_page(visitor, served, query)
    expect(page.locator("#vh-status [role=alert]")).to_contain_text(said)


def test_leaving_the_presets_changes_nothing(visitor: BrowserContext, served: Served) -> None:
    page = open_page(visitor, served)
    preset = page.locator("#vh-preset input")
    preset.focus()
    page.keyboard.press("Tab")
    preset.click()
    page.get_by_role("option").filter(has_text="VAR (").click()
    expect(_checked(page)).to_have_text(["VAR"])  # what came before is done
    page.locator("#vh-methods").get_by_label("PAI", exact=True).check()
    expect(page.locator("#vh-card-pai")).to_be_visible()
    for typed in ("", "zzz"):
        preset.focus()
        page.keyboard.type(typed)
        page.keyboard.press("Tab")
    page.locator("#vh-methods").get_by_label("VCD").check()  # seen after all that leaving could have done
    expect(page.locator("#vh-card-vcd")).to_be_visible()
    assert _chosen(page) == ["VAR", "PAI", "VCD"]

    preset.focus()  # by the keyboard alone
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(preset).not_to_have_value("VAR (Kang et al., ICLR 2025)")
    expect(_checked(page)).to_have_count(1)


def test_answers_are_marked_once_the_settings_have_changed(visitor: BrowserContext, served: Served) -> None:
    page = open_page(visitor, served)
    older = page.locator("#vh-older")
    prompt = page.locator("#vh-prompt textarea, #vh-prompt input")
    prompt.fill("What is here?")
    expect(older).to_contain_text("another prompt")  # than the opening run's
    page.click("#vh-run")
    ran(page)
    expect(older).to_be_empty()
    prompt.fill("What is there?")
    expect(older).to_contain_text("Settings changed since these answers: another prompt")
    prompt.fill("What is here?")
    expect(older).to_be_empty()
    page.click("[data-pick=planted-car-sinks]")
    expect(older).to_contain_text("another picture. Press Run")
    page.click("#vh-run")
    expect(older).to_be_empty()
    ran(page)
    expect(older).to_be_empty()


def test_numbers_that_no_run_can_have_get_a_line_and_nobody_waits_for_them(
    visitor: BrowserContext, served: Served
) -> None:
    page = open_page(visitor, served)
    page.get_by_role("button", name="Decoding").click()
    page.get_by_label("Seed").fill("9" * 30)
    page.click("#vh-run")
    expect(page.locator("#vh-status [role=alert]")).to_contain_text("seed=1e+30")
    page.get_by_label("Seed").fill("7")
    page.locator("#vh-prompt textarea, #vh-prompt input").fill("word " * 1000)
    page.click("#vh-run")
    expect(page.locator("#vh-status [role=alert]")).to_contain_text("5,000 characters, and at most 2,000")
    expect(page.locator("#vh-run")).to_be_enabled()


def test_a_link_beyond_a_sliders_end_is_run_as_it_says(visitor: BrowserContext, served: Served) -> None:
    page = open_page(visitor, served, "?with=vhr:gain=9")
    page.click("#vh-run")
    ran(page)
    expect(page.locator("#vh-mitigated h2")).to_have_text("vhr:gain=9")


def test_a_link_to_ones_own_picture_asks_for_it(visitor: BrowserContext, served: Served, tmp_path: Path) -> None:
    planted_image("car").save(tmp_path / "mine.png")
    page = open_page(visitor, served, "?picture=own&with=vhr&seed=7")
    expect(page.locator("#vh-status [role=alert]")).to_contain_text("not in the link: choose it")
    page.click("#vh-run")
    expect(page.locator("#vh-status [role=alert]")).to_contain_text("there is no picture")
    page.locator("#vh-picture input[type=file]").set_input_files(tmp_path / "mine.png")
    expect(page.locator("#vh-picture img")).to_be_visible()
    page.click("#vh-run")
    assert ran(page)[1].startswith("there is a car")
    assert parse_qs(urlsplit(page.url).query)["picture"] == ["own"]


def test_a_killed_server_is_said_and_its_uploads_are_removed_by_the_next(
    visitor: BrowserContext, tmp_path: Path
) -> None:
    temporary, home = tmp_path / "temporary", tmp_path / "home"
    temporary.mkdir()
    home.mkdir()
    planted_image("car").save(tmp_path / "secret.png")
    killed = serve(temporary, home)
    page = open_page(visitor, killed)
    page.get_by_role("button", name="Remove Image").click()
    page.locator("#vh-picture input[type=file]").set_input_files(tmp_path / "secret.png")
    expect(page.locator("#vh-picture img")).to_be_visible()
    killed.process.kill()
    killed.process.communicate()
    expect(page.locator("#vh-connection")).to_contain_text("The connection to the server of this page is lost")
    assert list(temporary.rglob("secret.png"))
    served = serve(temporary, home)
    assert not list(temporary.rglob("secret.png"))
    assert served.end() == 0
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("width", [1280, 390])
def test_keyboard_alone_is_enough_and_nothing_overflows(browser: Browser, served: Served, width: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme="dark") as context:
        context.set_default_timeout(PATIENCE)
        page = open_page(context, served)
        page.locator("#vh-prompt textarea, #vh-prompt input").focus()
        page.keyboard.press("Enter")
        ran(page)
        page.locator("#vh-strips button[tabindex='0']").first.focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        expect(page.locator("#vh-overlays .vh-what")).to_contain_text("“is”")
        page.locator("#vh-heads button[tabindex='0']").focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        expect(page.locator("#vh-overlays .vh-what")).to_contain_text("layer 1, head 1")
        expect(page.locator("#vh-heads [data-layer='1'][data-head='1']")).to_be_focused()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_page_may_load_nothing_from_elsewhere(visitor: BrowserContext, served: Served) -> None:
    """That nothing was loaded, and nothing left behind, is checked when the server ends."""
    assert "default-src 'self'" in POLICY
    assert open_page(visitor, served).request.get(served.url).headers["content-security-policy"] == POLICY


def test_a_taken_port_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) > port
