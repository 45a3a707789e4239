"""Questions in the model's own turn format, and the tokens that answer them with yes and no."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from PIL import Image
from torch import nn

from vlm_heads.errors import BadOption, UnsupportedModel
from vlm_heads.families import Anatomy
from vlm_heads.models.prompts import model_inputs

_YES, _NO = ("Yes", "yes", "YES", " Yes", " yes"), ("No", "no", "NO", " No", " no")
_GREY = Image.new("RGB", (64, 64), "grey")  # stands in the picture's place; nothing looks at it


_KEPT = 4096  # questions of one processor; a model may name things without end
_WRITTEN: WeakKeyDictionary[Any, WeakKeyDictionary[nn.Module, dict[str, dict[str, Question]]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Question:
    """A question about a picture, as token ids.

    Attributes:
        text: as it is asked.
        before: ids before the first picture position.
        after: ids after the last one, up to where the answer begins.
    """

    text: str
    before: tuple[int, ...]
    after: tuple[int, ...]


class QuestionWriter:
    """Writes questions as the model's processor does, each text once.

    Attributes:
        picture_first: whether the picture comes before all of the question's own words, so that its keys serve every
            question.

    Args:
        model: that is asked.
        processor: its own.
        anatomy: of the model.
        template: with `{object}` where the object is named with its article, or `{name}` without one.

    Raises:
        BadOption: if the template names no object.
        UnsupportedModel: if the processor leaves no picture position in a question.
    """

    def __init__(self, model: nn.Module, processor: Any, anatomy: Anatomy, template: str) -> None:
        require_object(template)
        self._model, self._processor, self._template = model, processor, template
        self._picture = set(anatomy.vision_token_ids)
        self._written = _written_by(processor, model, template)
        probes = [self.write(name) for name in ("dog", "fire hydrant")]
        self.picture_first = probes[0].before == probes[1].before

    def text(self, name: str) -> str:
        """Return the question about an object."""
        return question_about(name, self._template)

    def write(self, name: str) -> Question:
        """Return the question about an object as token ids."""
        text = self.text(name)
        known = self._written.get(text)
        if known is None:
            ids = model_inputs(self._model, self._processor, [_GREY], [text])["input_ids"][0].tolist()
            seen = [place for place, one in enumerate(ids) if one in self._picture]
            if not seen:
                raise UnsupportedModel("the processor leaves no picture position in a question, so it cannot be asked")
            if len(self._written) >= _KEPT:
                self._written.clear()
            known = self._written[text] = Question(text, tuple(ids[: seen[0]]), tuple(ids[seen[-1] + 1 :]))
        return known


def _written_by(processor: Any, model: nn.Module, template: str) -> dict[str, Question]:
    """Return the questions that a processor has written for a model; they are kept as long as both live.

    A writer is made at every answer. What a processor writes depends on its chat template and its tokens, so another
    template or a further token begins anew.
    """
    tokenizer: Any = getattr(processor, "tokenizer", None)
    templates = (getattr(processor, "chat_template", None), getattr(tokenizer, "chat_template", None))
    form = repr((template, templates, len(tokenizer) if hasattr(tokenizer, "__len__") else None))
    try:
        by_form = _WRITTEN.setdefault(processor, WeakKeyDictionary()).setdefault(model, {})
    except TypeError:  # a processor that cannot be a key
        return {}
    return by_form.setdefault(form, {})


def require_object(template: str) -> None:
    """Raise `BadOption` where a template of questions names no object."""
    if "{object}" not in template and "{name}" not in template:
        raise BadOption(
            f"question={template!r} names no object: put {{object}} where the object stands with its article, or "
            "{name} where it stands without one"
        )


def question_about(name: str, template: str) -> str:
    """Return the question about an object; see `QuestionWriter`."""
    return template.replace("{object}", with_article(name)).replace("{name}", name)


def with_article(name: str) -> str:
    """Return a noun with `a` or `an`; before a, e, i, o and u it is `an`, as in POPE's questions."""
    return f"an {name}" if name[:1].lower() in tuple("aeiou") else f"a {name}"


@dataclass(frozen=True)
class YesNo:
    """The ids of the tokens that say yes and no, with and without a capital or a space before."""

    yes: tuple[int, ...]
    no: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> YesNo:
        """Return those that a tokenizer has.

        Raises:
            UnsupportedModel: if it has no token for one of the words.
        """
        return cls(_tokens(tokenizer, _YES), _tokens(tokenizer, _NO))


def _tokens(tokenizer: Any, words: Sequence[str]) -> tuple[int, ...]:
    unknown = getattr(tokenizer, "unk_token_id", None)
    written = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    found = sorted({ids[0] for ids in written if len(ids) == 1 and ids[0] != unknown})
    if not found:
        raise UnsupportedModel(
            f"the tokenizer has no token for {words[0]!r}, so the model's own yes and no cannot be compared; "
            "askback:by=confidence asks nothing"
        )
    return tuple(found)
