"""One server for all tests of the page: `vlm-heads demo` with the planted model, whose answers are known."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from tests.support.browser import ARGUMENTS, CHROMIUM, PATIENCE, Served, serve


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    temporary, home = tmp_path_factory.mktemp("temporary"), tmp_path_factory.mktemp("home")
    served = serve(temporary, home)
    yield served
    # after the visits of this process's tests, whichever of them it was given
    assert served.outside == []
    assert served.failures == []
    assert list(temporary.iterdir())
    assert served.end() == 0
    assert list(temporary.iterdir()) == []
    assert [path for path in home.rglob("*") if path.is_file()] == []


@pytest.fixture(scope="module")  # its event loop must be gone before the tests of other modules
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium here; `make browser` installs Debian's")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def visitor(browser: Browser, served: Served) -> Iterator[BrowserContext]:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        context.set_default_timeout(PATIENCE)
        yield context
