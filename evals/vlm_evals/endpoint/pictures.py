"""A picture file as a data URL."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from pathlib import Path

from PIL import Image

from vlm_heads.models import load_image

_TAKEN = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}  # formats that every server reads
_ORIENTATION = 0x0112  # in EXIF


@lru_cache(maxsize=32)  # one picture is asked about several times in a row
def data_url(path: str) -> str:
    """Return a picture for a request: the file's own bytes where any server sees in them what a local model would.

    Anything else, such as a photograph on its side, an animation or a transparent picture, is sent upright, in RGB and
    as PNG.

    Raises:
        BadImage: if it cannot be read, as `load_image` says it.
    """
    upright = load_image(path)
    content = Path(path).read_bytes()
    kind = _plain_kind(content)
    return url_of(upright) if kind is None else _written(kind, content)


def url_of(image: Image.Image) -> str:
    """Return a picture in memory for a request."""
    written = io.BytesIO()
    image.save(written, "PNG")
    return _written(_TAKEN["PNG"], written.getvalue())


def _written(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _plain_kind(content: bytes) -> str | None:
    """Return the media type of a picture that needs no care; None for one that does."""
    with Image.open(io.BytesIO(content)) as image:
        moves = getattr(image, "n_frames", 1) > 1
        simple = image.mode in ("RGB", "L") and not image.has_transparency_data
        if moves or not simple or image.getexif().get(_ORIENTATION, 1) != 1:
            return None
        return _TAKEN.get(image.format or "")
