"""The mitigations that are timed where nobody names any."""

from __future__ import annotations

from vlm_heads import VLM, Mitigation, examine, known_contrasts, known_interventions
from vlm_heads.errors import UnsupportedModel


def usual_methods(vlm: VLM) -> dict[str, Mitigation]:
    """Return VHR and VAR, and the contrasts whose second stream can run on the model."""
    kinds, anatomy = known_interventions(), examine(vlm.model)
    vhr, var = kinds["vhr"](), kinds["var"](**kinds["var"].trial)
    named = {"vhr": Mitigation((vhr,)), "var": Mitigation((var,)), "vhr+var": Mitigation((vhr, var))}
    for name in ("vcd", "m3id", "branch"):
        contrast = known_contrasts()[name]()
        try:
            contrast.check(anatomy)
        except UnsupportedModel:
            continue
        named[name] = Mitigation(contrast=contrast)
    return named
