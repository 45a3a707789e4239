"""Draw the sample scenes into this folder."""

import json
from pathlib import Path

from PIL import Image

from vlm_evals.scenes.catalog import CATEGORIES, SCENES
from vlm_evals.scenes.samples import KINDS, SEED
from vlm_evals.scenes.world import scenes
from vlm_heads.models import image_with_sinks, planted_image


def main() -> None:
    folder = Path(__file__).parent
    wanted = list(KINDS)
    truth, boxes = {}, {}
    for scene in scenes("held-out", SEED, 200):
        kind = SCENES[scene.kind].name
        if kind in wanted and len(scene.categories) >= 4:
            wanted.remove(kind)
            Image.fromarray(scene.image).save(folder / f"{kind}.png", optimize=True)
            truth[kind] = [CATEGORIES[category].name for category in scene.categories]
            boxes[kind] = {
                name: [one.box for one in scene.instances if CATEGORIES[one.category].name == name]
                for name in truth[kind]
            }
    for name, picture in (("planted-car", planted_image("car")), ("planted-car-sinks", image_with_sinks("car"))):
        picture.save(folder / f"{name}.png", optimize=True)
        truth[name], boxes[name] = ["car"], {"car": [_square(picture)]}
    (folder / "truth.json").write_text(json.dumps(dict(sorted(truth.items())), indent=1) + "\n")
    (folder / "boxes.json").write_text(json.dumps(dict(sorted(boxes.items()))) + "\n")


def _square(picture: Image.Image) -> tuple[int, int, int, int]:
    """Return the box of a planted picture's object: what is neither grey nor black."""
    saturation = picture.convert("HSV").getchannel("S")
    left, top, right, bottom = saturation.getbbox() or (0, 0, 0, 0)
    return left, top, right - left, bottom - top


if __name__ == "__main__":
    main()
