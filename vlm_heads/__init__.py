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
    from vlm_heads.contrasts.counterfactual_attention import CounterfactualAttention
    from vlm_heads.contrasts.described_picture import DescribedPicture
    from vlm_heads.contrasts.disturbed_prompt import DisturbedPrompt
    from vlm_heads.contrasts.fading_image import FadingImage
    from vlm_heads.contrasts.favoured_modality import FavouredModality
    from vlm_heads.contrasts.image_free import ImageFree
    from vlm_heads.contrasts.leading_question import LeadingQuestion
    from vlm_heads.contrasts.least_attended import LeastAttended
    from vlm_heads.contrasts.masked_heads import MaskedHeads
    from vlm_heads.contrasts.most_attended import MostAttended
    from vlm_heads.contrasts.noised_image import NoisedImage
    from vlm_heads.contrasts.prior_and_bias import PriorAndBias
    from vlm_heads.contrasts.steered_attention import SteeredAttention
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
    from vlm_heads.interventions.adaptive_generated_boost import AdaptiveGeneratedBoost
    from vlm_heads.interventions.attention_registers import AttentionRegisters
    from vlm_heads.interventions.base import Intervention
    from vlm_heads.interventions.causal_route_gating import CausalRouteGating
    from vlm_heads.interventions.dense_head_copy import DenseHeadCopy
    from vlm_heads.interventions.evidence_attention import EvidenceAttention
    from vlm_heads.interventions.generated_boost import GeneratedBoost
    from vlm_heads.interventions.head_reinforcement import HeadReinforcement
    from vlm_heads.interventions.image_boost import ImageBoost
    from vlm_heads.interventions.listed_heads import ListedHeads
    from vlm_heads.interventions.low_image_heads import LowImageHeads
    from vlm_heads.interventions.progressive_value_gain import ProgressiveValueGain
    from vlm_heads.interventions.route_gain import RouteGain
    from vlm_heads.interventions.salient_boost import SalientBoost
    from vlm_heads.interventions.shared_image_boost import SharedImageBoost
    from vlm_heads.interventions.sink_redistribution import SinkRedistribution
    from vlm_heads.interventions.static_gains import StaticGains
    from vlm_heads.interventions.text_bound_heads import TextBoundHeads
    from vlm_heads.interventions.uniform_calibration import UniformCalibration
    from vlm_heads.interventions.visual_fusion import VisualFusion
    from vlm_heads.lenses.base import Lens
    from vlm_heads.lenses.early_answer import EarlyAnswer
    from vlm_heads.lenses.first_logits import FirstLogits
    from vlm_heads.lenses.layer_contrast import LayerContrast
    from vlm_heads.lenses.textual_heads import TextualHeads
    from vlm_heads.methods import (
        known_checks,
        known_contrasts,
        known_interventions,
        known_lenses,
        known_methods,
        known_pipelines,
        parse_intervention,
        parse_method,
    )
    from vlm_heads.mitigation import Mitigation, parse_mitigation
    from vlm_heads.models.prompts import DEFAULT_PROMPT
    from vlm_heads.pipelines.base import Pipeline
    from vlm_heads.pipelines.contrastive_crop import ContrastiveCrop
    from vlm_heads.pipelines.over_trust_penalty import OverTrustPenalty
    from vlm_heads.profile import HeadProfile
    from vlm_heads.profiles.fold_checkpoint import Folded, fold_checkpoint
    from vlm_heads.receipt import Receipt
    from vlm_heads.scoring import score_heads
    from vlm_heads.steering.base import Steering
    from vlm_heads.steering.image_refresh import ImageRefresh
    from vlm_heads.steering.image_steering import ImageSteering
    from vlm_heads.steering.risk_boost import RiskBoost
    from vlm_heads.steering.truthful_direction import TruthfulDirection
    from vlm_heads.toolkit.method import Method, Paper
    from vlm_heads.toolkit.options import option
    from vlm_heads.version import __version__
    from vlm_heads.vlm import VLM, Answer

__all__ = [
    "DEFAULT_PROMPT",
    "VLM",
    "AdaptiveGeneratedBoost",
    "AlreadyAttached",
    "Anatomy",
    "Answer",
    "AskBack",
    "Attachment",
    "AttentionCall",
    "AttentionRegisters",
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
    "CounterfactualAttention",
    "DenseHeadCopy",
    "DescribedPicture",
    "DisturbedPrompt",
    "EarlyAnswer",
    "EvidenceAttention",
    "FadingImage",
    "FavouredModality",
    "FirstLogits",
    "Folded",
    "GeneratedBoost",
    "HeadProfile",
    "HeadReinforcement",
    "ImageBoost",
    "ImageFree",
    "ImageRefresh",
    "ImageSteering",
    "Intervention",
    "LayerContrast",
    "LeadingQuestion",
    "LeastAttended",
    "Lens",
    "ListedHeads",
    "LowImageHeads",
    "MaskedHeads",
    "Method",
    "Mitigation",
    "MostAttended",
    "NoSinks",
    "NoisedImage",
    "NothingIntervened",
    "OverTrustPenalty",
    "Paper",
    "Pipeline",
    "PriorAndBias",
    "ProgressiveValueGain",
    "Receipt",
    "RiskBoost",
    "RouteGain",
    "SalientBoost",
    "SharedImageBoost",
    "SinkRedistribution",
    "StaticGains",
    "SteeredAttention",
    "Steering",
    "TextBoundHeads",
    "TextualHeads",
    "TokenGrounding",
    "TruthfulDirection",
    "UniformCalibration",
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
    "known_lenses",
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
    "contrasts.counterfactual_attention": "CounterfactualAttention",
    "contrasts.described_picture": "DescribedPicture",
    "contrasts.disturbed_prompt": "DisturbedPrompt",
    "contrasts.fading_image": "FadingImage",
    "contrasts.favoured_modality": "FavouredModality",
    "contrasts.image_free": "ImageFree",
    "contrasts.leading_question": "LeadingQuestion",
    "contrasts.least_attended": "LeastAttended",
    "contrasts.masked_heads": "MaskedHeads",
    "contrasts.most_attended": "MostAttended",
    "contrasts.noised_image": "NoisedImage",
    "contrasts.prior_and_bias": "PriorAndBias",
    "contrasts.steered_attention": "SteeredAttention",
    "errors": "AlreadyAttached BadImage BadOption BadProfile BadPrompt NoSinks "
    "NothingIntervened UnknownModel UnsupportedGeneration UnsupportedModel VlmHeadsError",
    "families": "Anatomy examine",
    "fold": "fold_gains",
    "grounding": "TokenGrounding token_grounding",
    "interventions.adaptive_generated_boost": "AdaptiveGeneratedBoost",
    "interventions.attention_registers": "AttentionRegisters",
    "interventions.base": "Intervention",
    "interventions.causal_route_gating": "CausalRouteGating",
    "interventions.dense_head_copy": "DenseHeadCopy",
    "interventions.evidence_attention": "EvidenceAttention",
    "interventions.generated_boost": "GeneratedBoost",
    "interventions.head_reinforcement": "HeadReinforcement",
    "interventions.image_boost": "ImageBoost",
    "interventions.listed_heads": "ListedHeads",
    "interventions.low_image_heads": "LowImageHeads",
    "interventions.progressive_value_gain": "ProgressiveValueGain",
    "interventions.route_gain": "RouteGain",
    "interventions.salient_boost": "SalientBoost",
    "interventions.shared_image_boost": "SharedImageBoost",
    "interventions.sink_redistribution": "SinkRedistribution",
    "interventions.static_gains": "StaticGains",
    "interventions.text_bound_heads": "TextBoundHeads",
    "interventions.uniform_calibration": "UniformCalibration",
    "interventions.visual_fusion": "VisualFusion",
    "lenses.base": "Lens",
    "lenses.early_answer": "EarlyAnswer",
    "lenses.first_logits": "FirstLogits",
    "lenses.layer_contrast": "LayerContrast",
    "lenses.textual_heads": "TextualHeads",
    "methods": "known_checks known_contrasts known_interventions known_lenses known_methods known_pipelines "
    "parse_intervention parse_method",
    "mitigation": "Mitigation parse_mitigation",
    "models.prompts": "DEFAULT_PROMPT",
    "pipelines.base": "Pipeline",
    "pipelines.contrastive_crop": "ContrastiveCrop",
    "pipelines.over_trust_penalty": "OverTrustPenalty",
    "profile": "HeadProfile",
    "profiles.fold_checkpoint": "Folded fold_checkpoint",
    "receipt": "Receipt",
    "scoring": "score_heads",
    "steering.base": "Steering",
    "steering.image_refresh": "ImageRefresh",
    "steering.image_steering": "ImageSteering",
    "steering.risk_boost": "RiskBoost",
    "steering.truthful_direction": "TruthfulDirection",
    "toolkit.method": "Method Paper",
    "toolkit.options": "option",
    "vlm": "VLM Answer",
    "version": "__version__",
}

if not TYPE_CHECKING:  # a type checker would take any name for known
    __getattr__, __dir__ = lazy_names(__name__, _HOMES, modules="errors methods models profiles scorers")

keep_old_names()
