"""Fast attention with edits, for any model: tensors in, tensors out. The written public list, and nothing else."""

from vlm_kernels.dispatch import attend
from vlm_kernels.plan import CLASS_COUNT, MAX_CLASSES, AttentionPlan, Aux, KeyClass, Redistribution

__all__ = [
    "CLASS_COUNT",
    "MAX_CLASSES",
    "AttentionPlan",
    "Aux",
    "KeyClass",
    "Redistribution",
    "attend",
]
