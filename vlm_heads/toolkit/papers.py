"""Papers that more than one method comes from."""

from __future__ import annotations

from vlm_heads.toolkit.method import Paper

ADAIAT = Paper(
    "Zhong et al.",
    "AdaIAT: Adaptively Increasing Attention to Generated Text to Alleviate Hallucinations in LVLM",
    2026,
    "CVPR",
    "2603.04908",
)
PAI = Paper(
    "Liu et al.",
    "Paying More Attention to Image: A Training-Free Method for Alleviating Hallucination in LVLMs",
    2024,
    "ECCV",
    "2407.21771",
)
