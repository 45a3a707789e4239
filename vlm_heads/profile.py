"""HeadProfile: scores and static gains per layer and head, saved as safetensors and a JSON card."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as render_safetensors
from torch import Tensor

from vlm_heads.errors import BadProfile
from vlm_heads.families import Anatomy
from vlm_heads.stored import pushed, stored_folder, write_whole

WEIGHTS_NAME = "head_profile.safetensors"
CONFIG_NAME = "head_profile.json"


@dataclass(frozen=True, eq=False)
class HeadProfile:
    """A score of every head, averaged over samples; with gains it is a reinforced profile.

    A reinforced profile gives every head one gain for all images. That is not VHR, which chooses its heads for each
    image anew, and it is measured on its own.

    Attributes:
        scores: float32 `[L, Hq]`, VHD where `card` names no other scorer, not normalised and not filtered. Layers
            without self-attention are 0.
        surges: float32 `[L, Hq]`, mean norm of each head's output without the image, for the outlier filter.
        samples: how many samples it is the mean of.
        model_type: the family it was taken from.
        notes: anything worth keeping beside it, JSON-serialisable.
        gains: float32 `[L, Hq]`, what each head's output is multiplied by, at least 0; 1 leaves it, None is no gains.
        card: where the scores come from, JSON-serialisable: `scorer`, its word, and `unit`; and where the gains come
            from: `model`, `revision`, `weights`, `data`, `protocols`, `setting`, `measured`, `benefit`, which are
            missing where nobody measured them.
    """

    scores: Tensor
    surges: Tensor | None = None
    samples: int = 0
    model_type: str = ""
    notes: dict[str, Any] = field(default_factory=dict)
    gains: Tensor | None = None
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scores.dim() != 2 or not self.scores.is_floating_point():
            raise BadProfile(f"scores must be floating point [layers, heads], not {_described(self.scores)}")
        object.__setattr__(self, "scores", self.scores.detach().float().cpu().contiguous())
        if not bool(torch.isfinite(self.scores).all()):
            raise BadProfile("scores must be finite")
        for name in ("surges", "gains"):
            table: Tensor | None = getattr(self, name)
            if table is None:
                continue
            if table.shape != self.scores.shape:
                raise BadProfile(f"{name} must have the shape of the scores, not {_described(table)}")
            object.__setattr__(self, name, table.detach().float().cpu().contiguous())
        if self.gains is not None and not bool((torch.isfinite(self.gains) & (self.gains >= 0)).all()):
            raise BadProfile("gains must be finite and at least 0")

    def __repr__(self) -> str:
        layers, heads = self.scores.shape
        what = "scores" if self.gains is None else f"gains on {int((self.gains != 1).sum())} heads"
        origin = f" of {self.model_type}" if self.model_type else ""
        return f"<HeadProfile{origin}: {what}, {layers} layers of {heads} heads, {self.samples} samples>"

    def _repr_html_(self) -> str:
        """Return a map for notebooks: a row a layer, a cell a head, darker for a higher score or a larger change."""
        table = self.scores if self.gains is None else (self.gains - 1).abs()
        shares = (table / table.amax().clamp(min=1e-12)).tolist()
        values = (self.scores if self.gains is None else self.gains).tolist()
        rows = [
            f"<tr><th>{layer}</th>"
            + "".join(
                f'<td title="layer {layer}, head {head}: {value:.3g}" '
                f'style="background:rgba(17,119,110,{share:.2f});min-width:1em">&nbsp;</td>'
                for head, (share, value) in enumerate(zip(*cells, strict=True))
            )
            + "</tr>"
            for layer, cells in enumerate(zip(shares, values, strict=True))
        ]
        return f"<table><caption>{html.escape(repr(self))}</caption>{''.join(rows)}</table>"

    def top(self, count: int) -> list[tuple[int, int, float]]:
        """Return the `count` highest (layer, head, score), highest first."""
        heads = self.scores.shape[1]
        best = self.scores.flatten().topk(min(count, self.scores.numel()))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(index // heads, index % heads, score) for index, score in pairs]

    def check(self, anatomy: Anatomy) -> None:
        """Raise `BadProfile` unless the profile is of this family and fits this model's layers and heads."""
        if self.model_type and self.model_type != anatomy.model_type:
            raise BadProfile(
                f"the profile was taken from a {self.model_type} and the model is a {anatomy.model_type}; score this "
                "model's heads first"
            )
        expected = (anatomy.depth, anatomy.heads)
        if tuple(self.scores.shape) != expected:
            raise BadProfile(
                f"the profile has {self.scores.shape[0]} layers of {self.scores.shape[1]} heads, the model "
                f"({anatomy.model_type}) has {expected[0]} of {expected[1]}; score this model's heads first"
            )
        changed = [] if self.gains is None else (self.gains != 1).any(dim=1).nonzero()[:, 0].tolist()
        if without := [layer for layer in changed if layer not in anatomy.attentions]:
            raise BadProfile(f"the profile has gains on layer {without[0]}, which has no self-attention in this model")

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the profile into a folder, made where missing. Each file is complete or not there at all."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        tables = {"scores": self.scores, "surges": self.surges, "gains": self.gains}
        tensors = {name: table for name, table in tables.items() if table is not None}
        layers, heads = self.scores.shape
        described = {
            "format": 1,
            "layers": layers,
            "heads": heads,
            "samples": self.samples,
            "model_type": self.model_type,
            "notes": self.notes,
            "card": self.card,
        }
        write_whole(target / WEIGHTS_NAME, render_safetensors(tensors))
        write_whole(target / CONFIG_NAME, (json.dumps(described, indent=2, sort_keys=True) + "\n").encode())

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], *, revision: str | None = None) -> HeadProfile:
        """Return the profile in a folder, or in a repository `owner/name` of the Hugging Face hub.

        Args:
            folder: a folder; where there is none, a word of the form `owner/name` is looked up on the hub.
            revision: of the repository.

        Raises:
            BadProfile: if there is none, or a file is missing or damaged.
        """
        try:
            source = stored_folder(folder, revision, [WEIGHTS_NAME, CONFIG_NAME])
            tensors = parse_safetensors((source / WEIGHTS_NAME).read_bytes())
            described = json.loads((source / CONFIG_NAME).read_text(encoding="utf-8"))
        except FileNotFoundError as missing:
            raise BadProfile(f"{folder} holds no head profile: {missing.filename or missing} is missing") from missing
        except (SafetensorError, ValueError, OSError, RecursionError) as damage:
            raise BadProfile(f"the head profile in {folder} is damaged: {damage}") from damage
        if not isinstance(described, dict) or "scores" not in tensors:
            raise BadProfile(f"the head profile in {folder} is damaged: it holds no scores")
        kinds = {"samples": (int, 0), "model_type": (str, ""), "notes": (dict, {}), "card": (dict, {})}
        stated = {name: described.get(name, default) for name, (_, default) in kinds.items()}
        for name, value in stated.items():
            if not isinstance(value, kinds[name][0]):
                raise BadProfile(f"the head profile in {folder} is damaged: `{name}` cannot be {value!r:.80}")
        return cls(scores=tensors["scores"], surges=tensors.get("surges"), gains=tensors.get("gains"), **stated)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, api: HfApi | None = None) -> str:
        """Write the profile and its card into a repository of the hub, made where missing; return its address.

        Args:
            repo_id: `owner/name`.
            private: of a repository that is made here.
            api: with an endpoint or token of its own; by default the one that `huggingface_hub` is set up with.
        """

        def write(folder: Path) -> None:
            self.save_pretrained(folder)
            (folder / "README.md").write_text(profile_card(self.card, self.gains), encoding="utf-8")

        return pushed(repo_id, write, "Add a head profile", private=private, api=api)


def _described(value: Tensor) -> str:
    return f"{value.dtype} {list(value.shape)}"


def profile_card(card: Mapping[str, Any], gains: Tensor | None) -> str:
    """Return Markdown about a profile.

    Args:
        card: see `HeadProfile`.
        gains: float32 `[L, Hq]`, or None for scores alone.
    """
    if gains is None:
        scorer = card.get("scorer", "vhd")
        what = "how much it looks at the image (VHD)" if scorer == "vhd" else f"by the scorer `{scorer}`"
        return f"# Head profile\n\nA score of every attention head, {what}, for vlm-heads.\n"
    changed = int((gains != 1).sum())
    lines = [
        "# Reinforced profile",
        "",
        f"Static gains on {changed} of {gains.numel()} attention heads, {_span(gains)}, the same for every image; made "
        "with vlm-heads. It is not VHR, which chooses its heads for each image anew, and has to be judged by its own "
        "figures.",
        "",
        *(f"- {name}: {value}" for name, value in _origin(card)),
        "",
        *_measured(card),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _span(gains: Tensor) -> str:
    return f"from {float(gains.min()):g} to {float(gains.max()):g}"


def _origin(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [("model", card.get("model")), ("revision", card.get("revision")), ("weights", card.get("weights"))]
    found += [("setting", _setting(card.get("setting"))), ("data", _files(card.get("data")))]
    found += [(f"protocol, {name}", value) for name, value in dict(card.get("protocols", {})).items()]
    return [(name, str(value)) for name, value in found if value]


def _setting(setting: Mapping[str, Any] | None) -> str | None:
    return None if setting is None else ", ".join(f"{name} {value}" for name, value in setting.items())


def _files(data: Mapping[str, str] | None) -> str | None:
    return None if data is None else ", ".join(f"{name} (SHA-256 {value})" for name, value in data.items())


def _measured(card: Mapping[str, Any]) -> list[str]:
    """Return the verdict and the measured table; a sentence where there are none."""
    rows: Sequence[Mapping[str, Any]] = card.get("measured", ())
    if not rows:
        return ["Nothing was measured with these gains."]
    benefit = (
        "A benefit was shown on data that nothing was chosen on."
        if card.get("benefit")
        else "**No benefit was shown.** The profile was written all the same, because that was asked for."
    )
    table = ["| metric | plain | reinforced | difference, 95 % interval |", "|---|---|---|---|"]
    for row in rows:
        spread = _interval(row["difference"], row["low"], row["high"])
        table.append(f"| {row['metric']} | {_figure(row['plain'])} | {_figure(row['reinforced'])} | {spread} |")
    return [benefit, "", *table]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    return "–" if value is None or low is None or high is None else f"{value:+.3f} [{low:.3f}, {high:.3f}]"
