"""Modules that stood elsewhere in the first version: their old names work for one release, with a warning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_ATTACHED = ("tracking", "layer_edit", "refused_modes", "two_streams", "second_stream")
_TOOLKIT = (
    "options", "layer_sets", "head_choice", "sensitivity", "row_attention", "sink_channels", "vision_salience",
    "image_changes",
)  # fmt: skip
_MODELS = ("loading", "placement", "prompts", "images", "planted", "planted_sinks")
_PROFILES = ("head_attribution", "sink_shares", "gain_proposals", "fold_checkpoint", "checkpoint_names")

MOVED: dict[str, str] = {
    **{f"vlm_heads.{name}": f"vlm_heads.attached.{name}" for name in _ATTACHED},
    **{f"vlm_heads.{name}": f"vlm_heads.toolkit.{name}" for name in _TOOLKIT},
    **{f"vlm_heads.{name}": f"vlm_heads.models.{name}" for name in _MODELS},
    **{f"vlm_heads.{name}": f"vlm_heads.profiles.{name}" for name in _PROFILES},
    "vlm_heads.interventions.registry": "vlm_heads.methods",
    "vlm_heads.contrast_methods": "vlm_heads",
    "vlm_heads.nearest": "vlm_heads.errors",
    "vlm_heads.profile_card": "vlm_heads.profile",
}


class _OldNames(MetaPathFinder, Loader):
    """Answers an import of an old name with the module of the new one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = MOVED[spec.name]
        warnings.warn(
            f"{spec.name} is {new} now; the old name goes with the next release", DeprecationWarning, stacklevel=2
        )
        return _same(spec.name, importlib.import_module(new))

    def exec_module(self, module: ModuleType) -> None:
        return None


def _same(name: str, module: ModuleType) -> ModuleType:
    """Return a module of an old name whose attributes are another module's."""
    old = ModuleType(name, module.__doc__)
    old.__getattr__ = lambda attribute: getattr(module, attribute)  # type: ignore[method-assign]
    return old


def keep_old_names() -> None:
    """Let imports of old names work, once."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        sys.meta_path.append(_OldNames())
