"""MCQ-POPE's questions: POPE's with four lettered choices, a file a split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from vlm_evals.data.items import Item, ItemFolder
from vlm_evals.data.pictures import find_pictures, picture_folders
from vlm_evals.data.tabular import rows_of
from vlm_evals.errors import FileFormatError, TaskError

SPLITS = ("random", "popular", "adversarial")
_CHOICE = re.compile(r"^([A-D])\.\s*(.+?)\s*$", re.MULTILINE)


def read_questions(path: Path) -> list[Item]:
    """Return the questions of a file; its split is the last word of its name.

    Raises:
        FileFormatError: naming the line that is no question.
    """
    split = path.stem.rsplit("_", 1)[-1]
    items: dict[str, Item] = {}
    for line, row in rows_of(path):
        number, image, text, label = (row.get(name) for name in ("question_id", "image", "text", "label"))
        options = dict(_CHOICE.findall(text)) if isinstance(text, str) else {}
        named = isinstance(number, int | str) and isinstance(image, str) and image.strip()
        if not named or len(options) != 4 or not isinstance(label, str) or label not in options:
            raise FileFormatError(
                path, line, "a question needs question_id, image, text with choices A to D, and label: one of them"
            )
        key = f"{split}/{number}"
        if key in items:
            raise FileFormatError(path, line, f"question {number} stands here twice")
        asks = "absent" if "does not appear" in str(text).split("\n")[0] else "present"
        name = str(image)
        items[key] = Item(key, name, str(text), label, name, split, {"options": options, "asks": asks})
    if not items:
        raise FileFormatError(path, None, "holds no question")
    return list(items.values())


def read_folder(root: Path) -> ItemFolder:
    """Return the questions of a folder, or of `mcq_pope/coco` in it, and COCO's pictures that are there.

    Raises:
        TaskError: if it holds no questions.
    """
    places = [root / name for name in ("", "mcq_pope/coco", "benchs/mcq_pope/coco", "mcq")]
    names = [f"coco_mcq_{split}.jsonl" for split in SPLITS]
    files = [path for name in names if (path := _first(places, name)) is not None]
    if not files:
        raise TaskError(f"{root} holds no {names[0]}: give --data a folder with it and with COCO's val2014")
    items = [item for path in files for item in read_questions(path)]
    images = list(dict.fromkeys(item.image for item in items))
    folders = picture_folders(root, [])
    found = find_pictures(root, folders, enumerate(images))
    return ItemFolder(root, tuple(items), {images[place]: path for place, path in found.items()}, tuple(folders))


def _first(places: Sequence[Path], name: str) -> Path | None:
    return next((place / name for place in places if (place / name).is_file()), None)
