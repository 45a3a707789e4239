"""Mitigation: everything that is done to a model beside asking it, in one object to attach, write down and share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from huggingface_hub import HfApi

from vlm_heads.checks.base import Check
from vlm_heads.contrasts.base import Contrast
from vlm_heads.errors import BadOption
from vlm_heads.interventions.base import Intervention
from vlm_heads.lenses.base import Lens
from vlm_heads.methods import parse_method
from vlm_heads.names import words_in
from vlm_heads.pipelines.base import Pipeline
from vlm_heads.profile import CONFIG_NAME, WEIGHTS_NAME, HeadProfile
from vlm_heads.stored import pushed, stored_folder, write_whole
from vlm_heads.toolkit.method import Method

if TYPE_CHECKING:
    from vlm_heads.checks.ask_back import AskBack

MITIGATION_NAME = "mitigation.json"
Only = TypeVar("Only")


@dataclass(frozen=True)
class Mitigation:
    """Interventions, lenses, at most one contrast, check and pipeline, and the head profile read; each may be missing.

    Attributes:
        interventions: act inside the first stream alone.
        contrast: a second stream, or None.
        profile: head scores or gains that the interventions read, or None.
        check: reads the model's words before they are said, or None.
        lenses: weigh the first stream's token logits, in this order, before the contrast does.
        pipeline: lets the model answer first and asks it otherwise, or None.
    """

    interventions: tuple[Intervention, ...] = ()
    contrast: Contrast | None = None
    profile: HeadProfile | None = None
    check: Check | None = None
    pipeline: Pipeline | None = None
    lenses: tuple[Lens, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.methods())

    @classmethod
    def of(
        cls,
        *what: Mitigated | Sequence[Mitigated],
        contrast: Contrast | None = None,
        profile: HeadProfile | None = None,
    ) -> Self:
        """Return one mitigation of methods, words, other mitigations, and lists of them.

        Args:
            what: a word may name several methods, separated by spaces; see `parse`.
            contrast: beside what the others hold.
            profile: in place of what the others hold.

        Raises:
            BadOption: if one of them is none of these, a word cannot be read, or there are two contrasts, checks,
                pipelines or profiles.
        """
        if profile is not None and not isinstance(profile, HeadProfile):
            raise BadOption(f"profile={profile!r} is no head profile; give HeadProfile.from_pretrained(folder)")
        parts: list[Mitigation] = [cls((), contrast, profile), *(_one(each) for each in _flat(what))]
        interventions = tuple(one for part in parts for one in part.interventions)
        lenses = tuple(one for part in parts for one in part.lenses)
        contrasts = [part.contrast for part in parts if part.contrast is not None]
        if len(contrasts) > 1:
            raise BadOption(f"{contrasts[0].name} and {contrasts[1].name} are both second streams: name one of them")
        checks = [part.check for part in parts if part.check is not None]
        if len(checks) > 1:
            raise BadOption(f"{checks[0].name} and {checks[1].name} both check what is said: name one of them")
        pipelines = [part.pipeline for part in parts if part.pipeline is not None]
        if len(pipelines) > 1:
            raise BadOption(
                f"{pipelines[0].name} and {pipelines[1].name} both answer in a way of their own: name one of them"
            )
        profiles = {id(part.profile): part.profile for part in parts if part.profile is not None}
        if profile is None and len(profiles) > 1:
            raise BadOption("two mitigations bring a head profile each: give the one that is meant as profile=...")
        chosen = profile if profile is not None else next(iter(profiles.values()), None)
        return cls(interventions, _only(contrasts), chosen, _only(checks), pipeline=_only(pipelines), lenses=lenses)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the mitigation that words separated by spaces describe; the inverse of `word`.

        A value with a space or a comma stands in double quotes: `icd:instruction="Look away."`.

        Raises:
            BadOption: if a name or an option is unknown, a value is out of its range, or there are two contrasts,
                checks or pipelines.
        """
        return cls.of([parse_method(word) for word in words_in(text)])

    def methods(self) -> tuple[Method, ...]:
        """Return the interventions, the lenses, the contrast after them, the check, and the pipeline last."""
        beside = (self.contrast, self.check, self.pipeline)
        return (*self.interventions, *self.lenses, *(one for one in beside if one is not None))

    @property
    def batched(self) -> bool:
        """Whether it takes several prompts in one `generate()`."""
        return self.pipeline is None or self.pipeline.batched

    @property
    def streamed(self) -> bool:
        """Whether words of an answer can be shown before its end."""
        return self.pipeline is None or self.pipeline.streamed

    def check_of_saved(self) -> AskBack:
        """Return the check that saved captions are asked back with.

        Raises:
            BadOption: if there is none, or beside it one that acts on what is still to be said and would be ignored.
        """
        from vlm_heads.checks.ask_back import AskBack

        only = "captions are checked by askback, beside interventions alone"
        if not isinstance(self.check, AskBack):
            raise BadOption(f"{self.word() or 'nothing'}: {only}")
        for one in (*self.lenses, self.contrast, self.pipeline):
            if one is not None:
                raise BadOption(f"{one.name} acts on words still to be said; saved {only}: leave {one.name} out")
        return self.check

    def weighing(self) -> tuple[Lens, ...]:
        """Return everything that weighs the first stream's token logits: lenses, and interventions that are one too."""
        also = (one for one in self.interventions if isinstance(one, Lens))
        return tuple(one for one in (*also, *self.lenses) if one.weighs)

    def words(self) -> tuple[str, ...]:
        """Return a word for each method, as `--with` takes them."""
        return tuple(one.word() for one in self.methods())

    def word(self) -> str:
        """Return all methods in one text, separated by spaces; `parse` reads it back. The profile is not in it."""
        return " ".join(self.words())

    def stated(self) -> dict[str, Any]:
        """Return everything about the methods that decides the answers, as JSON values."""
        stated: dict[str, Any] = {
            "interventions": [one.stated() for one in self.interventions],
            "contrast": None if self.contrast is None else self.contrast.stated(),
        }
        stated |= {"lenses": [one.stated() for one in self.lenses]} if self.lenses else {}
        beside = {"check": self.check, "pipeline": self.pipeline}
        return stated | {name: one.stated() for name, one in beside.items() if one is not None}

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the mitigation and its profile into a folder, made where missing. Each file is whole or not there."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        if self.profile is not None:
            self.profile.save_pretrained(target)
        described = {"format": 1, "methods": list(self.words()), "profile": self.profile is not None}
        write_whole(target / MITIGATION_NAME, (json.dumps(described, indent=2) + "\n").encode())

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], *, revision: str | None = None) -> Self:
        """Return the mitigation in a folder, or in a repository `owner/name` of the Hugging Face hub.

        Raises:
            BadOption: if there is none, or it is damaged, or names a method that is not known here.
            BadProfile: if its profile is missing or damaged.
        """
        try:
            source = stored_folder(folder, revision, [MITIGATION_NAME, WEIGHTS_NAME, CONFIG_NAME])
            described = json.loads((source / MITIGATION_NAME).read_text(encoding="utf-8"))
        except FileNotFoundError as missing:
            raise BadOption(f"{folder} holds no mitigation: {missing.filename or missing} is missing") from missing
        except (ValueError, OSError, RecursionError) as damage:
            raise BadOption(f"the mitigation in {folder} is damaged: {damage}") from damage
        methods = described.get("methods") if isinstance(described, dict) else None
        if not isinstance(methods, list) or not all(isinstance(word, str) for word in methods):
            raise BadOption(f"the mitigation in {folder} is damaged: it names no methods")
        profile = HeadProfile.from_pretrained(source) if described.get("profile") else None
        return cls.of([parse_method(word) for word in methods], profile=profile)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, api: HfApi | None = None) -> str:
        """Write the mitigation into a repository of the hub, made where missing; return its address.

        Args:
            repo_id: `owner/name`.
            private: of a repository that is made here.
            api: with an endpoint or token of its own; by default the one that `huggingface_hub` is set up with.
        """
        return pushed(repo_id, self.save_pretrained, "Add a mitigation", private=private, api=api)


Mitigated = Method | Mitigation | str


def parse_mitigation(words: Iterable[str]) -> Mitigation:
    """Return what words of the form `name` or `name:option=value,option=value` describe, one method a word.

    Raises:
        BadOption: if a name or an option is unknown, a value is out of its range, or there are two contrasts or checks.
    """
    return Mitigation.parse(words) if isinstance(words, str) else Mitigation.of([parse_method(word) for word in words])


def _only(some: Sequence[Only]) -> Only | None:
    return some[0] if some else None


def _flat(what: Iterable[Any]) -> Iterable[Any]:
    for one in what:
        if isinstance(one, Sequence) and not isinstance(one, str):
            yield from _flat(one)
        else:
            yield one


def _one(given: Any) -> Mitigation:
    if isinstance(given, Mitigation):
        return given
    if isinstance(given, str):
        return Mitigation.parse(given)
    if isinstance(given, Contrast):
        return Mitigation(contrast=given)
    if isinstance(given, Check):
        return Mitigation(check=given)
    if isinstance(given, Pipeline):
        return Mitigation(pipeline=given)
    if isinstance(given, Intervention):
        return Mitigation((given,))
    if isinstance(given, Lens):
        return Mitigation(lenses=(given,))
    raise BadOption(f"{given!r} is no intervention; give instances, as in attach(model, [HeadReinforcement()])")
