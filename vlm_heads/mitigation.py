"""What is done to a model beside asking it, as written in words: interventions, and at most one second stream."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from vlm_heads.contrast_methods import Contrast, known_contrasts
from vlm_heads.errors import BadOption, suggest
from vlm_heads.interventions.base import Intervention
from vlm_heads.methods import known_interventions, parse_intervention
from vlm_heads.toolkit.options import parse_options


@dataclass(frozen=True)
class Mitigation:
    """Interventions for `attach`, and a contrast for `generate`; either may be missing.

    Attributes:
        interventions: act inside the first stream alone.
        contrast: a second stream, or None.
    """

    interventions: tuple[Intervention, ...] = ()
    contrast: Contrast | None = None

    def __bool__(self) -> bool:
        return bool(self.interventions) or self.contrast is not None

    def stated(self) -> dict[str, Any]:
        """Return everything about it that decides the answers, as JSON values."""
        made: list[Any] = list(self.interventions)
        second: Any = self.contrast
        return {
            "interventions": [{"name": one.name, **asdict(one)} for one in made],
            "contrast": None if second is None else {"name": second.name, **asdict(second)},
        }


def parse_mitigation(words: Iterable[str]) -> Mitigation:
    """Return what `name` or `name:option=value,option=value` describe, interventions and contrasts alike.

    Raises:
        BadOption: if a name or an option is unknown, a value is out of its range, or there are two contrasts.
    """
    interventions: list[Intervention] = []
    contrast: Contrast | None = None
    for word in words:
        name, _, options = word.partition(":")
        name = name.strip()
        second = known_contrasts().get(name)
        if second is None:
            _require_known(name)
            interventions.append(parse_intervention(word))
            continue
        if contrast is not None:
            raise BadOption(f"{contrast.name} and {name} are both second streams: name one of them")
        contrast = second(**parse_options(second, options, name))
    return Mitigation(tuple(interventions), contrast)


def _require_known(name: str) -> None:
    known = [*known_interventions(), *known_contrasts()]
    if name not in known:
        raise BadOption(f"no intervention or contrast {name!r}{suggest(name, known)}; known: {', '.join(known)}")
