"""Find the attention heads that look at the image, and give them and the image the weight they lost."""

from vlm_heads.attach import Attachment, attach
from vlm_heads.contrast_methods import known_contrasts
from vlm_heads.fold import fold_gains
from vlm_heads.grounding import TokenGrounding, token_grounding
from vlm_heads.interventions.head_reinforcement import HeadReinforcement
from vlm_heads.interventions.image_boost import ImageBoost
from vlm_heads.interventions.route_gain import RouteGain
from vlm_heads.interventions.salient_boost import SalientBoost
from vlm_heads.interventions.sink_redistribution import SinkRedistribution
from vlm_heads.interventions.static_gains import StaticGains
from vlm_heads.methods import known_interventions, parse_intervention
from vlm_heads.mitigation import Mitigation, parse_mitigation
from vlm_heads.profile import HeadProfile
from vlm_heads.profiles.fold_checkpoint import Folded, fold_checkpoint
from vlm_heads.scoring import score_heads
from vlm_heads.vlm import VLM, Answer

__all__ = [
    "VLM",
    "Answer",
    "Attachment",
    "Folded",
    "HeadProfile",
    "HeadReinforcement",
    "ImageBoost",
    "Mitigation",
    "RouteGain",
    "SalientBoost",
    "SinkRedistribution",
    "StaticGains",
    "TokenGrounding",
    "attach",
    "fold_checkpoint",
    "fold_gains",
    "known_contrasts",
    "known_interventions",
    "parse_intervention",
    "parse_mitigation",
    "score_heads",
    "token_grounding",
]
