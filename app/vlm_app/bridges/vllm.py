"""vLLM's plug-in, of its group `vllm.general_plugins`: off, and light, unless a profile is named."""

from __future__ import annotations

import os

from vlm_app.bridges.vllm_names import PROFILE


def register() -> None:
    """Let the gains that `VLM_HEADS_PROFILE` names act on every request; do nothing where it names none.

    vLLM calls it in each of its processes, some of which hold no model.
    """
    if os.environ.get(PROFILE):
        from vlm_app.bridges.vllm_gains import install

        install()
