"""What saved captions can be checked with: AskBack and interventions."""

from __future__ import annotations

from vlm_heads.checks.ask_back import AskBack
from vlm_heads.errors import BadOption
from vlm_heads.mitigation import Mitigation


def check_of(whole: Mitigation) -> AskBack:
    """Return the check of a mitigation that saved captions are asked back with.

    Raises:
        BadOption: if there is none, or beside it one that acts on what is still to be said and would be ignored.
    """
    idle = [*whole.lenses, *(one for one in (whole.contrast, whole.pipeline) if one is not None)]
    only = "captions are checked by askback, beside interventions alone"
    if not isinstance(whole.check, AskBack):
        raise BadOption(f"{whole.word() or 'nothing'}: {only}")
    if idle:
        raise BadOption(
            f"{idle[0].name} acts on words that are still to be said; saved {only}: leave {idle[0].name} out"
        )
    return whole.check
