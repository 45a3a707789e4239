"""Whether a mitigation can act on a model, found out before anything is asked."""

from __future__ import annotations

from dataclasses import replace

from vlm_heads import VLM, Mitigation, attach, examine
from vlm_heads.errors import NoSinks, UnsupportedModel


def why_unable(vlm: VLM, mitigation: Mitigation) -> NoSinks | UnsupportedModel | None:
    """Return what is raised where a mitigation cannot act on a model; None where it can.

    A contrast is not attached: some make their second stream of the image and the prompt, which are not known yet.
    """
    try:
        if mitigation.contrast is not None:
            mitigation.contrast.check(examine(vlm.model))
        with attach(vlm.model, replace(mitigation, contrast=None), processor=vlm.processor, allow_idle=True):
            return None
    except (NoSinks, UnsupportedModel) as reason:
        return reason
