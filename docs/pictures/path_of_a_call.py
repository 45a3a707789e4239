"""Draws docs/pictures/path_of_a_call.svg: what happens between `generate` and edited attention.

python docs/pictures/path_of_a_call.py
"""

from pathlib import Path

WIDTH, HEIGHT = 1000, 700
LANES = ((20, 270, "transformers"), (320, 360, "vlm_heads"), (710, 270, "vlm_kernels"))
INK, LINE, ACCENT, SOFT = "#1c1917", "#78716c", "#0f766e", "#f5f5f4"


def text(x: float, y: float, words: str, *, size: int = 14, weight: str = "normal", colour: str = INK) -> str:
    escaped = words.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{colour}">{escaped}</text>'


def box(lane: int, y: float, height: float, title: str, *lines: str, file: str = "") -> str:
    x, width, _ = LANES[lane]
    x, width = x + 15, width - 30
    shape = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="white" stroke="{ACCENT}"/>'
    said = [text(x + 12, y + 22, title, weight="bold")]
    said += [text(x + 12, y + 42 + 18 * index, line, size=13) for index, line in enumerate(lines)]
    if file:
        said.append(text(x + 12, y + height - 10, file, size=12, colour=ACCENT))
    return shape + "".join(said)


def arrow(*points: tuple[float, float], label: str = "", at: tuple[float, float] = (0, 0)) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    line = f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.6" marker-end="url(#head)"/>'
    return line + (text(*at, label, size=12, colour=LINE) if label else "")


def lane(x: float, width: float, name: str) -> str:
    ground = f'<rect x="{x}" y="50" width="{width}" height="{HEIGHT - 70}" rx="10" fill="{SOFT}"/>'
    return ground + text(x + 15, 38, name, size=17, weight="bold")


def picture() -> str:
    parts = [lane(*one) for one in LANES]
    parts += [
        box(0, 70, 60, "model.generate(**inputs)", "your call, unchanged"),
        box(1, 70, 76, "guard", "refuses what cannot be followed", file="attached/refused_modes.py"),
        box(0, 185, 78, "forward of the model", "once for the prompt,", "then once for each token"),
        box(
            1,
            185,
            112,
            "tracker",
            "knows the generation and its keys (KeyMap)",
            "at the prompt: runs the image-free pass",
            "where a method needs it",
            file="attached/tracking.py, blind.py",
        ),
        box(0, 340, 78, "attention of one layer", "asks the attention interface;", "our function stands in"),
        box(
            1,
            335,
            94,
            "AttentionCall",
            "query, key, value, mask, key classes,",
            "this generation's memory",
            file="attention.py, call.py",
        ),
        box(
            1,
            450,
            76,
            "plan(call), of each intervention",
            "says what to change, as data",
            file="interventions/*.py",
        ),
        box(1, 547, 76, "layer edit", "combines the plans, applies them", file="attached/layer_edit.py"),
        box(2, 440, 94, "AttentionPlan", "gains, boosts, redistribution:", "data, checked when made", file="plan.py"),
        box(
            2,
            547,
            94,
            "attend",
            "triton on a GPU, torch elsewhere;",
            "reference says what is right",
            file="dispatch.py",
        ),
        box(0, 547, 78, "next layers, token logits", "with a contrast, a second", "stream is weighed here"),
    ]
    parts += [
        arrow((275, 100), (335, 100)),
        arrow((335, 132), (305, 132), (305, 205), (275, 205)),
        arrow((275, 225), (335, 225)),
        arrow((155, 263), (155, 340)),
        arrow((275, 375), (335, 375)),
        arrow((500, 429), (500, 450)),
        arrow((665, 487), (725, 487)),
        arrow((850, 534), (850, 547)),
        arrow((500, 526), (500, 547)),
        arrow((665, 570), (725, 570)),
        arrow((725, 600), (665, 600)),
        arrow((335, 585), (275, 585)),
        arrow((35, 586), (10, 586), (10, 225), (35, 225), label="next token", at=(22, 440)),
    ]
    head = (
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{LINE}"/></marker>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="DejaVu Sans, Verdana, sans-serif">'
        f"<title>The path of one generate call</title><defs>{head}</defs>"
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>' + "\n".join(parts) + "</svg>\n"
    )


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(picture(), encoding="utf-8")
