"""A photograph's orientation, and nothing else of its metadata: what is broken in it costs no more than the turn."""

from __future__ import annotations

import struct

from PIL import ExifTags, Image

# What Pillow raises on metadata that says what it cannot be; the picture itself may be sound.
UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_START, _SCAN = 0xD8, 0xDA
_METADATA = {0xE1, 0xE2, *range(0xE3, 0xEE), 0xEF, 0xFE}  # not the headers of JFIF and Adobe, which tell the colours


def upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF orientation says; as it is where that cannot be read."""
    image.load()
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        stated = image.getexif().get(ExifTags.Base.Orientation, 1)
    except UNREADABLE:
        return 1
    return stated if isinstance(stated, int) else 1


def without_metadata(content: bytes) -> bytes | None:
    """Return a JPEG file without its metadata; None where there is none to leave out, or it is no JPEG."""
    if content[:2] != bytes((0xFF, _START)):
        return None
    kept, position = [content[:2]], 2
    while position + 4 <= len(content) and content[position] == 0xFF and content[position + 1] != _SCAN:
        marker, size = content[position + 1], int.from_bytes(content[position + 2 : position + 4], "big")
        if marker not in _METADATA:
            kept.append(content[position : position + 2 + size])
        position += 2 + size
    kept.append(content[position:])
    bare = b"".join(kept)
    return bare if len(bare) < len(content) else None
