"""An image by path, bytes, PIL image or array, as upright RGB; never fetched from the network."""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, Union

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from vlm_heads.errors import BadImage
from vlm_heads.models.exif import UNREADABLE, upright, without_metadata

if TYPE_CHECKING:
    import torch

ImageSource = Union[str, os.PathLike[str], bytes, Image.Image, np.ndarray[Any, Any], "torch.Tensor"]

MAX_PIXELS = 100_000_000  # larger than any camera's photograph; decoded it would take 300 MB
MIN_SIDE = 2  # processors that guess the channel axis take a side of 1 for it
_LINKS = ("http://", "https://", "ftp://", "data:")


def load_image(source: ImageSource) -> Image.Image:
    """Return an upright RGB image without metadata, so that loading it once more changes nothing.

    A photograph's EXIF orientation is applied. Of an animation the first frame is taken, transparent pixels are laid
    on white, 16-bit and floating grey levels are scaled by their type's range.

    Args:
        source: path, encoded bytes, PIL image, or array `[height, width]` or `[height, width, 1, 3 or 4]` (also
            channels first) of integers in their type's range or floats in 0..1.

    Raises:
        BadImage: if it is missing, no image, broken, empty or larger than `MAX_PIXELS`.
    """
    if isinstance(source, Image.Image):
        _check_size(source, "the image")
        with _readable("the image"):
            return _upright_rgb(source)
    if _is_tensor(source):
        source = source.detach().cpu().numpy()
    if isinstance(source, np.ndarray):
        return _check_size(_upright_rgb(_from_array(source)), "the array")
    if isinstance(source, bytes | bytearray):
        return _decoded(bytes(source), f"the {len(source)} bytes given")
    if not isinstance(source, str | os.PathLike):
        raise BadImage(f"{type(source).__name__} is no image; give a path, bytes, a PIL image or an array")
    return _from_path(source)


def _is_tensor(source: object) -> TypeGuard[torch.Tensor]:
    """Whether it is a tensor; where torch was never imported there is none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


def _from_path(source: str | os.PathLike[str]) -> Image.Image:
    if str(source).lower().startswith(_LINKS):
        raise BadImage(f"{str(source)[:60]} is a link; images are never fetched, give a file")
    path = Path(source)
    try:
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):  # reading a pipe would wait for somebody to write
            raise BadImage(f"{path} is no file but a pipe or a device; give an image file")
        content = path.read_bytes()
    except FileNotFoundError as missing:
        raise BadImage(f"no image at {path}") from missing
    except BadImage:
        raise
    except (OSError, ValueError) as failure:
        raise BadImage(f"{path} cannot be read: {failure}") from failure
    return _decoded(content, str(path))


def _decoded(content: bytes, what: str) -> Image.Image:
    if not content:
        raise BadImage(f"{what} holds nothing; an image file is needed")
    try:
        return _opened(content, what)
    except BadImage:
        bare = without_metadata(content)
        if bare is None:
            raise
        with contextlib.suppress(BadImage):  # the picture may be sound, and only what is said about it broken
            return _opened(bare, what)
        raise


def _opened(content: bytes, what: str) -> Image.Image:
    with _readable(what), Image.open(io.BytesIO(content)) as image:
        _check_size(image, what)
        return _upright_rgb(image)


@contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # Pillow's own bomb warning comes above our limit, and its notes on damaged metadata concern nobody
            warnings.simplefilter("ignore")
            yield
    except UnidentifiedImageError as failure:
        raise BadImage(f"{what} is no image that Pillow can read") from failure
    except Image.DecompressionBombError as failure:
        pixels = re.search(r"\d+", str(failure))  # Pillow refuses before it says width and height
        raise _too_large(what, f"{int(pixels[0]):,}" if pixels else "too many") from failure
    except BadImage:
        raise  # a ValueError too, and it says already what is wrong
    except (EOFError, *UNREADABLE) as failure:
        raise BadImage(f"{what} is a broken image: {failure}") from failure


def _check_size(image: Image.Image, what: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(what, f"{width} x {height}")
    if min(width, height) < MIN_SIDE:
        raise BadImage(f"{what} has {width} x {height} pixels; at least {MIN_SIDE} on each side are needed")
    return image


def _too_large(what: str, size: str) -> BadImage:
    return BadImage(f"{what} is too large: it has {size} pixels, and at most {MAX_PIXELS:,} are read; make it smaller")


def _upright_rgb(image: Image.Image) -> Image.Image:
    frame = next(iter(ImageSequence.Iterator(image))) if getattr(image, "n_frames", 1) > 1 else image
    turned = upright(frame)
    if turned.mode.startswith("I") or turned.mode == "F":
        turned = _eight_bit(turned)
    if turned.has_transparency_data:
        clear = turned.convert("RGBA")
        turned = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    loaded = turned.convert("RGB")  # a copy, also of RGB
    loaded.info.clear()  # an orientation that stayed would turn it again when it is loaded once more
    return loaded


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return grey levels of 16 or 32 bits, or floats, in 8 bits."""
    levels = np.asarray(image, dtype=np.float64)
    if not np.isfinite(levels).all():
        raise BadImage("the image holds values that are not finite")
    top = 1.0 if levels.max(initial=0.0) <= 1.0 and image.mode == "F" else 255.0
    if levels.max(initial=0.0) > top:
        top = 65535.0
    return Image.fromarray(np.clip(levels / top * 255.0, 0, 255).round().astype(np.uint8))


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    shape = array.shape
    if array.ndim == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in shape:
        raise BadImage(f"an array of shape {list(shape)} is no image; [height, width, 3] is needed")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(_bytes_of(array)))


def _bytes_of(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0.0 or array.max() > 1.0:
            raise BadImage("a floating array must hold finite values in 0..1")
        return (array * 255.0).round().astype(np.uint8)
    if np.issubdtype(array.dtype, np.integer):
        top = 255 if array.min() >= 0 and array.max() <= 255 and array.dtype != np.uint16 else 65535
        if array.min() < 0 or array.max() > top:
            raise BadImage("an integer array must hold values in 0..255 or 0..65535")
        return (array.astype(np.float64) / top * 255.0).round().astype(np.uint8)
    raise BadImage(f"an array of {array.dtype} is no image; uint8 is needed")
