"""Head gains inside vLLM: each layer's head outputs are multiplied before the output projection.

vLLM's Transformers backend reaches attention through `ALL_ATTENTION_FUNCTIONS["vllm"]`, with the attention module in
hand. So the gains stand on the modules, put there when the engine has made its model, and one function around vLLM's
own multiplies by them. Weights stay as they are. It is written for vLLM 0.32.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vlm_app.bridges.engine_gains import Share, own_defaults, scaled_heads, static_gains
from vlm_app.bridges.vllm_names import PROFILE
from vlm_heads import Anatomy, examine
from vlm_heads.errors import UnsupportedModel

ATTENTION = "vllm"  # vLLM's name in the attention interface
GAINS = "vlm_heads_gains"  # buffer of an attention module, float32 [Hq] of this rank
CHANGE = "vlm_heads_change"  # of an attention module, where requests have gains of their own

Change = Callable[[int, nn.Module, Tensor], Tensor]  # layer, attention module, head outputs [T, Hq * D] -> the same
Attention = Callable[..., tuple[Tensor, Any]]
_waiting: dict[int, Changes] = {}


class Changes(Protocol):
    """Gains of each request, in the place of gains for all."""

    def bind(self, anatomy: Anatomy, everywhere: Tensor | None, share: Share) -> Change:
        """Return what changes head outputs.

        Args:
            anatomy: of the model that the engine made.
            everywhere: float32 `[L, Hq]`, the gains of requests that say nothing, or None.
            share: the heads of this rank.
        """
        ...


def install() -> None:
    """Let every model that vLLM makes in this process get the gains; a second call does nothing."""
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    made = BaseModelLoader.create_model
    if getattr(made, "vlm_heads", False):
        return

    @functools.wraps(made)
    def create_model(self: Any, vllm_config: Any, model_config: Any, prefix: str = "") -> nn.Module:
        model: nn.Module = made(self, vllm_config, model_config, prefix)
        if model_config is vllm_config.model_config:  # a draft model guesses tokens and decides none
            _bind_engine(model, vllm_config)
        return model

    create_model.vlm_heads = True  # type: ignore[attr-defined]
    BaseModelLoader.create_model = create_model


def let_requests_choose(vllm_config: Any, changes: Changes) -> None:
    """Let requests have gains of their own in the model that vLLM makes next with this config."""
    install()
    _waiting[id(vllm_config)] = changes


def refuse_engine(vllm_config: Any) -> None:
    """Raise `UnsupportedModel` if the engine runs the model in a way that gains cannot follow."""
    parallel = vllm_config.parallel_config
    if not vllm_config.model_config.using_transformers_backend():
        raise UnsupportedModel(
            f"vLLM runs {vllm_config.model_config.architecture} by its own code, whose attention asks nobody: serve "
            "with --model-impl transformers, or fold the gains into the checkpoint (`vlm-heads fold`)"
        )
    if parallel.pipeline_parallel_size > 1:
        raise UnsupportedModel(
            "pipeline parallelism is not followed: use --tensor-parallel-size, or a folded checkpoint"
        )
    if parallel.use_ubatching:
        raise UnsupportedModel("micro-batches (--enable-dbo) are not followed: leave them out, or fold the checkpoint")


def bind(model: nn.Module, gains: Tensor | None, share: Share, changes: Changes | None = None) -> None:
    """Put the gains on the attention modules of a model whose attention is vLLM's.

    Args:
        model: of transformers, as vLLM's Transformers backend holds it.
        gains: float32 `[L, Hq]`, or None.
        share: which heads this rank computes.
        changes: gains of each request, which take the place of `gains`.

    Raises:
        UnsupportedModel: if a layer's attention is not the one that is reached here.
    """
    anatomy = examine(model)
    with own_defaults():
        change = None if changes is None else changes.bind(anatomy, gains, share)
    for layer, module in anatomy.attentions.items():
        config: Any = module.config
        implementation = config._attn_implementation
        if implementation != ATTENTION:
            raise UnsupportedModel(
                f"layer {layer} asks for attention {implementation!r}, and gains reach {ATTENTION!r}"
            )
        if change is not None:
            setattr(module, CHANGE, functools.partial(change, layer))
        elif gains is not None and bool((gains[layer] != 1).any()):
            local = share.of(gains[layer]).to(next(anatomy.projections[layer].parameters()).device)
            module.register_buffer(GAINS, local.contiguous(), persistent=False)
    _stand_around()


def _bind_engine(model: Any, vllm_config: Any) -> None:
    from vllm.distributed import get_tensor_model_parallel_rank

    changes, what = _waiting.pop(id(vllm_config), None), os.environ.get(PROFILE)
    if changes is None and not what:
        return
    refuse_engine(vllm_config)
    gains = static_gains(what, examine(model.model)) if what else None
    share = Share(get_tensor_model_parallel_rank(), vllm_config.parallel_config.tensor_parallel_size)
    bind(model.model, gains, share, changes)
    if gains is not None:
        # compiled code is kept under what the config says, and must not serve other gains
        vllm_config.additional_config["vlm_heads"] = hashlib.sha256(gains.numpy().tobytes()).hexdigest()


def _stand_around() -> None:
    """Stand around vLLM's attention function, once."""
    plain = ALL_ATTENTION_FUNCTIONS[ATTENTION]
    if not getattr(plain, "vlm_heads", False):
        AttentionInterface.register(ATTENTION, _around(plain))


def _around(plain: Attention) -> Attention:
    def attention(module: nn.Module, *args: Any, **settings: Any) -> tuple[Tensor, Any]:
        output, weights = plain(module, *args, **settings)
        change = getattr(module, CHANGE, None)
        if change is not None:
            return change(module, output), weights
        gains = getattr(module, GAINS, None)
        return (output if gains is None else scaled_heads(output, gains)), weights

    attention.vlm_heads = True  # type: ignore[attr-defined]
    return attention
