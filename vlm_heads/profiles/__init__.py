"""Learning about heads, and writing what was learnt into a checkpoint."""

from vlm_heads.directions import Directions, TowerDirections
from vlm_heads.profiles.blank_attention import BlankAttention, blank_attention
from vlm_heads.profiles.fold_checkpoint import Folded, fold_checkpoint
from vlm_heads.profiles.gain_proposals import GainShape, propose_gains
from vlm_heads.profiles.generated_attention import GeneratedAttention, generated_attention
from vlm_heads.profiles.head_attribution import MarkedAnswer, attribute_heads, worst_heads
from vlm_heads.profiles.sink_shares import sink_shares
from vlm_heads.profiles.tower_directions import find_tower_directions
from vlm_heads.profiles.truthful_directions import CaptionPair, find_directions, read_caption_pairs
from vlm_heads.toolkit.head_ranking import read_ranking, scores_of, write_ranking
from vlm_heads.toolkit.sink_channels import SinkChannels, find_sink_channels, find_sinks
from vlm_heads.toolkit.sink_criterion import (
    MEDIAN_FACTOR,
    RELATIVE_THRESHOLD,
    SinkCriterion,
    sink_strength,
    times_median,
)

__all__ = [
    "MEDIAN_FACTOR",
    "RELATIVE_THRESHOLD",
    "BlankAttention",
    "CaptionPair",
    "Directions",
    "Folded",
    "GainShape",
    "GeneratedAttention",
    "MarkedAnswer",
    "SinkChannels",
    "SinkCriterion",
    "TowerDirections",
    "attribute_heads",
    "blank_attention",
    "find_directions",
    "find_sink_channels",
    "find_sinks",
    "find_tower_directions",
    "fold_checkpoint",
    "generated_attention",
    "propose_gains",
    "read_caption_pairs",
    "read_ranking",
    "scores_of",
    "sink_shares",
    "sink_strength",
    "times_median",
    "worst_heads",
    "write_ranking",
]
