"""Find the attention heads that look at the image, and give them and the image the weight they lost.

A name's module is imported when the name is first used: `import vlm_heads.errors` imports no torch.
"""

from typing import TYPE_CHECKING

from vlm_heads.lazy import lazy_names
from vlm_heads.moved import keep_old_names

if TYPE_CHECKING:
    from vlm_heads.attach import Attachment, attach
    from vlm_heads.attached.watcher import Watcher
    from vlm_heads.call import AttentionCall
    from vlm_heads.checks.ask_back import AskBack
    from vlm_heads.checks.base import Check
    from vlm_heads.contrasts.base import Contrast
    from vlm_heads.contrasts.branch_contrast import BranchContrast
    from vlm_heads.contrasts.changed_image import ChangedImage
    from vlm_heads.contrasts.disturbed_prompt import DisturbedPrompt
    from vlm_heads.contrasts.fading_image import FadingImage
    from vlm_heads.contrasts.image_free import ImageFree
    from vlm_heads.contrasts.leading_question import LeadingQuestion
    from vlm_heads.contrasts.noised_image import NoisedImage
    from vlm_heads.errors import (
        AlreadyAttached,
        BadImage,
        BadOption,
        BadProfile,
        BadPrompt,
        NoSinks,
        NothingIntervened,
        UnknownModel,
        UnsupportedGeneration,
        UnsupportedModel,
        VlmHeadsError,
    )
    from vlm_heads.families import Anatomy, examine
    from vlm_heads.fold import fold_gains
    from vlm_heads.grounding import TokenGrounding, token_grounding
    from vlm_heads.interventions.base import Intervention
    from vlm_heads.interventions.causal_route_gating import CausalRouteGating
    from vlm_heads.interventions.evidence_attention import EvidenceAttention
    from vlm_heads.interventions.head_reinforcement import HeadReinforcement
    from vlm_heads.interventions.image_boost import ImageBoost
    from vlm_heads.interventions.listed_heads import ListedHeads
    from vlm_heads.interventions.low_image_heads import LowImageHeads
    from vlm_heads.interventions.route_gain import RouteGain
    from vlm_heads.interventions.salient_boost import SalientBoost
    from vlm_heads.interventions.shared_image_boost import SharedImageBoost
    from vlm_heads.interventions.sink_redistribution import SinkRedistribution
    from vlm_heads.interventions.static_gains import StaticGains
    from vlm_heads.interventions.text_bound_heads import TextBoundHeads
    from vlm_heads.interventions.visual_fusion import VisualFusion
    from vlm_heads.methods import (
        known_checks,
        known_contrasts,
        known_interventions,
        known_methods,
        known_pipelines,
        parse_intervention,
        parse_method,
    )
    from vlm_heads.mitigation import Mitigation, parse_mitigation
    from vlm_heads.models.prompts import DEFAULT_PROMPT
    from vlm_heads.pipelines.base import Pipeline
    from vlm_heads.pipelines.contrastive_crop import ContrastiveCrop
    from vlm_heads.profile import HeadProfile
    from vlm_heads.profiles.fold_checkpoint import Folded, fold_checkpoint
    from vlm_heads.scoring import score_heads
    from vlm_heads.toolkit.method import Method, Paper
    from vlm_heads.toolkit.options import option
    from vlm_heads.version import __version__
    from vlm_heads.vlm import VLM, Answer

__all__ = [
    "DEFAULT_PROMPT",
    "VLM",
    "AlreadyAttached",
    "Anatomy",
    "Answer",
    "AskBack",
    "Attachment",
    "AttentionCall",
    "BadImage",
    "BadOption",
    "BadProfile",
    "BadPrompt",
    "BranchContrast",
    "CausalRouteGating",
    "ChangedImage",
    "Check",
    "Contrast",
    "ContrastiveCrop",
    "DisturbedPrompt",
    "EvidenceAttention",
    "FadingImage",
    "Folded",
    "HeadProfile",
    "HeadReinforcement",
    "ImageBoost",
    "ImageFree",
    "Intervention",
    "LeadingQuestion",
    "ListedHeads",
    "LowImageHeads",
    "Method",
    "Mitigation",
    "NoSinks",
    "NoisedImage",
    "NothingIntervened",
    "Paper",
    "Pipeline",
    "RouteGain",
    "SalientBoost",
    "SharedImageBoost",
    "SinkRedistribution",
    "StaticGains",
    "TextBoundHeads",
    "TokenGrounding",
    "UnknownModel",
    "UnsupportedGeneration",
    "UnsupportedModel",
    "VisualFusion",
    "VlmHeadsError",
    "Watcher",
    "__version__",
    "attach",
    "examine",
    "fold_checkpoint",
    "fold_gains",
    "known_checks",
    "known_contrasts",
    "known_interventions",
    "known_methods",
    "known_pipelines",
    "option",
    "parse_intervention",
    "parse_method",
    "parse_mitigation",
    "score_heads",
    "token_grounding",
]

_HOMES = {
    "attach": "Attachment attach",
    "attached.watcher": "Watcher",
    "call": "AttentionCall",
    "checks.ask_back": "AskBack",
    "checks.base": "Check",
    "contrasts.base": "Contrast",
    "contrasts.branch_contrast": "BranchContrast",
    "contrasts.changed_image": "ChangedImage",
    "contrasts.disturbed_prompt": "DisturbedPrompt",
    "contrasts.fading_image": "FadingImage",
    "contrasts.image_free": "ImageFree",
    "contrasts.leading_question": "LeadingQuestion",
    "contrasts.noised_image": "NoisedImage",
    "errors": "AlreadyAttached BadImage BadOption BadProfile BadPrompt NoSinks "
    "NothingIntervened UnknownModel UnsupportedGeneration UnsupportedModel VlmHeadsError",
    "families": "Anatomy examine",
    "fold": "fold_gains",
    "grounding": "TokenGrounding token_grounding",
    "interventions.base": "Intervention",
    "interventions.causal_route_gating": "CausalRouteGating",
    "interventions.evidence_attention": "EvidenceAttention",
    "interventions.head_reinforcement": "HeadReinforcement",
    "interventions.image_boost": "ImageBoost",
    "interventions.listed_heads": "ListedHeads",
    "interventions.low_image_heads": "LowImageHeads",
    "interventions.route_gain": "RouteGain",
    "interventions.salient_boost": "SalientBoost",
    "interventions.shared_image_boost": "SharedImageBoost",
    "interventions.sink_redistribution": "SinkRedistribution",
    "interventions.static_gains": "StaticGains",
    "interventions.text_bound_heads": "TextBoundHeads",
    "interventions.visual_fusion": "VisualFusion",
    "methods": "known_checks known_contrasts known_interventions known_methods known_pipelines "
    "parse_intervention parse_method",
    "mitigation": "Mitigation parse_mitigation",
    "models.prompts": "DEFAULT_PROMPT",
    "pipelines.base": "Pipeline",
    "pipelines.contrastive_crop": "ContrastiveCrop",
    "profile": "HeadProfile",
    "profiles.fold_checkpoint": "Folded fold_checkpoint",
    "scoring": "score_heads",
    "toolkit.method": "Method Paper",
    "toolkit.options": "option",
    "vlm": "VLM Answer",
    "version": "__version__",
}

if not TYPE_CHECKING:  # a type checker would take any name for known
    __getattr__, __dir__ = lazy_names(__name__, _HOMES, modules="errors methods models profiles scorers")

keep_old_names()
