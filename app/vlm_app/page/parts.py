"""What the parts of the page have in common: views made of HTML, and how events are handled."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import gradio as gr
from gradio.components import Component

Update = dict[Any, Any]  # component -> its new value; what is missing stays as it is
Form = Mapping[Component, Any]

MODEL = {"concurrency_limit": 1, "concurrency_id": "model", "show_progress": "hidden", "api_visibility": "private"}
# Those who wait for the model are told their place, so their runs may begin beside one another.
RUNS = MODEL | {"concurrency_limit": 32, "concurrency_id": "runs"}
QUICK = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
# Session and recipe read the form as the browser sends it, and say what is wrong with it.
FORM = {"preprocess": False}


def asset(name: str) -> str:
    """Return the text of a file of the page."""
    return files("vlm_app").joinpath("assets", name).read_text("utf-8")


def view(name: str, value: str = "", script: str = "page.js") -> gr.HTML:
    """Return a part of the page that is HTML; `script` runs once for it in the browser."""
    return gr.HTML(value, elem_id=f"vh-{name}", js_on_load=asset(script), apply_default_css=False)


def path_of(file: Mapping[str, Any] | None) -> str | None:
    """Return where an uploaded file lies; None where there is none."""
    return None if file is None else str(file["path"])
