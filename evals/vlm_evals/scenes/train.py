"""Training of the embedded model, from nothing, on the embedded world.

Six stages. `words`: the language model reads pictures written as words (each image position holds the word of what
its patch shows). `tower`: the vision tower names its patches. `projector`: the projector turns tower features into
those words. `reading`, `joint`, `finish`: language model and projector learn from real pictures; the tower stays
frozen, so that vision stays the weak side. Every stage is a fixed number of rows of a seeded stream. So a seed gives
the same model on any machine and device, up to rounding: everything that is drawn is drawn on the CPU.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import AttentionInterface, LlavaForConditionalGeneration

from vlm_evals.records import write_whole

from .batches import Batch, Diet, build_batch, draw_scene, normalise, patch_words
from .catalog import CATEGORIES, SCENES
from .model import build_mini
from .slot_attention import NAME as SLOT_ATTENTION
from .slot_attention import slot_attention
from .text import CaptionNoise
from .tokens import PATCH, build_processor
from .world import Distribution, patch_classes

PLAIN, UNIFORM = Distribution(), Distribution(intruders=1.0)
EASY = Distribution(intruders=1.0, mean_objects=3.0, enlarge=1.2)
MIXED = Distribution(intruders=0.3)

WORDS_DIET = Diet(((0.6, PLAIN), (0.4, UNIFORM)), listing=True, questions=2, blind=0.25)
PICTURE_DIETS = {
    "reading": Diet(((0.3, EASY), (0.5, UNIFORM), (0.2, PLAIN)), caption=False, listing=True, questions=4),
    "joint": Diet(((0.85, PLAIN), (0.15, MIXED)), listing=True, questions=3, blind=0.1),
    "finish": Diet(((0.9, PLAIN), (0.1, MIXED)), questions=3, blind=0.1, noise=CaptionNoise(invent=0.25)),
}
TOWER_WORLDS = ((0.4, PLAIN), (0.6, UNIFORM))

Report = Callable[[str, int, int, dict[str, float]], None]


@dataclass(frozen=True)
class TrainingRecipe:
    """How much of each stage, in rows (`tower`: pictures), and the step size of the optimiser.

    Attributes:
        words, tower, projector, reading, joint, finish: rows of the stages.
        batch: rows per step.
        word_noise: in `words`, share of patches that show a wrong word.
    """

    words: int = 8_000
    tower: int = 60_000
    projector: int = 9_600
    reading: int = 5_000
    joint: int = 18_000
    finish: int = 16_000
    batch: int = 24
    peak: float = 2e-3
    word_noise: float = 0.08


def optimiser(parameters: list[nn.Parameter], peak: float) -> torch.optim.AdamW:
    """Return AdamW as every stage uses it; vectors (norms, biases) are not decayed."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in parameters:
        (matrices if parameter.ndim > 1 else vectors).append(parameter)
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), eps=1e-8)


def _set_rate(optimizer: torch.optim.AdamW, peak: float, done: float) -> None:
    """Warm up over the first 4 %, then decay linearly to 2 % of the peak."""
    rate = peak * min(done / 0.04, 1.0) * max(1 - done, 0.02)
    for group in optimizer.param_groups:
        group["lr"] = rate


def _run(
    name: str, steps: int, peak: float, parameters: list[nn.Parameter],
    loss_of: Callable[[int], dict[str, Tensor]], report: Report,
) -> None:  # fmt: skip
    """Take `steps` steps down the sum of the losses that `loss_of(step)` returns."""
    optimizer = optimiser(parameters, peak)
    for step in range(steps):
        _set_rate(optimizer, peak, (step + 1) / steps)
        losses = loss_of(step)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        report(name, step + 1, steps, {key: value.item() for key, value in losses.items()})


def _hidden(model: LlavaForConditionalGeneration, batch: Batch, image: Tensor) -> Tensor:
    """Return the language model's last hidden states [B, T, D] with `image` [B, N, D] at the image positions."""
    embeddings = model.get_input_embeddings()(batch.ids)
    embeddings = torch.cat([embeddings[:, :2], image, embeddings[:, 2 + image.shape[1] :]], dim=1)
    output = model.model.language_model(
        inputs_embeds=embeddings, attention_mask=None, position_ids=batch.positions, use_cache=False, batch=batch
    )
    hidden: Tensor = output.last_hidden_state
    return hidden


def _language_losses(
    model: LlavaForConditionalGeneration, batch: Batch, image: Tensor, naming: float
) -> dict[str, Tensor]:
    hidden = _hidden(model, batch, image)
    answered = batch.labels >= 0
    losses = {"text": F.cross_entropy(model.lm_head(hidden[answered]), batch.labels[answered])}
    if naming:
        names = patch_words().to(batch.patches.device)[batch.patches]
        token_logits = model.lm_head(hidden[:, 2 : 2 + image.shape[1]])
        losses["naming"] = naming * F.cross_entropy(token_logits.flatten(0, 1), names.flatten())
    return losses


def train_words(model: LlavaForConditionalGeneration, recipe: TrainingRecipe, seed: int, report: Report) -> None:
    """Stage `words`: train the language model on pictures written as words."""
    generator = torch.Generator().manual_seed(seed)
    table = patch_words()

    def losses(step: int) -> dict[str, Tensor]:
        batch = build_batch(WORDS_DIET, seed, step * recipe.batch, recipe.batch, with_pixels=False)
        wrong = torch.rand(batch.patches.shape, generator=generator) < recipe.word_noise
        shown = torch.where(wrong, torch.randint(len(table), batch.patches.shape, generator=generator), batch.patches)
        words = model.get_input_embeddings()(table[shown].to(model.device))
        noise = torch.randn(words.shape, generator=generator).to(model.device)
        blurred = words + 0.3 * words.detach().std() * noise
        return _language_losses(model, batch.to(model.device), blurred, naming=0.1)

    parameters = [*model.model.language_model.parameters()]
    _run("words", recipe.words // recipe.batch, recipe.peak, parameters, losses, report)


def _pictures(
    worlds: tuple[tuple[float, Distribution], ...], seed: int, first: int, size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    scenes = [draw_scene(worlds, seed, index) for index in range(first, first + size)]
    patches = torch.stack([torch.from_numpy(patch_classes(scene, PATCH)) for scene in scenes])
    return normalise([scene.image for scene in scenes]).to(device), patches.to(device)


def tower_features(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Return the tower's patch features as LLaVA uses them, [B, N, width], without the class token."""
    features: Tensor = model.model.vision_tower(pixels).last_hidden_state
    return features[:, 1:]


def train_tower(model: LlavaForConditionalGeneration, recipe: TrainingRecipe, seed: int, report: Report) -> None:
    """Stage `tower`: train the vision tower to name its patches through a linear head that is thrown away."""
    torch.manual_seed(seed + 1)
    head = nn.Linear(model.config.vision_config.hidden_size, len(CATEGORIES) + len(SCENES)).to(model.device)
    size = 2 * recipe.batch
    weight = torch.cat([torch.ones(len(CATEGORIES)), torch.full((len(SCENES),), 0.3)]).to(model.device)

    def losses(step: int) -> dict[str, Tensor]:
        pixels, patches = _pictures(TOWER_WORLDS, seed + 100, step * size, size, model.device)
        token_logits = head(tower_features(model, pixels)).flatten(0, 1)
        target = patches.flatten()
        foreground = target < len(CATEGORIES)
        hit = (token_logits.detach().argmax(1) == target)[foreground].float().mean()
        return {"patches": F.cross_entropy(token_logits, target, weight=weight), "right": 0 * hit + hit.detach()}

    parameters = [p for n, p in model.model.vision_tower.named_parameters() if "post_layernorm" not in n]
    _run("tower", recipe.tower // size, recipe.peak, [*parameters, *head.parameters()], losses, report)


def train_projector(model: LlavaForConditionalGeneration, recipe: TrainingRecipe, seed: int, report: Report) -> None:
    """Stage `projector`: train the projector to turn tower features into the embeddings of the patches' words."""
    table = model.get_input_embeddings().weight.detach()[patch_words()]
    size = 2 * recipe.batch

    def losses(step: int) -> dict[str, Tensor]:
        pixels, patches = _pictures(TOWER_WORLDS, seed + 200, step * size, size, model.device)
        with torch.no_grad():
            features = tower_features(model, pixels)
        image, words = model.model.multi_modal_projector(features), table[patches]
        return {"distance": (image - words).square().mean() / table.square().mean()}

    parameters = [*model.model.multi_modal_projector.parameters()]
    _run("projector", recipe.projector // size, 2.5 * recipe.peak, parameters, losses, report)


def _train_with_pictures(
    name: str, rows: int, seed: int, peak: float, naming: float,
    model: LlavaForConditionalGeneration, recipe: TrainingRecipe, report: Report,
) -> None:  # fmt: skip
    """Train language model and projector on real pictures; `naming` weighs that image positions name their patches."""
    diet = PICTURE_DIETS[name]

    def losses(step: int) -> dict[str, Tensor]:
        batch = build_batch(diet, seed, step * recipe.batch, recipe.batch).to(model.device)
        with torch.no_grad():
            features = tower_features(model, batch.pixels)
        return _language_losses(model, batch, model.model.multi_modal_projector(features), naming)

    parameters = [*model.model.language_model.parameters(), *model.model.multi_modal_projector.parameters()]
    _run(name, rows // recipe.batch, peak, parameters, losses, report)


def train_reading(model: LlavaForConditionalGeneration, recipe: TrainingRecipe, seed: int, report: Report) -> None:
    """Stage `reading`: lists and questions, mostly on uniform and easy scenes."""
    _train_with_pictures("reading", recipe.reading, seed + 300, recipe.peak, 0.4, model, recipe, report)


def train_joint(model: LlavaForConditionalGeneration, recipe: TrainingRecipe, seed: int, report: Report) -> None:
    """Stage `joint`: captions, lists and questions in distribution."""
    _train_with_pictures("joint", recipe.joint, seed + 400, recipe.peak, 0.05, model, recipe, report)


def train_finish(model: LlavaForConditionalGeneration, recipe: TrainingRecipe, seed: int, report: Report) -> None:
    """Stage `finish`: captions, as unfaithful as instruction data, and questions, at a lower rate."""
    _train_with_pictures("finish", recipe.finish, seed + 500, 0.6 * recipe.peak, 0.02, model, recipe, report)


STAGES: dict[str, Callable[[LlavaForConditionalGeneration, TrainingRecipe, int, Report], None]] = {
    "words": train_words,
    "tower": train_tower,
    "projector": train_projector,
    "reading": train_reading,
    "joint": train_joint,
    "finish": train_finish,
}


def _load_stages(model: LlavaForConditionalGeneration, out: Path, names: tuple[str, ...]) -> None:
    """Load what the named stages trained, in order; a stage's file holds only the parameters it changed."""
    for name in names:
        model.load_state_dict(load_file(out / f"stage-{name}.safetensors"), strict=False)


def train_stage(
    name: str, after: tuple[str, ...], seed: int, recipe: TrainingRecipe, out: Path, report: Report, device: str = "cpu"
) -> None:
    """Train one stage on top of those before it and keep what it changed; a stage whose file is there is not rerun."""
    path = out / f"stage-{name}.safetensors"
    if path.exists():
        return
    torch.set_num_threads(1)
    AttentionInterface.register(SLOT_ATTENTION, slot_attention)
    model = build_mini(seed)
    model.set_attn_implementation({"text_config": SLOT_ATTENTION})
    _load_stages(model, out, after)
    model.to(device)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    started = time.perf_counter()
    STAGES[name](model, recipe, seed, report)
    changed = {key: value for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    changed.pop("lm_head.weight", None)  # tied to the embeddings
    write_whole(path, save({key: value.cpu().contiguous() for key, value in changed.items()}))
    seconds = time.perf_counter() - started
    write_whole(out / f"stage-{name}.json", json.dumps({"stage": name, "seconds": seconds}).encode())


def log_line(out: Path) -> Report:
    """Return a report that appends the mean of every fifty steps to `out/log.jsonl`."""
    sums: dict[str, float] = {}

    def report(stage: str, step: int, steps: int, losses: dict[str, float]) -> None:
        for key, value in losses.items():
            sums[key] = sums.get(key, 0.0) + value / 50
        if step % 50 == 0:
            line = {
                "stage": stage,
                "step": step,
                "steps": steps,
                **{key: round(value, 4) for key, value in sums.items()},
            }
            sums.clear()
            with (out / "log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")

    return report


def _stage_process(
    name: str, after: tuple[str, ...], seed: int, recipe: TrainingRecipe, out: Path, device: str
) -> None:
    train_stage(name, after, seed, recipe, out, log_line(out), device)


def _train_side_by_side(
    names: tuple[str, ...], after: tuple[str, ...], seed: int, recipe: TrainingRecipe, out: Path, device: str
) -> None:
    """Train stages that do not depend on each other, each in a process of its own with one thread.

    glibc returns the large blocks of a step to the system and gets them back page by page at the next step. When it
    keeps them, a step takes a quarter less time. It reads this setting when a process starts, so each stage gets a
    process.
    """
    os.environ.update(MALLOC_MMAP_THRESHOLD_="4000000000", MALLOC_TRIM_THRESHOLD_="40000000000", OMP_NUM_THREADS="1")
    spawn = multiprocessing.get_context("spawn")
    running = [spawn.Process(target=_stage_process, args=(name, after, seed, recipe, out, device)) for name in names]
    for process in running:
        process.start()
    for process in running:
        process.join()
    failed = [name for name, process in zip(names, running, strict=True) if process.exitcode]
    if failed:
        raise RuntimeError(f"training stopped in stage {', '.join(failed)}; the message is above")


def train_mini(seed: int, out: Path, recipe: TrainingRecipe | None = None, device: str = "cpu") -> Path:
    """Train one embedded model into `out/model`, a folder that `from_pretrained` loads; started again, it goes on.

    Args:
        seed: of the scenes and the first weights.
        out: holds the recipe, the log, the stages and the model.
        recipe: how much of each stage.
        device: where to train.

    Raises:
        RuntimeError: if a stage did not finish.
    """
    recipe = recipe or TrainingRecipe()
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "recipe.json", json.dumps({"seed": seed, **asdict(recipe)}, indent=2).encode())
    done: tuple[str, ...] = ()
    for names in (("words", "tower"), ("projector",), ("reading",), ("joint",), ("finish",)):
        _train_side_by_side(names, done, seed, recipe, out, device)
        done += names
    model = build_mini(seed)
    _load_stages(model, out, done)
    model.save_pretrained(out / "model")
    build_processor().save_pretrained(out / "model")
    return out / "model"
