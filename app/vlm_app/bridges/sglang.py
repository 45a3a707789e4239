"""Head gains inside SGLang, by its `--forward-hooks`: the outputs of every attention are multiplied, before `o_proj`.

SGLang 0.5 puts its hooks behind a module's forward and none before it, so a hook on `o_proj` would come too late. The
hook belongs on the attention itself, `*.self_attn.attn`, whose output is what `o_proj` receives, and which knows its
layer and how many heads its rank computes:

    --forward-hooks '[{"name": "vlm_heads", "target_modules": ["*.self_attn.attn"],
      "hook_factory": "vlm_app.bridges.sglang:head_gains", "config": {"profile": "FOLDER"}}]'
    --disable-decode-cuda-graph --disable-prefill-cuda-graph
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from vlm_app.bridges.engine_gains import Share, scaled_heads
from vlm_heads import HeadProfile
from vlm_heads.errors import BadOption, BadProfile, UnsupportedModel

Hook = Callable[[nn.Module, tuple[Any, ...], Any], Tensor | None]


def head_gains(config: Mapping[str, Any]) -> Hook:
    """Return the hook that SGLang puts on every attention; SGLang calls this once a process.

    Args:
        config: `profile` names a folder of a head profile with gains.

    Raises:
        BadOption: if it names none.
        BadProfile: if there is no such profile, or it holds no gains.
        UnsupportedModel: if SGLang replays recorded forwards, in which no hook is run.
    """
    from sglang.srt.model_executor.cuda_graph_config import cuda_graph_fully_disabled
    from sglang.srt.runtime_context import get_parallel

    if set(config) != {"profile"}:
        raise BadOption('the hook\'s config is {"profile": "FOLDER"} and no more, not ' + repr(dict(config)))
    profile = HeadProfile.from_pretrained(config["profile"])
    if profile.gains is None:
        raise BadProfile(f"{config['profile']} holds scores and no gains; `vlm-heads calibrate` makes gains")
    if not cuda_graph_fully_disabled():
        raise UnsupportedModel(
            "SGLang runs no hook when it replays a recorded forward, so most tokens would go without the gains: serve "
            "with --disable-decode-cuda-graph --disable-prefill-cuda-graph, or a folded checkpoint"
        )
    return gain_hook(profile.gains, get_parallel().attn_tp_rank)


def gain_hook(gains: Tensor, rank: int = 0) -> Hook:
    """Return a hook behind an attention that multiplies its heads' outputs.

    Args:
        gains: float32 `[L, Hq]`.
        rank: of the ranks that share the heads; how many there are is seen from the heads that the attention computes.
    """
    layers, heads = gains.shape
    held: dict[int, Tensor | None] = {}

    def local(attention: Any, device: Any) -> Tensor | None:
        """Return this rank's gains of the attention's layer; None where all are 1."""
        layer, count = getattr(attention, "layer_id", None), getattr(attention, "tp_q_head_num", 0)
        if layer is None or not count:
            raise UnsupportedModel(f"{type(attention).__name__} is no attention of a decoder layer: put the hook there")
        if layer >= layers or heads % count:
            raise BadProfile(f"the profile has {layers} layers of {heads} heads; layer {layer} here computes {count}")
        own = Share(rank, heads // count).of(gains[layer])
        return own.to(device) if bool((own != 1).any()) else None

    def multiplied(attention: nn.Module, _: tuple[Any, ...], output: Any) -> Tensor | None:
        if not isinstance(output, Tensor):
            raise UnsupportedModel(
                f"{type(attention).__name__} returns more than head outputs, and gains know those only"
            )
        if id(attention) not in held:
            held[id(attention)] = local(attention, output.device)
        own = held[id(attention)]
        return None if own is None else scaled_heads(output, own)

    return multiplied
