"""`small` in training: a frozen tower, a projector, and the base under adapters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, LlavaProcessor, PreTrainedModel

from vlm_evals.scenes.batches import draw_scene, normalise
from vlm_evals.scenes.catalog import CATEGORIES, SCENES
from vlm_evals.scenes.tokens import PATCH
from vlm_evals.scenes.train import TOWER_WORLDS
from vlm_evals.scenes.world import patch_classes

from .adapters import add_adapters, without_adapters
from .base import Base
from .chat import build_processor, encode
from .model import new_projector, small_config
from .own_texts import divergence
from .recipe import FITTING_RATE, SmallRecipe
from .row_attention import NAME as ROW_ATTENTION
from .row_attention import row_attention
from .rows import Batch

FITTING_BATCH = 48  # pictures


@dataclass(frozen=True)
class Learner:
    """The model in training, in its parts.

    Attributes:
        tower: frozen vision tower.
        projector: from its features to the language model's width.
        base: the language model with adapters, and its tokenizer.
        processor: the model's own.
        factors: the adapters' parameters by name.
    """

    tower: PreTrainedModel
    projector: nn.Module
    base: Base
    processor: LlavaProcessor
    factors: dict[str, nn.Parameter]

    @property
    def device(self) -> torch.device:
        """Where it trains."""
        device: torch.device = self.base.model.lm_head.weight.device
        return device

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return everything that is trained, by name."""
        projector = {f"projector.{name}": value for name, value in self.projector.named_parameters()}
        return projector | {f"adapters.{name}": value for name, value in self.factors.items()}

    def features(self, pixels: Tensor) -> Tensor:
        """Return the tower's patch features as LLaVA uses them, [B, patches, width]."""
        with torch.no_grad():
            features: Tensor = self.tower(pixels.to(self.device)).last_hidden_state
        return features[:, 1:]

    def losses(self, batch: Batch, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Return (loss of the answers, distance to the base without a picture).

        The first is the weighted mean cross-entropy of the answers' tokens. The second is the mean KL divergence from
        the base's next-token probabilities.

        Args:
            batch: pictures and what is said about them.
            texts: int64 [K, T] of the base's own.
        """
        ids, labels = batch.ids.to(self.device), batch.labels.to(self.device)
        image = self.projector(self.features(batch.pixels)).flatten(0, 1)
        words = self.base.model.get_input_embeddings()(ids)
        embeddings = words.masked_scatter((ids == self.processor.image_token_id)[:, None], image)
        plain = self.base.model.get_input_embeddings()(texts.flatten().to(self.device))
        counted = torch.arange(texts.shape[1]).repeat(len(texts))
        rows = ((texts.shape[1],),) * len(texts)  # a text is a prefix without slots
        hidden = self._states(
            torch.cat([embeddings, plain]), torch.cat([batch.positions, counted]), (*batch.layout, *rows)
        )
        with torch.no_grad(), without_adapters(self.base.model.model):
            base_hidden = self._states(plain, counted, rows)
        answered = labels >= 0
        each = F.cross_entropy(
            self.base.model.lm_head(hidden[: len(ids)][answered]), labels[answered], reduction="none"
        )
        weights = batch.weights.to(self.device)[answered]
        return (each * weights).sum() / weights.sum(), divergence(self.base.model, hidden[len(ids) :], base_hidden)

    def _states(self, embeddings: Tensor, positions: Tensor, layout: tuple[tuple[int, ...], ...]) -> Tensor:
        """Return the last states [N, width] of rows that lie end to end."""
        states: Tensor = self.base.model.model(
            inputs_embeds=embeddings[None], attention_mask=None, position_ids=positions[None].to(self.device),
            use_cache=False, layout=layout,
        ).last_hidden_state[0]  # fmt: skip
        return states


def new_learner(recipe: SmallRecipe, base: Base, tower: PreTrainedModel, device: str = "cpu") -> Learner:
    """Return a model that has learnt nothing yet; `base` and `tower` are changed and belong to it from now on.

    The tower is rounded to the 16 bits that it will be shipped in.
    """
    AttentionInterface.register(ROW_ATTENTION, row_attention)
    base.model.set_attn_implementation(ROW_ATTENTION)
    base.model.requires_grad_(False)
    tower = tower.half().float().eval().requires_grad_(False)
    processor = build_processor(base.tokenizer)
    projector = new_projector(small_config(base.model.config, processor), recipe.seed)
    frozen = torch.bfloat16 if recipe.frozen == "bfloat16" else torch.float32
    base.model.to(device)
    factors = add_adapters(base.model.model, recipe.seed, frozen=frozen)
    return Learner(tower.to(device), projector.to(device), base, processor, factors)


def fit_projector(learner: Learner, recipe: SmallRecipe) -> float:
    """Fit the projector to the embeddings of the patches' words; return the last error relative to their square."""
    table = word_embeddings(learner)
    parameters = [*learner.projector.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=FITTING_RATE, weight_decay=0.01)
    error = torch.zeros(())
    for step in range(recipe.fitting):
        first = step * FITTING_BATCH
        scenes = [draw_scene(TOWER_WORLDS, recipe.seed + 700, first + i) for i in range(FITTING_BATCH)]
        shown = torch.stack([torch.from_numpy(patch_classes(scene, PATCH)) for scene in scenes])
        image = learner.projector(learner.features(normalise([scene.image for scene in scenes])))
        error = (image - table[shown.to(table.device)]).square().mean() / table.square().mean()
        for group in optimizer.param_groups:
            group["lr"] = FITTING_RATE * max(1 - step / recipe.fitting, 0.02)
        optimizer.zero_grad()
        torch.autograd.backward(error)
        optimizer.step()
    return error.item()


def word_embeddings(learner: Learner) -> Tensor:
    """Return the embedding of the word for each patch class (see `patch_classes`), the mean over its tokens."""
    names = [category.words[0][0] for category in CATEGORIES] + [kind.name for kind in SCENES]
    words = learner.base.model.get_input_embeddings().weight.detach()
    return torch.stack([words[encode(learner.base.tokenizer, f" {name}")].mean(0) for name in names])
