"""Head scorers: every way of giving a head a number, behind one interface, and what a scorer of your own is made of.

    parse_scorer("image-mass").score(model, processor, pictures)   # a HeadProfile

Those of other packages are found by the entry-point group `vlm_heads.scorers`:

    [project.entry-points."vlm_heads.scorers"]
    mine = "my_package.my_module:MyScorer"
"""

from typing import TYPE_CHECKING

from vlm_heads.lazy import lazy_names

if TYPE_CHECKING:
    from vlm_heads.scorers.base import NEEDED, Found, Measured, Needs, Scorer, empty, sorted_out
    from vlm_heads.scorers.batch import batch_inputs, watched_forward
    from vlm_heads.scorers.example import Example, Mention, Sample, pieces_of, yes_and_no
    from vlm_heads.scorers.reading import OutputLayer, gained, told
    from vlm_heads.scorers.registry import known_scorers, parse_scorer

__all__ = [
    "NEEDED",
    "Example",
    "Found",
    "Measured",
    "Mention",
    "Needs",
    "OutputLayer",
    "Sample",
    "Scorer",
    "batch_inputs",
    "empty",
    "gained",
    "known_scorers",
    "parse_scorer",
    "pieces_of",
    "sorted_out",
    "told",
    "watched_forward",
    "yes_and_no",
]

_HOMES = {
    "base": "NEEDED Found Measured Needs Scorer empty sorted_out",
    "batch": "batch_inputs watched_forward",
    "example": "Example Mention Sample pieces_of yes_and_no",
    "reading": "OutputLayer gained told",
    "registry": "known_scorers parse_scorer",
}

if not TYPE_CHECKING:  # a type checker would take any name for known
    __getattr__, __dir__ = lazy_names(__name__, _HOMES)
