"""A picture file on its way to a server: what every server reads in the same way goes as it is."""

import base64
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from vlm_evals.endpoint.pictures import data_url

from vlm_heads.errors import BadImage
from vlm_heads.models import load_image


def _bytes(path: Path) -> tuple[str, bytes]:
    kind, _, content = data_url(str(path)).partition(";base64,")
    return kind, base64.b64decode(content)


def test_a_plain_file_is_sent_as_it_is(tmp_path: Path) -> None:
    picture = Image.linear_gradient("L").convert("RGB")
    for name, kind in {"a.png": "image/png", "a.jpg": "image/jpeg", "a.webp": "image/webp"}.items():
        picture.save(tmp_path / name)
        assert _bytes(tmp_path / name) == (f"data:{kind}", (tmp_path / name).read_bytes())


@pytest.mark.parametrize("kind", ["turned", "palette", "transparent", "CMYK", "bmp", "16 bits"])
def test_what_servers_see_in_their_own_ways_is_sent_as_we_see_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"picture.{'jpg' if kind in ('turned', 'CMYK') else 'bmp' if kind == 'bmp' else 'png'}"
    picture = Image.linear_gradient("L").resize((40, 20))
    more: dict[str, Any] = {}
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        more["exif"] = exif
    modes = {"palette": "P", "transparent": "RGBA", "CMYK": "CMYK", "16 bits": "I;16"}
    picture.convert(modes.get(kind, "RGB")).save(path, **more)
    sent, content = _bytes(path)
    (tmp_path / "sent.png").write_bytes(content)
    assert sent == "data:image/png"
    assert content != path.read_bytes()
    assert load_image(tmp_path / "sent.png").tobytes() == load_image(path).tobytes()
    with Image.open(tmp_path / "sent.png") as image:
        assert (image.mode, image.size) == ("RGB", (20, 40) if kind == "turned" else (40, 20))


def test_a_broken_picture_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(BadImage, match=r"broken\.png"):
        data_url(str(tmp_path / "broken.png"))
