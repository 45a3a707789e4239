"""How well models of the embedded world see: recall, inventions, repeats, questions, and what is said without looking.

vlm-heads study grounding --model small --model mini --out runs/grounding
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlm_evals.answer import Asking, Processes, fingerprint
from vlm_evals.arms import Arm
from vlm_evals.data.coco import CocoFolder
from vlm_evals.experiment import ask_arms, choose_protocol, find_data
from vlm_evals.records import Score, write_json, write_text
from vlm_evals.reports.pairs import PLAIN
from vlm_evals.scored import score_run

from vlm_app.console import progress, remark
from vlm_app.models import load_vlm
from vlm_app.studies.chosen import CAPTIONS, QUESTIONS
from vlm_app.studies.findings.captions import recall
from vlm_heads import VLM

BATCHES = {CAPTIONS: 50, QUESTIONS: 100}
CAPTION_ROWS = {
    "recall": "recall",
    "shuffled": "the same captions, pictures shuffled: recall",
    "chair_s": "CHAIR_S",
    "chair_i": "CHAIR_I",
    "chair_i_distinct": "CHAIR_I (distinct)",
    "repeated_mentions": "repeated mentions",
}


def grounding(
    out: Path, *, models: Sequence[str], split: str, captions: int, questioned: int, seed: int, device: str | None
) -> dict[str, Any] | None:
    """Measure models on the same scenes, write grounding.json and grounding.md, and return what the first holds.

    Started again, it goes on. Of several processes of one start all but the first return None.

    Args:
        out: folder of the runs and the tables.
        models: what `load_vlm` takes.
        split: of the embedded world.
        captions: scenes to caption.
        questioned: scenes to ask questions about; 0 for none.
        seed: draws the scenes.
        device: of the models; a GPU by default if there is one.
    """
    processes = Processes.current(device)
    name = f"world-{split}"
    data = find_data(
        name, CAPTIONS, None, out, limit=max(captions, 2 * questioned), seed=seed, processes=processes,
        progress=progress,
    )  # fmt: skip
    limits = {metric: limit for metric, limit in ((CAPTIONS, captions), (QUESTIONS, questioned)) if limit}
    found = {}
    for number, model in enumerate(models, 1):
        if processes.first:
            remark(f"model {number} of {len(models)}: {model}")
        vlm = load_vlm(model, device, seed)
        folder = out / str(number)
        for metric, limit in limits.items():
            protocol = choose_protocol(name, metric, data, limit=limit, seed=seed)
            asking = Asking(vlm, batch_size=BATCHES[metric])
            ask_arms(asking, protocol, data, [Arm(PLAIN)], folder / metric, processes=processes, progress=progress)
        if processes.first:
            found[f"{number}. {Path(model).name}"] = _measured(vlm, folder, data, limits)
    if not processes.first:
        return None
    result = {"split": split, "captions": captions, "questioned": questioned, "seed": seed, "models": found}
    write_json(out / "grounding.json", result)
    write_text(out / "grounding.md", table(result))
    return result


def _measured(vlm: VLM, folder: Path, data: CocoFolder, limits: dict[str, int]) -> dict[str, Any]:
    run = score_run(folder / CAPTIONS / PLAIN)
    figures = run.metric.corpus(run.scores)
    found = {"weights": fingerprint(vlm.model)[:8], **{key: figures[key] for key in CAPTION_ROWS if key in figures}}
    found["shuffled"] = _shuffled(run.scores, data)
    if QUESTIONS in limits:
        asked = score_run(folder / QUESTIONS / PLAIN)
        found["questions"] = {
            split: {"accuracy": values["accuracy"], "yes_ratio": values["yes_ratio"]}
            for split, values in asked.metric.corpus(asked.scores)["splits"].items()
        }
    return found | _language(vlm)


def _shuffled(scores: Sequence[Score], data: CocoFolder) -> float:
    """Return the recall of every caption against the next picture's objects: what is known without looking."""
    said = [set(score.evidence["mentions"]) for score in scores]
    shown = [set(data.objects[int(score.key)]) for score in scores]
    return recall(said, [*shown[1:], *shown[:1]])


def _language(vlm: VLM) -> dict[str, Any]:
    """Return how the language model reads and answers without a picture, where its base is known."""
    from vlm_evals.scenes.small.base import load_base
    from vlm_evals.scenes.small.itself import beside_base, is_chat_of_base

    tokenizer = vlm.processor.tokenizer
    if not is_chat_of_base(tokenizer):
        return {}
    itself = beside_base(vlm.model, tokenizer, load_base())
    return {"language": asdict(itself) | {"ratio": itself.ratio}}


def table(result: dict[str, Any]) -> str:
    """Return what was measured as a Markdown table, one column per model; percent."""
    models = result["models"]
    rows = [
        [label, *(_percent(model.get(key)) for model in models.values())]
        for key, label in CAPTION_ROWS.items()
        if any(key in model for model in models.values())
    ]
    splits = dict.fromkeys(split for model in models.values() for split in model.get("questions", {}))
    for figure, label in (("accuracy", "POPE accuracy"), ("yes_ratio", "POPE yes")):
        rows += [
            [f"{label}, {split}", *(_percent(model["questions"][split][figure]) for model in models.values())]
            for split in splits
        ]
    for key, label in (("perplexity", "perplexity of neutral prose"), ("ratio", "the same over the base's")):
        values = [model.get("language", {}).get(key) for model in models.values()]
        if any(value is not None for value in values):
            rows.append([label, *("" if value is None else f"{value:.2f}" for value in values)])
    head = [["", *models], ["---"] * (len(models) + 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in head + rows) + "\n"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
