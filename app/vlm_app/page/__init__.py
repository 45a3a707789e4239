"""The page: components and which of them hands what to the session. Nothing here thinks."""

from vlm_app.page.serving import launch
from vlm_app.page.wiring import build_page

__all__ = ["build_page", "launch"]
