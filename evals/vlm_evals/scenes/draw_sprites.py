"""Draw the sprite sheet from Noto Color Emoji: `python -m vlm_evals.scenes.draw_sprites FONT.ttf OUT_DIR`.

The font is in Debian's package `fonts-noto-color-emoji` (SIL Open Font License 1.1). Each glyph is cropped to its ink
and scaled to fit a square cell. The sheet is an ordinary RGBA PNG, in the order of `glyph_order()`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .catalog import CATEGORIES, CLUTTER

CELL = 72
COLUMNS = 12
FONT_SIZE = 109  # the only bitmap strike the font holds


def glyph_order() -> list[str]:
    """Return every glyph of the sheet: those of the categories, then the clutter."""
    return [glyph for category in CATEGORIES for glyph in category.glyphs] + list(CLUTTER)


def draw_sheet(font_file: Path) -> Image.Image:
    """Return the sprite sheet as an RGBA image."""
    font = ImageFont.truetype(str(font_file), FONT_SIZE)
    glyphs = glyph_order()
    sheet = Image.new("RGBA", (COLUMNS * CELL, -(-len(glyphs) // COLUMNS) * CELL))
    for i, glyph in enumerate(glyphs):
        canvas = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(canvas).text((10, 10), glyph, font=font, embedded_color=True)
        ink = canvas.crop(canvas.getbbox())
        ink.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
        column, row = i % COLUMNS, i // COLUMNS
        sheet.paste(ink, (column * CELL + (CELL - ink.width) // 2, row * CELL + (CELL - ink.height) // 2))
    return sheet


def main() -> None:
    font_file, out = Path(sys.argv[1]), Path(sys.argv[2])
    draw_sheet(font_file).quantize(256, method=Image.Quantize.FASTOCTREE).save(out / "sprites.png", optimize=True)


if __name__ == "__main__":
    main()
