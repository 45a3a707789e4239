"""What plays in the league: the settings that are swept, the published ones, the other methods, and the controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from vlm_app.studies.chosen import CAPTIONS
from vlm_heads import Mitigation, parse_mitigation

ROUTE = "RouteGain"
GAINS = (0.5, 1.2, 1.5, 2.0, 3.0)
LAYER_SETS = ("paper", "last-half", "all")
ROUTE_GAINS = (1.25, 1.5, 2.0, 3.0)
# VAR where only the text has sinks: what is moved, and how much of a row must lie on the image
MOVED, IMAGE_MASS = (0.3, 0.6, 0.9), (0.1, 0.2, 0.3)
# BranchContrast: how deep the image is hidden from, and the weight of the difference
STARTS, WEIGHTS = (0.25, 0.5, 0.75), (0.25, 0.67)


@dataclass(frozen=True)
class Entry:
    """One row of the league.

    Attributes:
        method: what it is a setting of; of a swept method one setting is chosen.
        words: interventions and contrast, as on the command line.
        controls: whether the same gain on other heads is measured beside it.
        label: what the row is called where it is no setting that was chosen.
        role: a setting that may win, or a control of one.
    """

    method: str
    words: tuple[str, ...]
    controls: bool = False
    label: str = ""
    role: Literal["setting", "control"] = "setting"

    @property
    def name(self) -> str:
        """Folder and row name."""
        return "+".join(self.words).replace(":", " ").replace(",", " ")

    @property
    def reads_profile(self) -> bool:
        """Whether its heads come from one profile for all samples."""
        return any(getattr(one, "heads", None) == "fixed" for one in parse_mitigation(self.words).interventions)

    @property
    def is_route(self) -> bool:
        """Whether it is a setting of RouteGain, or a control of one."""
        return self.method.startswith(ROUTE)

    def on(self, heads: str) -> Entry:
        """Return the control: the same setting on other heads."""
        mitigation = parse_mitigation(self.words)
        on_others = [one.with_heads(heads) if one.chooses_heads else one for one in mitigation.interventions]
        words = Mitigation(tuple(on_others), mitigation.contrast).words()
        label = f"control, {heads} heads of: {self.label or self.method}"
        return replace(self, words=words, controls=False, label=label, role="control")


PUBLISHED = Entry("VHR", ("vhr:gain=2.0,layers=paper,heads=vhd",), controls=True, label="VHR as published")
# the same on every seed of the model, whatever its own validation scenes would choose
ROUTE_STATED = (
    Entry(ROUTE, ("route:image=2.0,layers=last-half,heads=vhd",), controls=True, label=f"{ROUTE}, defaults"),
    Entry(ROUTE, ("route:image=1.5,layers=last-half,heads=all",), label=f"{ROUTE}, all heads"),
)


def sweep_of_settings(*, route_only: bool = False) -> list[Entry]:
    """Return what is tried on validation scenes: VHR and RouteGain by gain, layers and heads, VAR, BranchContrast."""
    vhr = [
        Entry(f"VHR, {how}", (f"vhr:gain={gain},layers={layers},heads={heads}",), controls=True)
        for heads, how in (("vhd", "heads per sample"), ("fixed", "fixed heads"))
        for layers in LAYER_SETS
        for gain in GAINS
    ]
    # gain 1 is the plain model on every layer set, bit for bit: once is enough to show it
    vhr.insert(0, Entry("VHR, gain 1", ("vhr:gain=1.0,layers=all,heads=vhd",)))
    route = [
        Entry(f"{ROUTE}, {how}", (f"route:image={gain},layers={layers},heads={heads}",), controls=heads != "all")
        for heads, how in (("vhd", "heads per sample"), ("all", "all heads"))
        for layers in ("last-half", "all")
        for gain in ROUTE_GAINS
    ]
    var = "var:criterion=median,sinks=any,max_sink_share=1"
    redistribution = [
        Entry("VAR, any sink", (f"{var},moved={moved},min_image_mass={mass}",))
        for moved in MOVED
        for mass in IMAGE_MASS
    ]
    branch = [
        Entry("BranchContrast", (f"branch:start={start},weight={weight}",)) for start in STARTS for weight in WEIGHTS
    ]
    return route if route_only else [*vhr, *route, *redistribution, *branch]


def other_methods(adhh_heads: str | None) -> list[Entry]:
    """Return the other methods at their published defaults.

    Args:
        adhh_heads: AD-HH's list for this model, as `adhh:heads=` takes it; None where none was found.
    """
    adhh = f"adhh:heads={adhh_heads}" if adhh_heads else "adhh"
    words = {
        "VAR": ("var",), "PAI": ("pai",), "PAI with its contrast": ("pai", "pai-contrast"), "PAINT": ("paint",),
        "ClearSight": ("vaf",), "Devils": ("devils",), "SPIN": ("spin",), "AD-HH, heads found here": (adhh,),
        "VCD": ("vcd",), "M3ID": ("m3id",), "ICD": ("icd",), "LQCD": ("lqcd",), "RITUAL": ("ritual",),
        "ILVAD": ("ilvad",), "CRG": ("crg",), "CARVE": ("carve",),
    }  # fmt: skip
    return [*(Entry(name, some, label=name) for name, some in words.items()), *asked_back()]


def asked_back() -> list[Entry]:
    """Return AskBack by the question, by the word's own probability and by both, and the controls of the first."""
    ways = {"AskBack": "askback", "AskBack, free": "askback:by=confidence", "AskBack, both": "askback:by=both"}
    check = parse_mitigation(["askback"]).check
    assert check is not None, "the word names a check"
    controls = {f"control, {name} of: AskBack": one.word() for name, one in check.controls().items()}
    return [
        *(Entry(name, (word,), label=name) for name, word in ways.items()),
        *(Entry("AskBack", (word,), label=name, role="control") for name, word in controls.items()),
    ]


def given_entry(text: str) -> Entry:
    """Return the entry of a mitigation in words, several separated by spaces.

    Raises:
        BadOption: if a word cannot be read.
    """
    return Entry(text, Mitigation.parse(text).words())


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
    """Return the stated settings, the chosen ones, the controls of both, and the other methods, each once."""
    stated = [*ROUTE_STATED] if route_only else [PUBLISHED, *ROUTE_STATED]
    rows: list[Entry] = []
    for entry in [*stated, *chosen]:
        rows += [entry, *((entry.on("bottom"), entry.on("random")) if entry.controls else ())]
    once: dict[str, Entry] = {}
    for entry in [*rows, *others]:
        before = once.get(entry.name)
        if before is not None and before.label != entry.label:
            entry = replace(before, label=f"{before.label}; {entry.label}")
        once[entry.name] = entry
    return list(once.values())
