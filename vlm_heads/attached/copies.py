"""No copy of an attached model: it would carry hooks, and a `generate`, that belong to the original."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from torch import nn

from vlm_heads.errors import AlreadyAttached

# copy.deepcopy; copy.copy, pickle and torch.save; DataParallel's copies on other devices
_HOW_COPIES_ARE_MADE = ("__deepcopy__", "__reduce_ex__", "_replicate_for_data_parallel")


@contextmanager
def no_copies(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let copying or pickling any of these modules, and all that hold one, fail while the context lasts.

    Weights stay free: `state_dict` and `save_pretrained` work.
    """
    guarded = list(modules)
    before = [{name: vars(module)[name] for name in _HOW_COPIES_ARE_MADE if name in vars(module)} for module in guarded]
    for module in guarded:
        vars(module).update(dict.fromkeys(_HOW_COPIES_ARE_MADE, _refuse))
    try:
        yield
    finally:
        for module, own in zip(guarded, before, strict=True):
            for name in _HOW_COPIES_ARE_MADE:
                del vars(module)[name]
            vars(module).update(own)


def _refuse(*_: Any) -> NoReturn:
    raise AlreadyAttached(
        "the model is inside attach, and a copy or a pickle of it would go on with this one's hooks: copy it before "
        "attach or after; its weights alone can be saved by save_pretrained or state_dict()"
    )
