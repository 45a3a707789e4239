"""What can go wrong through no fault of the library. Every message says what was given, what is needed, what to do.

VlmHeadsError                 catch this one to catch a user's mistake
├── UnsupportedModel          this model, or the way it was loaded, cannot be intervened on
│   └── NoSinks               this model has no attention sinks that could be found
├── UnsupportedGeneration     this way of generating cannot be intervened on
├── AlreadyAttached           the model is inside another attach
├── NothingIntervened         an intervention was attached and never fired
├── BadOption (ValueError)    an unknown intervention or option, or a value out of its range
├── BadImage (ValueError)     an image that is missing, broken, empty or too large
├── BadPrompt (ValueError)    a prompt that is empty or carries the image token itself
├── BadProfile (ValueError)   a head profile that is damaged or belongs to another model
└── UnknownModel              no such model here
"""

# The names say what happened, as the contract writes them.
# ruff: noqa: N818

from collections.abc import Callable, Iterable
from difflib import get_close_matches

LONGEST_REPEATED = 80  # characters


class VlmHeadsError(Exception):
    """A user's mistake; the command line prints it as one line and exits with 2."""


class UnsupportedModel(VlmHeadsError):
    """This model, or the way it was loaded, cannot be intervened on."""


class NoSinks(UnsupportedModel):
    """This model has no attention sinks that could be found."""


class UnsupportedGeneration(VlmHeadsError):
    """This way of generating cannot be intervened on."""


class AlreadyAttached(VlmHeadsError):
    """The model is inside another attach."""


class NothingIntervened(VlmHeadsError):
    """An intervention was attached and never fired."""


class BadOption(VlmHeadsError, ValueError):
    """An unknown intervention or option, or a value out of its range."""


class BadImage(VlmHeadsError, ValueError):
    """An image that is missing, broken, empty or too large."""


class BadPrompt(VlmHeadsError, ValueError):
    """A prompt that is empty or carries the image token itself."""


class BadProfile(VlmHeadsError, ValueError):
    """A head profile that is damaged or belongs to another model."""


class UnknownModel(VlmHeadsError):
    """No such model here."""


def brief(value: object, write: Callable[[object], str] = repr) -> str:
    """Return what was given as a message repeats it: as Python writes it, or another, and cut where it is long."""
    try:
        text = write(value)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        return "a number with thousands of digits"
    return text if len(text) <= LONGEST_REPEATED else f"{text[:LONGEST_REPEATED]}…"


def suggest(given: str, known: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"`, or nothing where no known name is close."""
    close = get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
