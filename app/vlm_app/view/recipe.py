"""Everything that decides what a run says, as data: it makes the link, the Python and the command line of the run."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import parse_qsl, urlencode

import vlm_heads
from vlm_app.options import DEFAULT_MODEL, DEFAULT_SEED, SAMPLE
from vlm_heads import DEFAULT_PROMPT, Method, Mitigation, parse_mitigation
from vlm_heads.errors import BadOption, brief
from vlm_heads.methods import require_number

LONGEST_ANSWER = 512
LONGEST_PROMPT = 2000  # characters; every look inside runs over the whole prompt again
MOST_PARAMETERS = 100  # of a link
LONGEST_WORD = 10_000  # characters of a method in a link; a list of gains on every head is long
OWN_PICTURE = "photo.png"  # stands for a visitor's own picture where its name is not known
_OWN = ("picture", "own")  # in a link: there was a picture, and it is not in the link
_WHOLE = ("max_tokens", "seed")


@dataclass(frozen=True)
class Recipe:
    """What was asked of the model, and how.

    Attributes:
        image: `sample:NAME`, or the file name of a visitor's own image, which no link can carry; empty for none yet.
        prompt: what is asked, at most 2,000 characters.
        words: interventions as `--with` takes them.
        max_tokens: the longest answer, 1..512.
        temperature: of sampling; 0 is greedy.
        top_p: share of the probability that is sampled from, above 0 and at most 1.
        seed: set before each answer.
        hidden: left, top, width and height of a part of the picture that is hidden, as shares of its sides; empty for
            none.

    Raises:
        BadOption: if a number is out of its range, or the prompt is too long.
    """

    image: str = ""
    prompt: str = DEFAULT_PROMPT
    words: tuple[str, ...] = ("vhr",)
    max_tokens: int = 96
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = DEFAULT_SEED
    hidden: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.prompt) > LONGEST_PROMPT:
            raise BadOption(
                f"the prompt has {len(self.prompt):,} characters, and at most {LONGEST_PROMPT:,} are taken here; make "
                "it shorter"
            )
        require_number("max_tokens", self.max_tokens, at_least=1, at_most=LONGEST_ANSWER)
        require_number("temperature", self.temperature, at_least=0.0, at_most=5.0)
        require_number("top_p", self.top_p, at_least=0.01, at_most=1.0)
        require_number("seed", self.seed, at_least=0, at_most=2**32 - 1)
        if len(self.hidden) not in (0, 4):
            raise BadOption(f"hidden has {len(self.hidden)} numbers; left, top, width and height are needed")
        for number in self.hidden:
            require_number("hidden", number, at_least=0.0, at_most=1.0)
        for name in _WHOLE:
            value = getattr(self, name)
            if value != int(value):
                raise BadOption(f"{name}={value!r}: a whole number is needed")
            object.__setattr__(self, name, int(value))

    @property
    def mitigation(self) -> Mitigation:
        """What is done beside asking, made anew.

        Raises:
            BadOption: if a word cannot be read.
        """
        return parse_mitigation(self.words)

    @property
    def own_picture(self) -> bool:
        """Whether the picture is a visitor's own."""
        return bool(self.image) and not self.image.startswith(SAMPLE)

    def decoding(self) -> dict[str, Any]:
        """Return the arguments of `generate`."""
        arguments: dict[str, Any] = {"max_new_tokens": self.max_tokens}
        if self.temperature > 0.0:
            arguments |= {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        return arguments

    def differences(self, other: Recipe) -> tuple[str, ...]:
        """Return in words what another recipe asks for differently, a phrase each; nothing where they agree."""
        found = []
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            if mine == theirs:
                continue
            if one.name == "words":
                found.append(f"{' '.join(mine) or 'nothing'} is now {' '.join(theirs) or 'nothing'}")
            elif one.name == "hidden":
                found.append("another part of the picture is hidden" if theirs else "the whole picture is seen")
            elif one.name in ("image", "prompt"):
                found.append(f"another {'picture' if one.name == 'image' else one.name}")
            else:
                found.append(f"{one.name} {_written(mine)} is now {_written(theirs)}")
        return tuple(found)

    def query(self) -> str:
        """Return the query of a link that brings the page back to this state; what is as always is left out.

        Of a visitor's own picture it says only that there was one.
        """
        plain = Recipe()
        pairs: list[tuple[str, str]] = []
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "words":
                pairs += [("with", word) for word in value] or [("with", "")]
            elif one.name == "image" and self.own_picture:
                pairs.append(_OWN)
            elif one.name == "seed" or value != getattr(plain, one.name):
                pairs.append((one.name, _written(value)))
        return urlencode(pairs)

    @classmethod
    def from_query(cls, query: str, seed: int = DEFAULT_SEED) -> Recipe:
        """Return the recipe of a link.

        Args:
            query: of the link.
            seed: where it says none.

        Raises:
            BadOption: if the link holds a name or a value that cannot be read.
        """
        chosen: dict[str, Any] = {}
        words: list[str] = []
        readers = {one.name: _reader(one.name) for one in fields(cls) if one.name != "words"}
        for name, value in _pairs(query):
            if name == "with":
                if len(value) > LONGEST_WORD:
                    raise BadOption(
                        f"with={brief(value, str)} in the link has {len(value):,} characters; no method needs so many"
                    )
                words.append(value)
            elif (name, value) == _OWN:
                chosen["image"] = OWN_PICTURE
            elif name in readers:
                chosen[name] = _read(readers[name], name, value)
        if words:
            chosen["words"] = tuple(word for word in words if word)
        recipe = cls(**{"seed": seed} | chosen)
        parse_mitigation(recipe.words)  # a link with a word that cannot be read is refused as a whole
        return recipe

    def command(self, model: str = DEFAULT_MODEL) -> str:
        """Return the command line that gives both answers of this run."""
        note = (
            "# a part of the picture is hidden, which the Python does and this line does not\n" if self.hidden else ""
        )
        pieces = ["vlm-heads", "describe", self.image or "IMAGE", "--prompt", self.prompt]
        pieces += ["--compare"] if self.words else []
        if model != DEFAULT_MODEL:
            pieces += ["--model", model]
        for word in self.words:
            pieces += ["--with", word]
        pieces += ["--max-tokens", str(self.max_tokens), "--seed", str(self.seed)]
        if self.temperature > 0.0:
            pieces += ["--temperature", _written(self.temperature), "--top-p", _written(self.top_p)]
        return note + shlex.join(pieces)

    def python(self, model: str = DEFAULT_MODEL) -> str:
        """Return a program that prints both answers of this run."""
        imports = ["import torch", "import vlm_heads"]
        picture = repr(self.image or OWN_PICTURE)
        if self.image.startswith(SAMPLE):
            imports.append("from vlm_evals.scenes.samples import sample_path")
            picture = f"sample_path({self.image.removeprefix(SAMPLE)!r})"
        if self.hidden:
            imports += ["from vlm_app.view.hiding import hidden", "from vlm_heads.models import load_image"]
            picture = f"hidden(load_image({picture}), {self.hidden})"
        made = ", ".join(_constructor(one, imports) for one in self.mitigation.methods())
        arguments = "".join(f", {name}={value!r}" for name, value in self.decoding().items())
        return "\n".join(
            [
                *sorted(imports, key=lambda line: (not line.startswith("import"), line)),
                "",
                f"vlm = vlm_heads.VLM.from_pretrained({model!r})",
                f"image, prompt = {picture}, {self.prompt!r}",
                f"torch.manual_seed({self.seed})",
                f"plain = vlm.answer(image, prompt{arguments})",
                f"torch.manual_seed({self.seed})",
                f"mitigated = vlm.answer(image, prompt, [{made}]{arguments})",
                "print(plain.text)",
                "print(mitigated.text)",
                "",
            ]
        )


def _constructor(one: Method, imports: list[str]) -> str:
    """Return what makes a method, and add the import it needs."""
    kind = type(one)
    given = [(each.name, getattr(one, each.name), each.default) for each in kind.options()]
    changed = ", ".join(f"{name}={value!r}" for name, value, default in given if value != default)
    if kind.__name__ in vlm_heads.__all__:
        return f"vlm_heads.{kind.__name__}({changed})"
    imports.append(f"from {kind.__module__} import {kind.__name__}")
    return f"{kind.__name__}({changed})"


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_written, value))
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _pairs(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, keep_blank_values=True, max_num_fields=MOST_PARAMETERS)
    except ValueError:
        raise BadOption(f"the link has more than {MOST_PARAMETERS} parameters; a link of this page has fewer") from None


def _reader(name: str) -> Callable[[str], Any]:
    readers: dict[str, Callable[[str], Any]] = {"image": str, "prompt": str, "hidden": _numbers}
    return readers.get(name, int if name in _WHOLE else float)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(piece) for piece in text.split(",") if piece)


def _read(reader: Callable[[str], Any], name: str, value: str) -> Any:
    try:
        return reader(value)
    except ValueError:
        kind = "whole number" if reader is int else "number"
        raise BadOption(f"{name}={brief(value, str)} in the link is no {kind}; take it out of the link") from None
