"""Every method by its name, and everything that a method of your own is made of.

A method is a subclass of `Intervention`, `Lens`, `Contrast`, `Check` or `Pipeline`. Those of the package are found by
looking into its folders. Those of other packages are found by the entry-point group `vlm_heads.methods`:

    [project.entry-points."vlm_heads.methods"]
    mine = "my_package.my_module:MyMethod"
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from vlm_kernels import CLASS_COUNT, AttentionPlan, KeyClass, Redistribution

import vlm_heads.checks
import vlm_heads.contrasts
import vlm_heads.interventions
import vlm_heads.lenses
import vlm_heads.pipelines
import vlm_heads.steering
from vlm_heads.asking.named import Named
from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.attached.stream_edit import PlannedEdit, SecondStreamCall, StreamEdit
from vlm_heads.attached.watcher import Watcher
from vlm_heads.call import AttentionCall
from vlm_heads.checks.base import Check
from vlm_heads.contrast import ContrastProcessor
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.interventions.base import Intervention
from vlm_heads.lenses.base import Lens
from vlm_heads.names import KINDS, METHODS
from vlm_heads.pipelines.base import Pipeline
from vlm_heads.steering.base import Steering
from vlm_heads.stream_call import StreamCall, turned
from vlm_heads.token_step import TokenStep, implausible
from vlm_heads.toolkit.discovery import Discovered, discover
from vlm_heads.toolkit.first_pass import FirstForward, FirstPass
from vlm_heads.toolkit.head_choice import HeadChoice, HeadChooser, head_awareness
from vlm_heads.toolkit.head_list import GainList, GainListForm, HeadList, HeadListForm, layers_of_heads
from vlm_heads.toolkit.layer_sets import Layers, layers_option, resolve_layers
from vlm_heads.toolkit.method import LEVERS, Method, Paper
from vlm_heads.toolkit.options import Option, option, options_of, parse_options, require_number
from vlm_heads.toolkit.row_attention import (
    all_weights,
    generated_keys,
    image_keys,
    last_row,
    over_keys,
    over_prompt,
    read_logits,
    require_image_keys,
    row_logits,
    row_weights,
    rows_weights,
    text_after_image,
)

__all__ = [
    "CLASS_COUNT",
    "LEVERS",
    "Asked",
    "AttentionCall",
    "AttentionPlan",
    "Check",
    "Contrast",
    "ContrastProcessor",
    "FirstForward",
    "FirstPass",
    "GainList",
    "GainListForm",
    "HeadChoice",
    "HeadChooser",
    "HeadList",
    "HeadListForm",
    "Intervention",
    "KeyClass",
    "Layers",
    "Lens",
    "Method",
    "Named",
    "Option",
    "Paper",
    "Pipeline",
    "PlannedEdit",
    "Redistribution",
    "SecondStream",
    "SecondStreamCall",
    "Steering",
    "StreamCall",
    "StreamEdit",
    "TokenStep",
    "Watcher",
    "all_weights",
    "generated_keys",
    "head_awareness",
    "image_keys",
    "implausible",
    "known_checks",
    "known_contrasts",
    "known_interventions",
    "known_lenses",
    "known_methods",
    "known_pipelines",
    "last_row",
    "layers_of_heads",
    "layers_option",
    "option",
    "options_of",
    "over_keys",
    "over_prompt",
    "parse_intervention",
    "parse_method",
    "parse_options",
    "read_logits",
    "require_image_keys",
    "require_number",
    "resolve_layers",
    "row_logits",
    "row_weights",
    "rows_weights",
    "text_after_image",
    "turned",
]


def known_methods() -> Mapping[str, type[Method]]:
    """Return every method by its name, in alphabetical order: of every kind, ours and others'."""
    return _found().kinds


def known_interventions() -> dict[str, type[Intervention]]:
    """Return every intervention by its name, in alphabetical order."""
    return {name: kind for name, kind in known_methods().items() if issubclass(kind, Intervention)}


def known_lenses() -> dict[str, type[Lens]]:
    """Return every lens by its name, in alphabetical order; interventions that weigh token logits too are not here."""
    kinds = known_methods().items()
    return {name: kind for name, kind in kinds if issubclass(kind, Lens) and not issubclass(kind, Intervention)}


def known_contrasts() -> dict[str, type[Contrast]]:
    """Return every contrast by its name, in alphabetical order."""
    return {name: kind for name, kind in known_methods().items() if issubclass(kind, Contrast)}


def known_checks() -> dict[str, type[Check]]:
    """Return every check by its name, in alphabetical order."""
    return {name: kind for name, kind in known_methods().items() if issubclass(kind, Check)}


def known_pipelines() -> dict[str, type[Pipeline]]:
    """Return every pipeline by its name, in alphabetical order."""
    return {name: kind for name, kind in known_methods().items() if issubclass(kind, Pipeline)}


def parse_method(word: str) -> Method:
    """Return the method that `name` or `name:option=value,option=value` describes; the inverse of `Method.word`.

    Raises:
        BadOption: if the name or an option is unknown, or a value is out of its range; the nearest known is named.
    """
    return _found().made(word, known_methods(), KINDS)


def parse_intervention(word: str) -> Intervention:
    """Return the intervention that a word describes; see `parse_method`.

    Raises:
        BadOption: as `parse_method`, and if the word names a contrast.
    """
    made = _found().made(word, known_interventions(), "intervention")
    assert isinstance(made, Intervention), "the registry holds subclasses"
    return made


@cache
def _found() -> Discovered[Method]:
    folders = (
        vlm_heads.interventions,
        vlm_heads.steering,
        vlm_heads.lenses,
        vlm_heads.contrasts,
        vlm_heads.checks,
        vlm_heads.pipelines,
    )
    return discover(Method, folders, METHODS, "Intervention, Lens, Contrast, Check or Pipeline")
