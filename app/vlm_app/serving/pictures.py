"""Where a request's picture comes from: a data URL, or, only where the server allows it, a remote address.

A remote address is looked up once, and exactly what was found is connected to. An address of this machine, of a private
network or of a cloud's own services is refused, and so is a redirection.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2

from vlm_app.serving.refusals import Refusal

LARGEST = 16 * 2**20  # bytes of an encoded picture
SECONDS = 20.0

# addresses behind which a translator may reach any IPv4 address
_TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def of_data(url: str) -> bytes:
    """Return the bytes of a data URL such as `data:image/png;base64,…`.

    Raises:
        Refusal: if it holds no base64, or too much.
    """
    head, comma, content = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise Refusal(
            400, "image_url: a data URL is written data:image/png;base64,… with the encoded picture behind it"
        )
    if len(content) * 3 // 4 > LARGEST:
        raise Refusal(413, f"image_url: the picture has more than {LARGEST} bytes; make it smaller")
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as failure:
        raise Refusal(400, f"image_url: what stands behind the comma is no base64 ({failure})") from failure


def is_public(address: Address) -> bool:
    """Whether an address belongs to a machine of the internet, and to no private network or this machine."""
    inside = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    if inside is not None:
        return is_public(inside)
    return address.is_global and not address.is_multicast and not any(address in one for one in _TRANSLATED)


@dataclass(frozen=True)
class Remote:
    """Fetches pictures from remote addresses.

    Attributes:
        allowed: which addresses may be connected to.
        seconds: for everything from the look-up on.
    """

    allowed: Callable[[Address], bool] = is_public
    seconds: float = SECONDS

    async def fetch(self, url: str) -> bytes:
        """Return what lies at an address.

        Raises:
            Refusal: if the address is not allowed, does not answer in time, or holds too much.
        """
        try:
            async with asyncio.timeout(self.seconds):
                return await self._fetch(url)
        except TimeoutError:
            raise Refusal(400, f"image_url: no picture came within {self.seconds:g} seconds") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as failure:
            raise Refusal(400, f"image_url: the picture cannot be fetched ({type(failure).__name__})") from failure

    async def _fetch(self, url: str) -> bytes:
        parts = urlsplit(url)
        host = parts.hostname
        if parts.scheme not in ("http", "https") or not host or parts.username is not None:
            raise Refusal(400, "image_url: a remote address is written https://host/picture.png")
        address = await self._looked_up(host, parts.port or (443 if parts.scheme == "https" else 80))
        # a second look-up could find another machine
        target = httpx2.URL(url).copy_with(host=address)
        async with (
            httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=self.seconds) as client,
            client.stream("GET", target, headers={"Host": parts.netloc}, extensions={"sni_hostname": host}) as response,
        ):
            if response.status_code != 200:
                raise Refusal(400, f"image_url: the address answers with status {response.status_code}")
            found = bytearray()
            async for piece in response.aiter_bytes():
                found += piece
                if len(found) > LARGEST:
                    raise Refusal(413, f"image_url: the picture has more than {LARGEST} bytes; make it smaller")
        return bytes(found)

    async def _looked_up(self, host: str, port: int) -> str:
        """Return the address to connect to; every one that the name has must be allowed."""
        loop = asyncio.get_running_loop()
        found = [info[4][0] for info in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        if not found or not all(self.allowed(ipaddress.ip_address(one)) for one in found):
            raise Refusal(
                403, "image_url: the address is this machine's or a private network's; send the picture itself"
            )
        return str(found[0])
