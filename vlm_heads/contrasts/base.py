"""What a contrast is: a frozen dataclass that says what the second stream sees and how the two streams are weighed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor, nn

from vlm_heads.attached.second_stream import SecondStream, require_second_stream
from vlm_heads.blind import TextOnly, refuse_sound
from vlm_heads.contrast import ContrastProcessor, Weights
from vlm_heads.errors import BadOption
from vlm_heads.families import Anatomy, examine
from vlm_heads.key_map import KeyMap
from vlm_heads.toolkit.method import Method
from vlm_heads.toolkit.options import option

Build = Callable[[Sequence[Image.Image], Sequence[str]], dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """One batch as the first stream gets it, from which a second stream makes its own.

    Attributes:
        model: that generates.
        inputs: the model's.
        images: upright RGB, one per row; empty where the inputs alone are known.
        prompts: one per row; empty where the inputs alone are known.
        build: makes inputs of other images and prompts; None where the inputs alone are known.
    """

    model: nn.Module
    inputs: Mapping[str, Any]
    images: Sequence[Image.Image] = ()
    prompts: Sequence[str] = ()
    build: Build | None = None

    def asking(self, text: str) -> dict[str, Any]:
        """Return inputs with a text put before every prompt."""
        return self.showing(self.images, [f"{text} {prompt}" for prompt in self.prompts])

    def showing(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> dict[str, Any]:
        """Return inputs of other images, and of other prompts where they are given."""
        assert self.build is not None, "a contrast with needs_inputs_alone=False is given images and prompts"
        return self.build(images, self.prompts if prompts is None else prompts)

    def without_image(self) -> SecondStream:
        """Return the stream of the same prompts with their image tokens deleted.

        Raises:
            BadOption: if no prompt has an image.
            UnsupportedGeneration: if a prompt has sound.
        """
        ids: Tensor = self.inputs["input_ids"]
        anatomy = examine(self.model)
        refuse_sound(ids, anatomy)
        key_map = KeyMap.of_prompt(ids, self.inputs.get("attention_mask"), *anatomy.vision_token_ids)
        if not key_map.any_image:
            raise BadOption(
                "no prompt has an image, so a stream without the image would be the first stream itself; give an image"
            )
        kept = TextOnly.of_classes(key_map.classes).of_inputs(self.inputs, {})
        inputs = {name: kept[name] for name in kept if name not in ("use_cache", "position_ids")}
        return SecondStream(self.model, inputs)


@dataclass(frozen=True)
class Contrast(Method):
    """A second stream of token logits beside a generation.

    A subclass states a name, its options, `second_stream` and `weights`.

    Attributes:
        needs_inputs_alone: whether the model's inputs are enough to make the second stream. `attach` adds such a
            contrast by itself; the others need the image and the prompt and go through `VLM.answer`.
    """

    lever: ClassVar[str] = "second stream"
    passes: ClassVar[int] = 2
    needs_inputs_alone: ClassVar[bool] = True

    bound: float = option(
        0.1,
        at_least=0.0,
        at_most=1.0,
        help="tokens less probable than this share of the first stream's most probable one are excluded",
        kw_only=True,
    )

    def check(self, anatomy: Anatomy) -> None:
        """Raise `UnsupportedModel` if the family cannot run a second stream; called before anything changes."""
        require_second_stream(anatomy)

    @abstractmethod
    def second_stream(self, asked: Asked) -> SecondStream:
        """Return the second stream of a batch.

        Raises:
            BadOption: if there is no image to contrast with.
            UnsupportedModel: if the family cannot run a second stream.
        """
        ...

    @abstractmethod
    def weights(self, step: int) -> tuple[float, float]:
        """Return the weights of the first and the second stream at a step, counted from 0."""
        ...

    def mask(self) -> float:
        """Return the share of the most probable token's probability below which tokens are excluded; 0 for no mask."""
        return self.bound

    def gate(self) -> float | None:
        """Return the probability that leaves a row alone where its most probable token reaches it; None for no gate."""
        return None

    def processor(self, asked: Asked) -> ContrastProcessor:
        """Return what `generate` takes as a logits processor; for this batch alone.

        Raises:
            BadOption, UnsupportedModel: see `second_stream`.
        """
        weigh: Weights = self.weights
        return ContrastProcessor(self.second_stream(asked), weigh, self.mask(), self.gate())
