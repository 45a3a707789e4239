"""What a hidden state would say if it were the last one: the model's own head over it, and its last norm if wanted."""

from __future__ import annotations

import inspect
import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vlm_heads.errors import UnsupportedModel
from vlm_heads.families import Anatomy

_AFTER_HEAD = ("logit_scale", "logits_scaling", "final_logit_softcapping")


class _Asked(threading.local):
    """Whether a thread asks a head what a hidden state would say, so that its last norm runs outside a forward.

    Attributes:
        under_way: whether it does.
    """

    under_way = False


@dataclass(frozen=True)
class TokenHead:
    """The end of a language model: its last norm, its head, and what its family does to token logits.

    Attributes:
        norm: the last norm.
        head: the output embedding.
        scale: token logits are multiplied by it.
        cap: token logits are kept below it by a tanh; None leaves them.
        asked: what each thread has under way.
    """

    norm: nn.Module
    head: nn.Module
    scale: float = 1.0
    cap: float | None = None
    asked: _Asked = field(default_factory=_Asked, compare=False, repr=False)

    @classmethod
    def of(cls, model: nn.Module, anatomy: Anatomy) -> TokenHead:
        """Return the end of a model.

        Raises:
            UnsupportedModel: if it has no single last norm behind its layers, or no head.
        """
        norms = [module for name, module in anatomy.decoder.named_children() if "norm" in name]
        head: Any = model.get_output_embeddings()  # type: ignore[operator]
        between = getattr(anatomy.decoder, "project_out", None)
        if len(norms) != 1 or not isinstance(head, nn.Module) or between is not None:
            raise UnsupportedModel(
                f"{anatomy.model_type}: what a layer would say is read by one norm and the head behind the layers, and "
                f"this decoder has {len(norms)} norms there" + (" and a projection" if between is not None else "")
            )
        found = _after_head(model, head, anatomy.decoder.config)
        scale = found.get("logit_scale", 1.0) / found.get("logits_scaling", 1.0)
        return cls(norms[0], head, scale, found.get("final_logit_softcapping"))

    def logits(self, hidden: Tensor, norm: bool = True) -> Tensor:
        """Return token logits `[..., V]` of hidden states `[..., width]`, at least in float32.

        Args:
            hidden: what leaves a layer.
            norm: whether the last norm is applied first, as behind the last layer.
        """
        device = next(self.head.parameters()).device
        self.asked.under_way = True
        try:
            found: Tensor = self.head((self.norm(hidden) if norm else hidden).to(device))
        finally:
            self.asked.under_way = False
        wide = found if found.dtype == torch.float64 else found.float()
        wide = wide * self.scale if self.scale != 1.0 else wide
        return wide if self.cap is None else torch.tanh(wide / self.cap) * self.cap


def _after_head(model: nn.Module, head: nn.Module, config: Any) -> dict[str, float]:
    """Return what the forward that calls the head does to its output, by the name it has in the config.

    A config may state what only the text model's own forward does; so the forward is asked whether it reads it.
    """
    calling = next(module for module in model.modules() if any(child is head for child in module.children()))
    read = inspect.unwrap(type(calling).forward).__code__.co_names
    stated = {name: getattr(config, name, None) for name in _AFTER_HEAD if name in read}
    return {name: float(value) for name, value in stated.items() if value is not None}
