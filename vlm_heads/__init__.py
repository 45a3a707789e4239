"""Find the attention heads that look at the image, and give them and the image the weight they lost."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version

from vlm_heads.attach import Attachment, attach
from vlm_heads.attached.watcher import Watcher
from vlm_heads.call import AttentionCall
from vlm_heads.contrasts.base import Contrast
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
from vlm_heads.interventions.head_reinforcement import HeadReinforcement
from vlm_heads.interventions.image_boost import ImageBoost
from vlm_heads.interventions.low_image_heads import LowImageHeads
from vlm_heads.interventions.route_gain import RouteGain
from vlm_heads.interventions.salient_boost import SalientBoost
from vlm_heads.interventions.shared_image_boost import SharedImageBoost
from vlm_heads.interventions.sink_redistribution import SinkRedistribution
from vlm_heads.interventions.static_gains import StaticGains
from vlm_heads.interventions.text_bound_heads import TextBoundHeads
from vlm_heads.interventions.visual_fusion import VisualFusion
from vlm_heads.methods import known_contrasts, known_interventions, known_methods, parse_intervention, parse_method
from vlm_heads.mitigation import Mitigation, parse_mitigation
from vlm_heads.models.prompts import DEFAULT_PROMPT
from vlm_heads.profile import HeadProfile
from vlm_heads.profiles.fold_checkpoint import Folded, fold_checkpoint
from vlm_heads.scoring import score_heads
from vlm_heads.toolkit.method import Method, Paper
from vlm_heads.toolkit.options import option
from vlm_heads.vlm import VLM, Answer

try:
    __version__ = _version("vlm-heads")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+unknown"

__all__ = [
    "DEFAULT_PROMPT",
    "VLM",
    "AlreadyAttached",
    "Anatomy",
    "Answer",
    "Attachment",
    "AttentionCall",
    "BadImage",
    "BadOption",
    "BadProfile",
    "BadPrompt",
    "ChangedImage",
    "Contrast",
    "DisturbedPrompt",
    "FadingImage",
    "Folded",
    "HeadProfile",
    "HeadReinforcement",
    "ImageBoost",
    "ImageFree",
    "Intervention",
    "LeadingQuestion",
    "LowImageHeads",
    "Method",
    "Mitigation",
    "NoSinks",
    "NoisedImage",
    "NothingIntervened",
    "Paper",
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
    "known_contrasts",
    "known_interventions",
    "known_methods",
    "option",
    "parse_intervention",
    "parse_method",
    "parse_mitigation",
    "score_heads",
    "token_grounding",
]
