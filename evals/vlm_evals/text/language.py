"""Where NLTK's data for English lies on this machine, and what stands in for it where it does not.

Nothing is ever downloaded. `NLTK_DATA` is read at every call, then the folders nltk itself would search.
"""

import functools
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vlm_evals.errors import FileFormatError, MissingLanguageData

PUNKT = "tokenizers/punkt_tab/english"
TAGGER = "taggers/averaged_perceptron_tagger_eng"
SUBSTITUTE = (
    "NLTK's Punkt data was not found: sentences were split by Punkt without its trained lists (no abbreviations). "
    "On 5,500 published captions this changes the mentions of none and the token count of one; "
    "set NLTK_DATA to a folder with " + PUNKT + " for the exact text pipeline."
)


@dataclass(frozen=True)
class PunktData:
    """What Punkt was trained to know about English; nothing by default, which is the substitute.

    Attributes:
        abbreviations: words that end in a full stop without ending a sentence, lower case, without that stop.
        collocations: (word before, word after) a full stop that ends no sentence.
        sentence_starters: words that often start a sentence.
        contexts: word -> flags of the places and cases it was seen in.
    """

    abbreviations: frozenset[str] = frozenset()
    collocations: frozenset[tuple[str, str]] = frozenset()
    sentence_starters: frozenset[str] = frozenset()
    contexts: Mapping[str, int] = field(default_factory=dict)


def find_data(resource: str) -> Path | None:
    """Return the folder of an NLTK resource, or None where it is not on this machine."""
    return next((folder / resource for folder in _data_folders() if (folder / resource).is_dir()), None)


def _data_folders() -> Iterator[Path]:
    """Yield where nltk looks for data, without importing it: that takes longer than scoring a thousand captions."""
    yield from (Path(folder) for folder in os.environ.get("NLTK_DATA", "").split(os.pathsep) if folder)
    if "nltk" in sys.modules:
        yield from map(Path, sys.modules["nltk"].data.path)
    yield Path.home() / "nltk_data"
    for base in (sys.prefix, "/usr", "/usr/local"):
        yield from (Path(base) / below / "nltk_data" for below in ("", "share", "lib"))


@functools.cache
def punkt_data(folder: Path | None) -> PunktData:
    """Return the Punkt data of a folder, or the substitute for None.

    Raises:
        FileFormatError: if a file of the folder is missing or is not what it should be.
    """
    if folder is None:
        return PunktData()
    contexts = {}
    for number, word, flags in _pairs(folder / "ortho_context.tab"):
        if not flags.isdecimal():
            raise FileFormatError(folder / "ortho_context.tab", number, f"{flags!r} is not a number of flags")
        contexts[word] = int(flags)
    return PunktData(
        frozenset(_lines(folder / "abbrev_types.txt")),
        frozenset((first, second) for _, first, second in _pairs(folder / "collocations.tab")),
        frozenset(_lines(folder / "sent_starters.txt")),
        contexts,
    )


def import_nltk() -> None:
    """Import nltk without scipy, which takes longer to import than nltk.

    A test of collocations uses scipy.stats, and imports it when it is called. A parser uses scipy beside scikit-learn:
    where that is installed, or scipy is imported already, scipy.stats alone is left out. Where several threads run, or
    scipy.stats is imported already, nothing is done here, and nltk is imported in the ordinary way.
    """
    if "nltk" in sys.modules or "scipy.stats" in sys.modules or threading.active_count() > 1:
        return
    only_stats = "scipy" in sys.modules or find_spec("sklearn") is not None
    left_out = "scipy.stats" if only_stats else "scipy"
    sys.modules[left_out] = None  # type: ignore[assignment]  # Python's own mark for what cannot be imported
    try:
        from nltk.metrics import association
    finally:
        del sys.modules[left_out]
    association.fisher_exact = _fisher_exact


def _fisher_exact(*args: Any, **kwargs: Any) -> Any:
    from scipy.stats import fisher_exact

    return fisher_exact(*args, **kwargs)


def sentence_tokenizer(data: PunktData) -> Any:
    """Return nltk's Punkt sentence tokenizer with this data."""
    import_nltk()
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = set(data.abbreviations)
    parameters.collocations = set(data.collocations)
    parameters.sent_starters = set(data.sentence_starters)
    parameters.ortho_context = defaultdict(int, data.contexts)
    return PunktSentenceTokenizer(parameters)


def tagger_folder() -> Path:
    """Return the folder with NLTK's tagger for English.

    Raises:
        MissingLanguageData: if it is not on this machine.
    """
    folder = find_data(TAGGER)
    if folder is None:
        raise MissingLanguageData(
            f"the pipeline chair-opera tags parts of speech and needs NLTK's {TAGGER}, which is not on this machine; "
            "set NLTK_DATA to a folder that has it, or use the pipeline chair-2018"
        )
    return folder


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(path, None, f"cannot be read as NLTK's Punkt data ({error})") from error


def _pairs(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield (line, first field, second field)."""
    for number, line in enumerate(_lines(path), start=1):
        first, tab, second = line.partition("\t")
        if tab:
            yield number, first, second
        elif line:
            raise FileFormatError(path, number, "is not two fields with a tab between")
