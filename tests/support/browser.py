"""A page in a browser: a demo in a process of its own, and Debian's Chromium."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, Page, expect

CHROMIUM = shutil.which("chromium")
PATIENCE = 60_000  # milliseconds: two loaded cores are slow, and nothing here waits for time to pass
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


expect.set_options(timeout=PATIENCE)


@dataclass
class Served:
    """A running demo, and where it may and may not write."""

    url: str
    process: subprocess.Popen[str]
    temporary: Path
    home: Path
    outside: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def end(self) -> int:
        """Kill it politely; return its exit code."""
        self.process.terminate()
        self.process.communicate(timeout=60)
        return self.process.returncode


def serve(temporary: Path, home: Path, model: str = "planted") -> Served:
    """Start a demo; return it once it answers."""
    places = {"TMPDIR": str(temporary), "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-m", "vlm_app.cli", "demo", "--model", model, "--port", "0"],
        env={name: value for name, value in os.environ.items() if name != "MPLCONFIGDIR"} | places,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+/", line)
    assert found, line or process.communicate()[1]
    return Served(found[0], process, temporary, home)


def open_page(context: BrowserContext, served: Served, query: str = "") -> Page:
    """Return the page, loaded; requests that leave this machine and errors of its scripts are noted."""
    page = context.new_page()
    page.set_default_timeout(PATIENCE)

    def note(url: str) -> None:
        if urlsplit(url).scheme in ("http", "https", "ws", "wss") and urlsplit(url).hostname != "127.0.0.1":
            served.outside.append(url)

    page.on("request", lambda request: note(request.url))
    page.on("websocket", lambda opened: note(opened.url))
    page.on("pageerror", lambda error: served.failures.append(str(error)))
    page.goto(served.url + query)
    chosen = 0 if "picture=own" in query else 1
    expect(page.locator("#vh-samples .vh-thumb")).not_to_have_count(0, timeout=PATIENCE)
    expect(page.locator("#vh-samples .vh-thumb[aria-pressed=true]")).to_have_count(chosen, timeout=PATIENCE)
    return page


def ran(page: Page) -> tuple[str, str]:
    """Wait until a run is over and looked into; return both answers."""
    expect(page.locator("#vh-run")).to_be_enabled(timeout=PATIENCE)
    expect(page.locator("#vh-status")).to_contain_text("Done.", timeout=PATIENCE)
    expect(page.locator("#vh-overlays")).not_to_be_empty(timeout=PATIENCE)
    return page.locator("#vh-plain .vh-text").inner_text(), page.locator("#vh-mitigated .vh-text").inner_text()
