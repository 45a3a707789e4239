"""Remote pictures: off by default, from public addresses alone, and never more than is allowed."""

import asyncio
import ipaddress
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from vlm_app.serving import pictures
from vlm_app.serving.pictures import Address, Remote, is_public
from vlm_app.serving.question import Rules
from vlm_app.serving.refusals import Refusal

from tests.support.serving import data_url, serving, user
from vlm_heads import VLM
from vlm_heads.models import planted_image

PICTURE = planted_image("car")


class Pictures(BaseHTTPRequestHandler):
    """Another machine's pictures."""

    def do_GET(self) -> None:
        if self.path == "/elsewhere.png":
            self.send_response(302)
            self.send_header("Location", "/picture.png")
            self.end_headers()
            return
        self.send_response(404 if self.path == "/gone.png" else 200)
        self.end_headers()
        if self.path == "/slow.png":
            time.sleep(2)
        content = b"x" * 5000 if self.path == "/large.png" else pictures.of_data(data_url(PICTURE))
        try:
            self.wfile.write(content)
        except OSError:
            return  # the client has had enough

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pictures) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


def anybody(address: Address) -> bool:
    """Stands for a public address, of which a test has none."""
    return True


def fetched(url: str, remote: Remote) -> bytes:
    return asyncio.run(remote.fetch(url))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::a00:1", "64:ff9b:1::1",
    ],
)  # fmt: skip
def test_addresses_that_are_nobody_s_business(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:93.184.215.14"])
def test_addresses_of_the_internet(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_by_default_nothing_is_fetched(planted: VLM, elsewhere: str) -> None:
    openai = pytest.importorskip("openai", reason="the official client is not installed")
    asked = {"model": "planted", "messages": [user(f"{elsewhere}/picture.png")], "max_tokens": 8}
    for remote, said in ((None, "--allow-remote"), (Remote(), "private network")):
        with (
            serving(planted, rules=Rules("planted", remote=remote)) as found,
            openai.OpenAI(base_url=f"{found.url}/v1", api_key="none") as client,
            pytest.raises(openai.PermissionDeniedError, match=said),
        ):
            client.chat.completions.create(**asked)
    with (
        serving(planted, rules=Rules("planted", remote=Remote(anybody))) as found,
        openai.OpenAI(base_url=f"{found.url}/v1", api_key="none") as client,
    ):
        said = client.chat.completions.create(**asked).choices[0].message.content
    assert said == planted.answer(PICTURE, max_new_tokens=8).text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_this_machine_is_refused_by_what_its_name_means(host: str) -> None:
    with pytest.raises(Refusal, match="private network"):
        fetched(f"http://{host}:9/picture.png", Remote())


@pytest.mark.parametrize(
    ("path", "said"),
    [("/elsewhere.png", "status 302"), ("/gone.png", "status 404"), ("/slow.png", "within 0.5 seconds")],
)
def test_what_does_not_come_as_it_should_is_refused(elsewhere: str, path: str, said: str) -> None:
    with pytest.raises(Refusal, match=said):
        fetched(elsewhere + path, Remote(anybody, seconds=0.5))


def test_too_large_a_picture_is_not_read_to_its_end(elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "LARGEST", 4000)
    with pytest.raises(Refusal, match="more than 4000 bytes"):
        fetched(f"{elsewhere}/large.png", Remote(anybody))


@pytest.mark.parametrize(
    "url", ["ftp://host/x.png", "file:///x.png", "x.png", "http://", "http://user:word@host/x", "https://[", "http://h:99999/"]
)  # fmt: skip
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(Refusal, match="image_url"):
        fetched(url, Remote(anybody))
