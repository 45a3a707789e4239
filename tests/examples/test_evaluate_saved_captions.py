"""The example that scores saved captions gives what is worked out here."""

import json
import subprocess
import sys
from pathlib import Path


def test_saved_captions_are_scored(repository: Path, tmp_path: Path) -> None:
    # a dog and a car where only the dog is, and a cat where cat and dog are: 1 of 2 captions, 1 of 3 mentions, 2 of 3
    said = [(42, "A dog and a car."), (73, "A cat.")]
    rows = (json.dumps({"image_id": image, "caption": text}) + "\n" for image, text in said)
    (tmp_path / "captions.jsonl").write_text("".join(rows))
    (tmp_path / "truth.json").write_text(json.dumps({"42": ["dog"], "73": ["cat", "dog"]}))
    script = repository / "examples" / "evaluate_saved_captions.py"
    words = [sys.executable, script, tmp_path / "captions.jsonl", tmp_path / "truth.json"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "chair_s: 50.0 %", "chair_i: 33.3 %", "recall: 66.7 %", "invented: car, in 1 captions"
    ]  # fmt: skip
