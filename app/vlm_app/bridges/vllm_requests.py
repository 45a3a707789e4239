"""Gains of each request inside vLLM: `--logits-processors vlm_app.bridges.vllm_requests:RequestGains`.

Attention in vLLM sees rows and no requests. Where a request's rows lie is in the forward context, as `query_start_loc`
of the attention's metadata. Whose they are is told to logits processors: before each forward they hear which request
came to which place of the batch, with its sampling parameters. So a logits processor that leaves logits alone is how a
request's own arguments reach its heads. It is the interface of vLLM's first model runner.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from vllm.distributed import tensor_model_parallel_all_gather
from vllm.forward_context import get_forward_context
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from vlm_app.bridges.engine_gains import Share, static_gains
from vlm_app.bridges.request_gains import IMAGE_FREE, Arrival, RequestBatch, read_wish
from vlm_app.bridges.vllm_gains import Change, let_requests_choose
from vlm_app.bridges.vllm_names import PROFILES
from vlm_heads import Anatomy
from vlm_heads.errors import BadOption, BadProfile, UnsupportedModel


@cache
def named_profiles() -> Mapping[str, str]:
    """Return what `VLM_HEADS_PROFILES` lists, by name; nothing where it is not set.

    Raises:
        BadProfile: if the file is missing or damaged.
    """
    file = os.environ.get(PROFILES)
    if not file:
        return {}
    try:
        listed = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as damage:
        raise BadProfile(f"{PROFILES}={file}: {damage}") from damage
    if not isinstance(listed, dict) or not all(isinstance(one, str) for one in listed.values()):
        raise BadProfile(f'{PROFILES}={file}: an object of names is needed, as {{"careful": "FOLDER"}}')
    return listed


class RequestGains(LogitsProcessor):  # type: ignore[misc]
    """Follows vLLM's batch, so that each request's heads get what its `vlm_heads` asks for."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise `BadOption`, which vLLM answers with status 400, if a request asks for what there is not."""
        wish = read_wish(sampling_params.extra_args, named_profiles().keys())
        if wish == IMAGE_FREE and sampling_params.max_tokens != 1:
            raise BadOption(f"an {IMAGE_FREE} request is made for its prompt alone: give it max_tokens=1")

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        """Wait for the model that vLLM makes next.

        Raises:
            UnsupportedModel: if the engine keeps or replays what belongs to other requests.
        """
        if vllm_config.cache_config.enable_prefix_caching:
            raise UnsupportedModel(
                "kept prefixes were computed with another request's gains: --no-enable-prefix-caching"
            )
        if not vllm_config.model_config.enforce_eager:
            raise UnsupportedModel("compiled and recorded forwards ask nobody whose rows they run: --enforce-eager")
        self._device = device
        self._batch: RequestBatch | None = None
        self._context: object = None
        let_requests_choose(vllm_config, self)

    def bind(self, anatomy: Anatomy, everywhere: Tensor | None, share: Share) -> Change:
        """Return what changes a module's head outputs; see `vllm_gains.Changes`."""
        named = {name: static_gains(what, anatomy) for name, what in named_profiles().items()}
        self._batch = RequestBatch(anatomy, named, everywhere, share, _all_heads, self._device)
        return self._changed

    def is_argmax_invariant(self) -> bool:
        """Return False: a refused request ends at once."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the batch."""
        if batch_update is None or self._batch is None:
            return
        added = [
            Arrival(place, params.extra_args, prompt, answer, params.eos_token_id)
            for place, params, prompt, answer in batch_update.added
        ]
        moved = [(source, target, how is MoveDirectionality.SWAP) for source, target, how in batch_update.moved]
        self._batch.update(batch_update.removed, added, moved)

    def apply(self, logits: Tensor) -> Tensor:
        """End a refused request at its first token; leave all other logits alone."""
        refused = {} if self._batch is None else self._batch.refused()
        for place, stop in refused.items():
            logits[place] = -torch.inf
            logits[place, stop or 0] = 0.0
        return logits

    def _changed(self, layer: int, module: nn.Module, output: Tensor) -> Tensor:
        assert self._batch is not None, "bind() made it"
        context = get_forward_context()
        if context.attn_metadata is None:  # a forward that measures memory has no requests
            return output
        if context is not self._context:
            self._context = context
            attention: Any = module.attn
            self._batch.begin(context.attn_metadata[attention.layer_name].query_start_loc.tolist())
        return self._batch.applied(layer, output)


def _all_heads(heads: Tensor) -> Tensor:
    gathered: Tensor = tensor_model_parallel_all_gather(heads.contiguous(), dim=0)
    return gathered
