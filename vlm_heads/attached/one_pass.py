"""Two streams, one pass: the rows of a second stream, or of several, run in the forwards of the first.

Decoding reads the weights once for each forward, so two rows cost little more than one. The model's forward, its
decoder layers and their linear layers are stood in for while an attach lasts, and the caller's `generate` sees its own
rows alone.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from vlm_heads import attention
from vlm_heads.attached.installing import switched
from vlm_heads.attached.layer_steps import Layer, UnderWay
from vlm_heads.attached.pair import Pair, Parts
from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.attached.split_attention import SplitAttention
from vlm_heads.attached.stacked_rows import only_appends
from vlm_heads.attached.two_rows import linear_of_two, takes_two_rows
from vlm_heads.families import Anatomy
from vlm_heads.models.placement import input_device


class OnePass:
    """Lets second streams of a model run in the forwards of the first, one pair for each call of `generate`.

    Attributes:
        why: why no forward of this model can hold rows of both streams; empty where they can.

    Args:
        model: that generates.
        anatomy: of it.
        why_apart: why they are not to, whatever the model can; empty where they may.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, why_apart: str = "") -> None:
        self.why = why_apart or why_not(model, anatomy)
        self._under_way = UnderWay()
        self._mine = _OfOneThread()
        self._modules = list(anatomy.attentions.values())
        self._runner = SplitAttention(self._under_way, self._modules)
        appending = {kind for kind in {type(module) for module in self._modules} if only_appends(kind)}
        stacks = frozenset(
            layer for layer, one in anatomy.attentions.items() if type(one) in appending and _mixes_once(anatomy, layer)
        )
        self._parts = Parts(model, anatomy, self._runner, self._under_way, stacks)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Stand in for the model's forwards while the context lasts; leave them alone where that helps nothing."""
        if self.why:
            yield
            return
        model, anatomy = self._parts.model, self._parts.anatomy
        with ExitStack() as undo:
            if not attention.is_bound(self._modules[0]):
                undo.enter_context(switched(anatomy))
            undo.enter_context(self._runner.bound())
            undo.enter_context(_standing_in(model, self._model_forward))
            for index, layer in enumerate(anatomy.layers):
                undo.enter_context(_standing_in(layer, functools.partial(self._layer_forward, index)))
            for linear in _linears(model, anatomy):
                undo.enter_context(_standing_in(linear, functools.partial(self._linear_forward, linear)))
            yield

    def begin(self, streams: Sequence[SecondStream]) -> None:
        """Let what this thread generates next have these streams beside it."""
        self._mine.pair = Pair(streams, self._parts, self.why)

    def end(self) -> tuple[Sequence[SecondStream], str]:
        """Let go of this thread's other streams; return them, and why they ran forwards of their own, or nothing."""
        pair, self._mine.pair = self._mine.pair, None
        return ((), "") if pair is None else (pair.streams, pair.end())

    def _model_forward(self, forward: Layer, *args: Any, **kwargs: Any) -> Any:
        pair = self._mine.pair
        return forward(*args, **kwargs) if pair is None or args else pair.forward(forward, kwargs)

    def _layer_forward(self, index: int, forward: Layer, *args: Any, **kwargs: Any) -> Any:
        step = self._under_way.step
        return forward(*args, **kwargs) if step is None else step.run(index, forward, args, kwargs)

    def _linear_forward(self, module: nn.Linear, forward: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        two = self._under_way.one_pass and rows.shape[:-1] == (2, 1) and takes_two_rows(module)
        return linear_of_two(module, rows) if two else forward(rows)


class _OfOneThread(threading.local):
    """The call of `generate` that a thread has under way, with its two streams."""

    def __init__(self) -> None:
        self.pair: Pair | None = None


def why_not(model: nn.Module, anatomy: Anatomy) -> str:
    """Return why no forward of a model can usefully hold rows of two streams; empty where it can."""
    modules = list(anatomy.attentions.values())
    if isinstance(attention.runner_of(modules[0]), SplitAttention):
        return "another contrast is attached around this one"
    if anatomy.quirks.cross_attention:
        return "the image is read through cross-attention"
    if len({input_device(module) for module in modules}) > 1:
        return "the layers are on several devices"
    if any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules()):
        return "the model is compiled"
    for module in modules:
        own = str(getattr(getattr(module, "config", None), "_attn_implementation", None))
        if attention.base_of(own) not in attention.MASKS:
            return f"attention is computed by {own}"
    return ""


def _mixes_once(anatomy: Anatomy, layer: int) -> bool:
    """Whether nothing but a layer's attention mixes positions in it."""
    known = (anatomy.attentions[layer], anatomy.layers[layer])
    return all(one in known or getattr(one, "layer_idx", None) is None for one in anatomy.layers[layer].modules())


def _linears(model: Any, anatomy: Anatomy) -> Iterable[nn.Linear]:
    """Yield the linear layers of the decoder and the head that nobody else stands in for."""
    for parent in (*anatomy.layers, model.get_output_embeddings()):
        for module in parent.modules() if isinstance(parent, nn.Module) else ():
            if type(module) is nn.Linear and "forward" not in vars(module) and takes_two_rows(module):
                yield module


@contextmanager
def _standing_in(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let `forward`, given the module's own, run in its place while the context lasts."""
    own, instance = module.forward, vars(module)
    before = instance.get("forward")
    instance["forward"] = functools.wraps(own)(functools.partial(forward, own))
    try:
        yield
    finally:
        instance.pop("forward")
        if before is not None:
            instance["forward"] = before
