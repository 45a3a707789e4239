"""A prompt's forward in which the picture has other features than its own: for second streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from vlm_heads.errors import UnsupportedModel
from vlm_heads.families import Anatomy
from vlm_heads.toolkit.vision_salience import TowerAttention, listening

_PROJECTOR = "multi_modal_projector"


@contextmanager
def patches_times(model: nn.Module, anatomy: Anatomy, factors: Callable[[TowerAttention], Tensor]) -> Iterator[None]:
    """Multiply what the tower makes of each patch, before it is projected, while the context lasts.

    Args:
        model: whose tower it is.
        anatomy: of it.
        factors: returns `[N, P]` for `N` images of `P` patches; it is given the tower's attention in the same forward.

    Raises:
        UnsupportedModel: if there is no tower with a class token, or no projector that takes each of its patches.
    """
    projector = projector_of(model, anatomy)
    with listening(model, anatomy.decoder) as tower:

        def multiply(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            features, own = args[0], factors(tower)
            if features.shape[:2] != own.shape:
                raise UnsupportedModel(
                    f"the projector of {anatomy.model_type} takes {features.shape[1]} positions and the vision tower "
                    f"has {own.shape[1]} patches; one position for each patch is needed"
                )
            return (features * own[..., None].to(features.dtype), *args[1:])

        handle = projector.register_forward_pre_hook(multiply)
        try:
            yield
        finally:
            handle.remove()


def projector_of(model: nn.Module, anatomy: Anatomy) -> nn.Module:
    """Return what projects patches into the language model.

    Raises:
        UnsupportedModel: if it does not stand where LLaVA has it.
    """
    inside_decoder = set(anatomy.decoder.modules())
    for parent in model.modules():
        found = getattr(parent, _PROJECTOR, None)
        if isinstance(found, nn.Module) and found not in inside_decoder:
            return found
    raise UnsupportedModel(
        f"{anatomy.model_type} has no {_PROJECTOR} between its vision tower and its language model, so the features of "
        "patches cannot be changed there"
    )


@contextmanager
def embeddings_kept(anatomy: Anatomy, kept: Tensor) -> Iterator[None]:
    """Set embeddings to zero where they enter the language model, while the context lasts.

    Where a family adds features of the picture to later layers too, these are zero at the same positions.

    Args:
        anatomy: of the model.
        kept: bool `[B, T]`, false where a position of the prompt is zero.

    Raises:
        UnsupportedModel: if the language model is not given embeddings.
    """

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        embeddings = kwargs.get("inputs_embeds")
        if embeddings is None or embeddings.shape[:2] != kept.shape:
            raise UnsupportedModel(
                f"the language model of {anatomy.model_type} is not given one embedding for each position of the "
                "prompt, so none can be set to zero"
            )
        changed = kwargs | {"inputs_embeds": embeddings * kept[..., None]}
        later = kwargs.get("deepstack_visual_embeds")
        if later is not None:
            own = kept[kwargs["visual_pos_masks"]][:, None]
            changed["deepstack_visual_embeds"] = [features * own for features in later]
        return args, changed

    handle = anatomy.decoder.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
