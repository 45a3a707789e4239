"""Images as people have them: rotated, grey, deep, transparent, animated, broken, huge."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlm_heads import errors
from vlm_heads.models.images import load_image

RED, BLUE = (255, 0, 0), (0, 0, 255)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _half(width: int = 6, height: int = 4) -> Image.Image:
    """Return a picture whose left half is red and whose right half is blue."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(BLUE, (width // 2, 0, width, height))
    return picture


def _png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["path", "text", "bytes", "image", "array", "tensor", "channels first", "floats"])
def test_every_form_gives_the_same_pixels(form: str, tmp_path: Path) -> None:
    picture = _half()
    path = tmp_path / "picture with spaces é.png"
    picture.save(path)
    array = np.asarray(picture)
    forms: dict[str, object] = {
        "path": path, "text": str(path), "bytes": path.read_bytes(), "image": picture, "array": array,
        "tensor": torch.tensor(array), "channels first": array.transpose(2, 0, 1), "floats": array / np.float32(255),
    }  # fmt: skip
    loaded = load_image(forms[form])
    assert loaded.mode == "RGB"
    assert np.array_equal(np.asarray(loaded), array)


def test_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise by 90 degrees
    loaded = load_image(_encoded(_half(), "PNG", exif=exif))
    assert loaded.size == (4, 6)
    assert loaded.getpixel((0, 0)) == RED
    assert loaded.getpixel((0, 5)) == BLUE


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_loading_once_more_changes_nothing(orientation: int, kind: str) -> None:
    """An evaluation loads a photograph to see whether it can be read, and asking loads what it is given."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_image(_encoded(_half(), kind, exif=exif))
    again = load_image(loaded)
    assert again.size == loaded.size
    assert again.tobytes() == loaded.tobytes()


def test_cmyk_becomes_rgb() -> None:
    loaded = load_image(_encoded(_half(16, 16).convert("CMYK"), "JPEG", quality=100))
    red = np.array(loaded.getpixel((2, 8)))
    assert np.abs(red - RED).max() < 12


def test_sixteen_bits_are_scaled_and_not_cut_off() -> None:
    levels = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    for source in (_encoded(Image.fromarray(levels), "PNG"), levels):
        grey = np.asarray(load_image(source))[:, :, 0]
        assert np.abs(grey.astype(int) - levels / 257).max() <= 1


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, (0, 255, 0))]
    content = _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(content).getpixel((4, 4)) == RED
    opened = Image.open(io.BytesIO(content))
    opened.seek(2)
    assert load_image(opened).getpixel((4, 4)) == RED


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_lie_on_white(mode: str) -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode)
    if mode == "P":
        clear.info["transparency"] = clear.getpixel((0, 0))
    assert load_image(clear).getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert load_image(Image.new(mode, (5, 7))).mode == "RGB"


def test_the_callers_image_is_not_changed() -> None:
    picture = _half().convert("P")
    before = picture.tobytes()
    load_image(picture)
    assert (picture.mode, picture.tobytes()) == ("P", before)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds nothing"),
        (b"not an image", "no image"),
        (_encoded(_half(40, 40), "PNG")[:-30], "broken|no image"),
        (_encoded(_half(40, 40), "JPEG")[:60], "broken|no image"),
        (_encoded(Image.new("RGB", (1, 1)), "PNG"), "1 x 1"),
        (_png_header(20_000, 20_000), "large"),
        (_png_header(2_000_000, 2_000_000), "large|broken|pixels"),
    ],
    ids=["empty", "text", "torn png", "torn jpeg", "one pixel", "bomb", "huge bomb"],
)
def test_what_cannot_be_read_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    for source in (content, path):
        with pytest.raises(errors.BadImage, match=said):
            load_image(source)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("no/such/picture.png", "no image at"),
        (Path(), "cannot be read"),
        ("a\0b", "cannot be read"),
        ("https://example.org/picture.png", "never fetched"),
        ("HTTP://example.org/picture.png", "never fetched"),
        (None, "NoneType"),
        (12, "int"),
        (np.zeros((5, 4, 2), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros((4, 4, 3), np.complex64), "complex64"),
        (np.full((4, 4, 3), np.nan, np.float32), "finite"),
        (np.full((4, 4, 3), 200.0, np.float32), "0..1"),
        (np.full((4, 4, 3), -1, np.int64), "0..255"),
        (np.zeros((1, 9), np.uint8), "9 x 1"),
    ],
)
def test_what_is_no_image_is_refused_by_name(source: object, said: str) -> None:
    with pytest.raises(errors.BadImage, match=said):
        load_image(source)


def test_a_large_photograph_is_read() -> None:
    assert load_image(Image.new("L", (5_000, 4_000))).size == (5_000, 4_000)


def _photograph(*entries: tuple[int, int, bytes], orientation: int = 6) -> bytes:
    """Return a JPEG of 60 x 40 with an orientation and further entries (tag, type, value) in its EXIF."""
    listed, data = [(0x112, 3, struct.pack("<H", orientation)), *entries], b""
    end = 8 + 2 + 12 * len(listed) + 4
    body = struct.pack("<H", len(listed))
    for tag, kind, value in listed:
        body += struct.pack("<HHL", tag, kind, 1)
        if len(value) <= 4:
            body += value.ljust(4, b"\0")
        else:
            body += struct.pack("<L", end + len(data))
            data += value
    exif = b"Exif\0\0II*\0" + struct.pack("<L", 8) + body + struct.pack("<L", 0) + data
    return _encoded(Image.new("RGB", (60, 40), RED), "JPEG", exif=exif)


@pytest.mark.parametrize(
    "entry",
    [
        (0x9201, 10, struct.pack("<ll", -1, 0)),  # a shutter speed of -1/0
        (0x128, 8, struct.pack("<h", -3)),
        (0x111, 2, b"hey\0"),
        (0x100, 9, struct.pack("<l", -5)),
        (0x11A, 11, struct.pack("<f", float("nan"))),
        (0x11A, 5, struct.pack("<LL", 1, 0)),
    ],
)
def test_a_broken_entry_costs_nothing(entry: tuple[int, int, bytes]) -> None:
    assert load_image(_photograph(entry)).size == (40, 60)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"II*\0\x08\0\0\0" + tail), st.data())
def test_no_metadata_costs_more_than_the_orientation(exif: bytes, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP"]))
    picture = Image.new("RGB", (60, 40), RED)
    content = _encoded(picture, kind, exif=b"Exif\0\0" + exif)
    assert load_image(content).size in ((60, 40), (40, 60))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 54), st.binary(min_size=1, max_size=12))
def test_damage_within_a_photographs_metadata(at: int, damage: bytes) -> None:
    content = _photograph((0x11A, 5, struct.pack("<LL", 72, 1)), (0x9201, 10, struct.pack("<ll", 1, 60)))
    start = content.index(b"Exif\0\0") + 6
    assert load_image(content[: start + at] + damage + content[start + at + len(damage) :]).size in ((60, 40), (40, 60))


def test_a_pipe_among_the_pictures_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(errors.BadImage, match=r"pipe\.png is no file but a pipe or a device; give an image file"):
        load_image(tmp_path / "pipe.png")


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "nul\0.png"])
def test_a_name_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.BadImage, match="cannot be read"):
        load_image(f"{tmp_path}/{name}")
