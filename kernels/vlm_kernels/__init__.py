"""Fast attention with edits, for any model: tensors in, tensors out. The written public list, and nothing else."""

from vlm_kernels.dispatch import Backend, attend, prepare_decode
from vlm_kernels.plan import CLASS_COUNT, MAX_CLASSES, AttentionPlan, Aux, KeyClass, Redistribution
from vlm_kernels.torch_decode import PreparedDecode, StepMask

__all__ = [
    "CLASS_COUNT",
    "MAX_CLASSES",
    "AttentionPlan",
    "Aux",
    "Backend",
    "KeyClass",
    "PreparedDecode",
    "Redistribution",
    "StepMask",
    "attend",
    "prepare_decode",
]
