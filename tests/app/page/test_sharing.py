"""Sharing: a link that runs by itself, and a run as one file that answers without a server."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, expect
from vlm_app.session import Session
from vlm_app.view.recipe import Recipe

from tests.support.browser import PATIENCE, Served, open_page, ran
from vlm_heads import VLM


@pytest.fixture(scope="module")
def exported() -> Iterator[Path]:
    session = Session(VLM.from_pretrained("planted"))
    visit = session.visit("a")
    list(visit.run(session.sample("planted-car"), Recipe("sample:planted-car", prompt="What is </script> here?")))
    yield next(path for path in visit.export() if path.name == "run.html")
    session.close()


def test_a_link_runs_by_itself(visitor: BrowserContext, served: Served) -> None:
    page = open_page(visitor, served, "?image=sample%3Aplanted-car&with=vhr%3Again%3D0.5&run=1")
    expect(page.locator("#vh-mitigated h2")).to_have_text("vhr:gain=0.5")
    ran(page)
    expect(page).to_have_url(re.compile(r"run=1"))
    refused = open_page(visitor, served, "?with=vrh&run=1")
    expect(refused.locator("#vh-status [role=alert]")).to_contain_text("did you mean")
    expect(refused.locator("#vh-plain")).to_be_empty()


def test_a_file_answers_without_a_server(browser: Browser, exported: Path) -> None:
    with browser.new_context(viewport={"width": 1000, "height": 900}, offline=True) as context:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        failures: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(exported.as_uri())
        what = page.locator("#vh-overlays .vh-what")
        expect(what).to_contain_text("“dog” of the plain answer")  # as the page had it
        page.click("#vh-strips [data-side=mitigated][data-token='3']")
        expect(what).to_have_text("Patches used for “car” of the mitigated answer: all heads, each counted by its VHD.")
        expect(page.locator("#vh-why")).to_contain_text("Why “car” in the mitigated answer?")
        head = page.locator("#vh-heads [data-layer='2'][data-head='1']")
        head.hover()
        expect(page.locator(".vh-hover")).to_contain_text("layer 2, head 1, VHD")
        head.click()
        expect(what).to_contain_text("layer 2, head 1.")
        caption = page.locator("#vh-overlays figcaption span").nth(1)
        expect(caption).to_contain_text(re.compile(r"1\d\d % of this head's attention is on the image, gains counted"))
        lit = page.locator("#vh-overlays svg").nth(1).locator("rect")
        assert max(float(one.get_attribute("fill-opacity") or 0) for one in lit.all()) == pytest.approx(0.85, abs=0.01)
        page.locator(".vh-missed").hover()
        expect(page.locator("rect.vh-lit")).to_have_count(1)
        head.press("Enter")  # the same head again: all heads
        expect(what).to_contain_text("all heads")
        assert failures == []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_a_file_carries_no_text_of_a_visitor_as_markup(exported: Path) -> None:
    text = exported.read_text()
    assert text.count("</script>") == 2  # its own
    assert "What is &lt;/script&gt; here?" in text
