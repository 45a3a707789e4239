"""Serving the page from this machine, and what it looks like before the style sheet."""

from __future__ import annotations

from typing import Any

import gradio as gr

from vlm_app.page.parts import asset
from vlm_app.view.offline import Offline


def launch(blocks: gr.Blocks, port: int, *, share: bool) -> tuple[str, str | None]:
    """Serve the page from threads of its own; return its address here and, if shared, in public."""
    _, local, public = blocks.queue(default_concurrency_limit=8).launch(
        server_name="127.0.0.1",
        server_port=port,
        share=share,
        quiet=True,
        prevent_thread_lock=True,
        inbrowser=False,
        ssr_mode=False,
        footer_links=[],
        max_file_size="64mb",
        js=asset("connection.js"),
        theme=_theme(),
        css=asset("page.css") + asset("parts.css"),
        app_kwargs={"middleware": _middleware()},
        enable_monitoring=False,
    )
    return local, public or None


def _middleware() -> list[Any]:
    from starlette.middleware import Middleware

    return [Middleware(Offline)]


def _theme() -> gr.Theme:
    fonts = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
    mono = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_md,
        font=fonts,
        font_mono=mono,
    ).set(
        body_background_fill="#faf9f7",
        body_background_fill_dark="#151413",
        block_border_width="0px",
        block_shadow="none",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_padding="0",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_dark="#0f766e",
        button_primary_background_fill_hover_dark="#115e59",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        block_label_text_color="#57534e",
        block_info_text_color="#57534e",
        block_info_text_color_dark="#a8a29e",
    )
