"""Models, images and prompts: from a name to inputs."""

from vlm_heads.models.images import ImageSource, load_image
from vlm_heads.models.loading import Embedded, checkpoint_folder, embedded_models
from vlm_heads.models.planted import planted_image
from vlm_heads.models.planted_sinks import image_with_sinks
from vlm_heads.models.prompts import DEFAULT_PROMPT, chat_text, model_inputs

__all__ = [
    "DEFAULT_PROMPT",
    "Embedded",
    "ImageSource",
    "chat_text",
    "checkpoint_folder",
    "embedded_models",
    "image_with_sinks",
    "load_image",
    "model_inputs",
    "planted_image",
]
