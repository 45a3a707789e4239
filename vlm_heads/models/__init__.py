"""Models, images and prompts: from a name to inputs. An image is read without importing torch."""

from typing import TYPE_CHECKING

from vlm_heads.lazy import lazy_names

if TYPE_CHECKING:
    from vlm_heads.models.images import ImageSource, load_image
    from vlm_heads.models.loading import Embedded, checkpoint_folder, embedded_models
    from vlm_heads.models.planted import planted_image
    from vlm_heads.models.planted_sinks import image_with_sinks
    from vlm_heads.models.prompts import DEFAULT_PROMPT, Conversation, Prompt, Turn, chat_text, model_inputs

__all__ = [
    "DEFAULT_PROMPT",
    "Conversation",
    "Embedded",
    "ImageSource",
    "Prompt",
    "Turn",
    "chat_text",
    "checkpoint_folder",
    "embedded_models",
    "image_with_sinks",
    "load_image",
    "model_inputs",
    "planted_image",
]

_HOMES = {
    "images": "ImageSource load_image",
    "loading": "Embedded checkpoint_folder embedded_models",
    "planted": "planted_image",
    "planted_sinks": "image_with_sinks",
    "prompts": "DEFAULT_PROMPT Conversation Prompt Turn chat_text model_inputs",
}

if not TYPE_CHECKING:  # a type checker would take any name for known
    __getattr__, __dir__ = lazy_names(__name__, _HOMES)
