"""What a command imports before it answers: help and mistakes come at once."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from vlm_app.cli import COMMANDS

HEAVY = ("torch", "transformers", "vlm_heads", "gradio", "matplotlib", "nltk", "numpy", "PIL", "pycocotools", "scipy")


def imports_of(*words: object, code: int = 0) -> set[str]:
    """Return the heavy packages that a call of `vlm-heads` imports until it ends with an exit code."""
    program = (
        "import sys\nfrom vlm_app.cli import main\n"
        f"try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert (end.code or 0) == {code}\n"
        f"sys.stderr.write('\\n' + ' '.join({set(HEAVY)} & set(sys.modules)))"
    )
    called = [sys.executable, "-c", program, *map(str, words)]
    said = subprocess.run(called, capture_output=True, text=True, check=True).stderr
    return set(said.rpartition("\n")[2].split())


@pytest.mark.parametrize("words", [[], ["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    assert imports_of(*words) == set()


@pytest.mark.parametrize(
    "words",
    [
        "describe gone.png",
        "describe sample:moon",
        "describe sample:kitchen --with vrh",
        "describe sample:kitchen --with vhr:gian=2",
        "describe sample:kitchen --model mni",
        "describe sample:kitchen --device nope",
        "describe sample:kitchen --profile gone",
        "score gone.png",
        "askback gone.jsonl --images .",
        "askback gone.jsonl --images . --with vrh",
        "score --scorer vdh",
        "score --scorer ablation:gian=1",
        "score --data gone",
        "calibrate mini --scorer vdh --out x",
        "eval chair --with vrh",
        "eval chair --model mni",
        "eval chair --device nope",
        "eval chair --protocol wrold",
        "eval chair --protocol gone.json",
        "eval chair --protocol coco",
        "eval chair --split sifted",
        "eval chair --data gone",
        "eval chair --pipeline mine",
        "eval chiar",
        "doctor mni",
        "demo --model mni",
        "serve mni",
        "serve mini --with vrh",
        "fold mni --profile gone --out x",
        "calibrate mni --out x",
        "calibrate mini --data gone --out x",
        "bench generate --with vrh",
        "bench cost --model mni",
        "study held-out --with vrh",
        "study league --device nope",
    ],
)
def test_a_mistaken_name_is_told_before_torch_is_imported(words: str) -> None:
    assert imports_of(*words.split(), code=2) & {"torch", "transformers", "gradio", "matplotlib"} == set()


@pytest.mark.skipif(find_spec("gguf") is not None, reason="the language model under small is installed")
def test_a_missing_language_model_is_told_before_torch_is_imported() -> None:
    assert imports_of("doctor", "small", code=2) & {"torch", "transformers"} == set()


def test_judge_imports_only_what_it_uses(tmp_path: Path) -> None:
    captions, truth = tmp_path / "captions.jsonl", tmp_path / "index.json"
    captions.write_text('{"image_id": 1, "caption": "A \\"zebra\\" and Mr. Dog\'s toaster."}\n')
    truth.write_text('{"1": ["dog"]}')
    words = ("judge", "chair", captions, "--truth", truth)
    tokenizer = {"nltk", "numpy"}  # nltk brings numpy, and scipy without its statistics
    assert imports_of(*words, "--json") - {"scipy"} == tokenizer
    assert imports_of(*words) - {"scipy"} == tokenizer
