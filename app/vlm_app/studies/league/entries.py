"""What plays in the league: the settings that are swept, the published ones, the other methods, and the controls."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from vlm_app.method_facts import label
from vlm_app.studies.chosen import CAPTIONS, SHOWN
from vlm_heads import Mitigation, known_methods, parse_mitigation

ROUTE = "RouteGain"
GAINS = (0.5, 1.2, 1.5, 2.0, 3.0)
LAYER_SETS = ("paper", "last-half", "all")
ROUTE_GAINS = (1.1, 1.25, 1.5, 2.0, 3.0)
ROUTE_LAYERS = ("last-half", "all", "first-third", "middle-third", "last-third")
CHOSEN_HEADS_GAINS = (1.25, 1.5, 2.0, 3.0)  # fewer heads bear more
SLOPED = (1.5, 2.0, 3.0)  # what the gains rise to over the layers, or fall from
DAMPED = (0.8, 0.9)  # the factor on what the generated text contributes, beside an image gain of 1.5
# VAR where only the text has sinks: what is moved, and how much of a row must lie on the image
MOVED, IMAGE_MASS = (0.3, 0.6, 0.9), (0.1, 0.2, 0.3)
# BranchContrast: how deep the image is hidden from, and the weight of the difference
STARTS, WEIGHTS = (0.25, 0.5, 0.75), (0.25, 0.67)
# AskBack: what speaks for a word, and how much more the drafts say
SAY_MORE = (0.0, 0.7)
# what a winner is combined with: AskBack checks the words that another method found
COMBINED = ("BranchContrast", f"{ROUTE}, all heads", "VHR, heads per sample")


@dataclass(frozen=True)
class Entry:
    """One row of the league.

    Attributes:
        method: what it is a setting of; of a swept method one setting is chosen.
        words: interventions and contrast, as on the command line.
        controls: whether its controls are measured beside it: the same gain on other heads, or as many other words.
        label: what the row is called where it is no setting that was chosen.
        role: a setting that may win, or a control of one.
        of: names of the rows that it is a control of; several may share one.
    """

    method: str
    words: tuple[str, ...]
    controls: bool = False
    label: str = ""
    role: Literal["setting", "control"] = "setting"
    of: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Folder and row name."""
        return "+".join(self.words).replace(":", " ").replace(",", " ")

    @property
    def reads_profile(self) -> bool:
        """Whether its heads come from one profile for all samples."""
        return any(getattr(one, "heads", None) == "fixed" for one in self.mitigation.interventions)

    @property
    def is_route(self) -> bool:
        """Whether it is a setting of RouteGain, or a control of one."""
        return self.method.startswith(ROUTE)

    @property
    def mitigation(self) -> Mitigation:
        """What its words say."""
        return parse_mitigation(self.words)

    def made_of(self, methods: Collection[str]) -> bool:
        """Whether all of its methods are among some, by name; where none are named, it is made of any."""
        return not methods or all(one.name in methods for one in self.mitigation.methods())

    def on(self, heads: str) -> Entry:
        """Return the control: the same setting on other heads."""
        mitigation = self.mitigation
        on_others = [one.with_heads(heads) if one.chooses_heads else one for one in mitigation.interventions]
        return self._control(f"{heads} heads", replace(mitigation, interventions=tuple(on_others)))

    def all_controls(self) -> list[Entry]:
        """Return its controls; none where none are asked for."""
        if not self.controls:
            return []
        mitigation = self.mitigation
        checks = mitigation.check.controls() if mitigation.check else {}
        words = [self._control(name, replace(mitigation, check=check)) for name, check in checks.items()]
        chooses = any(one.chooses_heads for one in mitigation.interventions)
        return [*(self.on(heads) for heads in ("bottom", "random") if chooses), *words]

    def _control(self, name: str, mitigation: Mitigation) -> Entry:
        called = f"control, {name} of: {self.label or self.method}"
        words = mitigation.words()
        return replace(self, words=words, controls=False, label=called, role="control", of=(self.name,))


PUBLISHED = Entry("VHR", ("vhr:gain=2.0,layers=paper,heads=vhd",), controls=True, label="VHR as published")
# the same on every seed of the model, whatever its own validation scenes would choose
ROUTE_STATED = (
    Entry(ROUTE, ("route:image=2.0,layers=last-half,heads=vhd",), controls=True, label=f"{ROUTE}, defaults"),
    Entry(ROUTE, ("route:image=1.5,layers=last-half,heads=all",), label=f"{ROUTE}, all heads"),
)


def sweep_of_settings(*, route_only: bool = False) -> list[Entry]:
    """Return what is tried on validation scenes: VHR and RouteGain by gain, layers and heads, and the other levers."""
    vhr = [
        Entry(f"VHR, {how}", (f"vhr:gain={gain},layers={layers},heads={heads}",), controls=True)
        for heads, how in (("vhd", "heads per sample"), ("fixed", "fixed heads"))
        for layers in LAYER_SETS
        for gain in GAINS
    ]
    # gain 1 is the plain model on every layer set, bit for bit: once is enough to show it
    vhr.insert(0, Entry("VHR, gain 1", ("vhr:gain=1.0,layers=all,heads=vhd",)))
    var = "var:criterion=median,sinks=any,max_sink_share=1"
    redistribution = [
        Entry("VAR, any sink", (f"{var},moved={moved},min_image_mass={mass}",))
        for moved in MOVED
        for mass in IMAGE_MASS
    ]
    branch = [
        Entry("BranchContrast", (f"branch:start={start},weight={weight}",)) for start in STARTS for weight in WEIGHTS
    ]
    return _route() if route_only else [*vhr, *_route(), *redistribution, *branch, *_asked_back()]


def _route() -> list[Entry]:
    """Return RouteGain by gain, layers and heads, with the generated text's route damped, and with gains that slope."""
    on_all = [
        Entry(f"{ROUTE}, all heads", (f"route:image={gain},layers={layers},heads=all",))
        for layers in ROUTE_LAYERS
        for gain in ROUTE_GAINS
    ]
    on_some = [
        Entry(f"{ROUTE}, {how}", (f"route:image={gain},layers={layers},heads={heads}",), controls=True)
        for heads, how in (("vhd", "heads per sample"), ("mass", "heads by image mass"))
        for layers in ("last-half", "all")
        for gain in CHOSEN_HEADS_GAINS
    ]
    damped = [
        Entry(f"{ROUTE}, generated damped", (f"route:image=1.5,generated={factor},layers={layers},heads=all",))
        for layers in ("last-half", "all")
        for factor in DAMPED
    ]
    sloped = [
        Entry(f"{ROUTE}, sloped", (f"route:image={gain},layers={layers},heads=all,slope={slope}",))
        for layers in ("last-half", "all")
        for slope in ("rising", "falling")
        for gain in SLOPED
    ]
    return [*on_some, *on_all, *damped, *sloped]


def _asked_back() -> list[Entry]:
    ways = {"question": "AskBack", "confidence": "AskBack, free", "both": "AskBack, both"}
    return [
        Entry(name, (f"askback:by={by},say_more={more}",), controls=True)
        for by, name in ways.items()
        for more in SAY_MORE
    ]


def combinations(chosen: Sequence[Entry]) -> list[Entry]:
    """Return each chosen setting of `COMBINED` beside the chosen AskBack by both; none where none was chosen."""
    by_method = {entry.method: entry for entry in chosen}
    check = by_method.get("AskBack, both")
    return [
        Entry(name, (*by_method[method].words, *check.words), controls=True, label=f"{name}, both chosen")
        for method, name in ((method, f"{method} + AskBack") for method in COMBINED)
        if check is not None and method in by_method
    ]


def other_methods(adhh_heads: str | None) -> list[Entry]:
    """Return every known method at its defaults, its controls with it, but those that a stated row plays already.

    A method that needs a list or a table made for a model is among them; the model refuses it, and says why.

    Args:
        adhh_heads: AD-HH's list for this model, as `adhh:heads=` takes it; None where none was found.
    """
    ways = {"askback": asked_back(), "pai-contrast": [_PAI]}
    if adhh_heads:
        ways["adhh"] = [Entry(_ADHH, (f"adhh:heads={adhh_heads}",), label=_ADHH)]
    stated = {entry.mitigation.word() for entry in (PUBLISHED, *ROUTE_STATED)}
    found: list[Entry] = []
    for name, kind in known_methods().items():
        if kind().word() not in stated:
            found += ways.get(name) or [Entry(label(kind), (name,), controls=True, label=label(kind))]
    return found


_PAI = Entry("PAI with its contrast", ("pai", "pai-contrast"), label="PAI with its contrast")  # as it was published
_ADHH = "AD-HH, heads found here"


def asked_back() -> list[Entry]:
    """Return AskBack by the question, by the word's own probability, by both, and as it was chosen before."""
    return [
        Entry("AskBack", ("askback",), label="AskBack", controls=True),
        Entry("AskBack, free", ("askback:by=confidence",), label="AskBack, free"),
        Entry("AskBack, both", ("askback:by=both",), label="AskBack, both"),
        # the same on every seed of the model, whatever its own validation scenes would choose
        Entry("AskBack, stated", SHOWN["small"].words, label="AskBack, stated", controls=True),
    ]


def given_entries(text: str, *, controls: bool) -> list[Entry]:
    """Return the entry of a mitigation in words, several separated by spaces, and its controls where they are wanted.

    Raises:
        BadOption: if a word cannot be read.
    """
    entry = Entry(text, Mitigation.parse(text).words(), controls=controls)
    return [entry, *entry.all_controls()]


def choose(sweep: Sequence[Entry], measured: Mapping[str, Any]) -> list[Entry]:
    """Return one entry per method: the lowest CHAIR_S at equal recall; none for one that left the curve."""
    best: dict[str, tuple[float, Entry]] = {}
    for entry in sweep:
        off = measured[CAPTIONS]["controls"][entry.name]["curve_difference"]["chair_s"]["estimate"]
        if off is not None and (entry.method not in best or off < best[entry.method][0]):
            best[entry.method] = (off, entry)
    chosen = [entry for _, entry in best.values() if entry.method != "VHR, gain 1"]
    return [replace(entry, label=f"{entry.method}, chosen") for entry in chosen]


def finalists(chosen: Sequence[Entry], others: Sequence[Entry], *, route_only: bool = False) -> list[Entry]:
    """Return the stated settings, the chosen ones, their combinations and the other methods, each with its controls.

    Every setting is there once, under all labels that it was given.
    """
    stated = [*ROUTE_STATED] if route_only else [PUBLISHED, *ROUTE_STATED]
    together = [] if route_only else combinations(chosen)
    once: dict[str, Entry] = {}
    for entry in [*stated, *chosen, *together, *others]:
        for row in (entry, *entry.all_controls()):
            said = row.mitigation.word()  # options at their defaults may be written or left out
            once[said] = _merged(once[said], row) if said in once else row
    return list(once.values())


def _merged(before: Entry, after: Entry) -> Entry:
    """Return one row for two of the same words: all labels, the controls' settings of both, a setting if one is."""
    labels = dict.fromkeys([*before.label.split("; "), *after.label.split("; ")])
    role = before.role if before.role == after.role else "setting"
    return replace(before, label="; ".join(labels), role=role, of=tuple(dict.fromkeys([*before.of, *after.of])))
