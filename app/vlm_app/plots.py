"""Pictures of heads, drawn without pyplot and its global state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure


def draw_head_map(scores: np.ndarray[Any, Any], path: Path, *, title: str) -> Path:
    """Draw scores as a map of layers (down) by heads (across), and return its file.

    Args:
        scores: [L, Hq], at least 0.
        path: PNG to write.
        title: above the map.
    """
    layers, heads = scores.shape
    figure = Figure(figsize=(min(2.5 + 0.32 * heads, 14), min(1.8 + 0.28 * layers, 12)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(scores, aspect="auto", cmap="viridis", vmin=0.0)
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_xticks(range(0, heads, max(1, heads // 16)))
    axes.set_yticks(range(0, layers, max(1, layers // 16)))
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, label="VHD: ‖output with image − without‖")
    figure.savefig(path, dpi=120, format="png", metadata={"Software": None})
    return path
