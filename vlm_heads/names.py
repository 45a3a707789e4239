"""The names of methods and models, read without importing torch: a slip of the hand is told in a moment."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from vlm_heads.errors import BadOption, UnknownModel, brief, suggest

METHODS = "vlm_heads.methods"  # entry points of packages that bring a method: a subclass of Intervention, Lens, …
KINDS = "intervention, lens, contrast, check or pipeline"  # what a word may name
SCORERS = "vlm_heads.scorers"  # entry points of packages that bring a scorer: a subclass of Scorer
MODELS = "vlm_heads.models"  # entry points of packages that bring a model: a function that returns an `Embedded`
PLANTED = ("planted", "planted-sinks")

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@cache
def written_methods(*folders: str) -> Mapping[str, tuple[str, ...]]:
    """Return what the package's folders hold in alphabetical order, each with its options, read from the files.

    Args:
        folders: by default those of methods.
    """
    here = Path(__file__).parent
    searched = folders or ("interventions", "steering", "lenses", "contrasts", "checks", "pipelines")
    files = [path for folder in searched for path in (here / folder).glob("*.py")]
    trees = [ast.parse(path.read_text("utf-8")) for path in files]
    classes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    options = {one.name: _options(one) for one in classes}
    found = {}
    for one in classes:
        if (name := _name(one)) is not None:
            inherited = [option for base in one.bases for option in options.get(ast.unparse(base), ())]
            found[name] = tuple(dict.fromkeys((*options[one.name], *inherited)))  # one may be stated anew
    return dict(sorted(found.items()))


def require_methods(words: Iterable[str]) -> None:
    """Refuse words of the form `name` or `name:option=value,…` that name no method or no option; no value is looked at.

    Raises:
        BadOption: for the first of them. Where another package brings methods, and may bring this one, nothing is said.
    """
    _require(words, written_methods(), METHODS, KINDS)


def require_scorers(words: Iterable[str]) -> None:
    """Refuse words that name no scorer or no option of one, as `require_methods` does.

    Raises:
        BadOption: for the first of them.
    """
    _require(words, written_methods("scorers"), SCORERS, "scorer")


def _require(words: Iterable[str], known: Mapping[str, tuple[str, ...]], group: str, wanted: str) -> None:
    if not known or entry_points(group=group):
        return
    for word in words:
        name, _, rest = word.partition(":")
        if name.strip() not in known:
            raise unknown_method(name.strip(), known, wanted)
        pieces = [] if '"' in rest else rest.split(",")
        for option in (piece.partition("=")[0].strip() for piece in pieces if piece.strip()):
            if option not in known[name.strip()]:
                raise unknown_option(name.strip(), option, known[name.strip()])


def words_in(text: str) -> list[str]:
    """Return the words of a text; a space between double quotes separates none."""
    return [word for word in split_outside_quotes(text, " \t\r\n\v\f") if word]


def split_outside_quotes(text: str, separators: str) -> Iterator[str]:
    """Yield the pieces of a text between separator characters; what stands in double quotes is never split."""
    start, quoted, escaped = 0, False, False
    for place, character in enumerate(text):
        if escaped:
            escaped = False
        elif quoted and character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif not quoted and character in separators:
            yield text[start:place]
            start = place + 1
    yield text[start:]


def unknown_option(method: str, name: str, known: Iterable[str]) -> BadOption:
    """Return what is raised for an option that a method has not."""
    listed = list(known)
    return BadOption(
        f"{method} has no option {brief(name)}{suggest(name, listed)}; it has {', '.join(listed) or 'none'}"
    )


def unknown_method(name: str, known: Iterable[str], wanted: str = KINDS, reason: str = "") -> BadOption:
    """Return what is raised for a method that is not known."""
    listed = list(known)
    return BadOption(f"no {wanted} {brief(name)}{suggest(name, listed)}; known: {', '.join(listed)}{reason}")


def model_names() -> tuple[str, ...]:
    """Return the words for embedded models: those that packages bring, then the planted ones."""
    return (*(plug.name for plug in entry_points(group=MODELS)), *PLANTED)


def require_model(name: str) -> None:
    """Refuse a model that is no embedded one, no folder, and not of the form `owner/name` of a repository.

    Raises:
        UnknownModel: naming the nearest known one.
    """
    folder = name != "" and Path(name).is_dir()
    if name not in model_names() and not folder and not is_repository(name):
        raise unknown_model(name)


def unknown_model(name: str, known: Sequence[str] = ()) -> UnknownModel:
    """Return what is raised for a model that is not known."""
    listed = known or model_names()
    return UnknownModel(
        f"no model {brief(name)}{suggest(name, listed)}; give {', '.join(listed)}, a folder, or a Hugging Face id that "
        "can be reached"
    )


def is_repository(name: str) -> bool:
    """Whether a word may be a repository of the Hugging Face hub."""
    return _REPOSITORY.fullmatch(name) is not None


def _name(method: ast.ClassDef) -> str | None:
    for node in method.body:
        if isinstance(node, ast.AnnAssign | ast.Assign) and isinstance(node.value, ast.Constant):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            if [ast.unparse(one) for one in targets] == ["name"]:
                return str(node.value.value)
    return None


def _options(method: ast.ClassDef) -> tuple[str, ...]:
    fields = [node for node in method.body if isinstance(node, ast.AnnAssign)]
    return tuple(ast.unparse(one.target) for one in fields if not ast.unparse(one.annotation).startswith("ClassVar"))
