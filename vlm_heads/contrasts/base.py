"""What a contrast is: a frozen dataclass that says what the second stream sees and how the two streams are weighed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor, nn
from vlm_kernels import KeyClass

from vlm_heads.attached.second_stream import SecondStream, Showing, require_second_stream
from vlm_heads.attached.stream_edit import StreamEdit
from vlm_heads.blind import TextOnly, refuse_sound
from vlm_heads.contrast import ContrastProcessor, Weights
from vlm_heads.errors import BadOption, UnsupportedGeneration
from vlm_heads.families import Anatomy, examine
from vlm_heads.key_map import KeyMap
from vlm_heads.models.prompts import Prompt, preceded
from vlm_heads.toolkit.method import Method
from vlm_heads.toolkit.options import option

Build = Callable[[Sequence[Image.Image], Sequence[Prompt]], dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """One batch as the first stream gets it, from which a second stream makes its own.

    Attributes:
        model: that generates.
        inputs: the model's.
        images: upright RGB, one per row; empty where the inputs alone are known.
        prompts: one per row; empty where the inputs alone are known.
        build: makes inputs of other images and prompts; None where the inputs alone are known.
        decode: returns the text of one row's token ids `[n]`; None where the inputs alone are known.
    """

    model: nn.Module
    inputs: Mapping[str, Any]
    images: Sequence[Image.Image] = ()
    prompts: Sequence[Prompt] = ()
    build: Build | None = None
    decode: Callable[[Tensor], str] | None = None

    def asking(self, text: str) -> dict[str, Any]:
        """Return inputs with a text put before every prompt."""
        return self.showing(self.images, [preceded(prompt, text) for prompt in self.prompts])

    def showing(self, images: Sequence[Image.Image], prompts: Sequence[Prompt] | None = None) -> dict[str, Any]:
        """Return inputs of other images, and of other prompts where they are given."""
        assert self.build is not None, "a contrast with needs_inputs_alone=False is given images and prompts"
        return self.build(images, self.prompts if prompts is None else prompts)

    def again(self, *, edit: StreamEdit | None = None, showing: Showing | None = None) -> SecondStream:
        """Return the stream of the same inputs, with an edit of its own or with other features of the picture.

        Args:
            edit: what becomes of its attention.
            showing: see `SecondStream`.

        Raises:
            BadOption: if no prompt has an image.
            UnsupportedGeneration: if the image is in an earlier turn, and not given again.
            UnsupportedModel: if the family cannot run a second stream, or the edit cannot act on it.
        """
        if not self._key_map().any_image:
            raise BadOption(
                "no prompt has an image, so a second stream would be the first stream itself; give an image"
            )
        if not any(name.startswith("pixel_values") for name in self.inputs):
            raise UnsupportedGeneration(
                "the second stream reads the image too, and the conversation goes on from a cache without it: give the "
                "whole conversation with its image, and no cache"
            )
        return SecondStream(self.model, self.inputs, edit=edit, showing=showing)

    def image_positions(self) -> Tensor:
        """Return bool `[B, T]`: the prompt's positions that are an image's."""
        return self._key_map().classes == KeyClass.IMAGE

    def _key_map(self) -> KeyMap:
        anatomy = examine(self.model)
        return KeyMap.of_prompt(self.inputs["input_ids"], self.inputs.get("attention_mask"), *anatomy.vision_token_ids)

    def without_image(self, *, edit: StreamEdit | None = None) -> SecondStream:
        """Return the stream of the same prompts with their image tokens deleted.

        Args:
            edit: what becomes of its attention.

        Raises:
            BadOption: if no prompt has an image.
            UnsupportedGeneration: if a prompt has sound.
        """
        refuse_sound(self.inputs["input_ids"], examine(self.model))
        key_map = self._key_map()
        if not key_map.any_image:
            raise BadOption(
                "no prompt has an image, so a stream without the image would be the first stream itself; give an image"
            )
        kept = TextOnly.of_classes(key_map.classes).of_inputs(self.inputs, {})
        inputs = {name: kept[name] for name in kept if name not in ("use_cache", "position_ids")}
        return SecondStream(self.model, inputs, edit=edit)


@dataclass(frozen=True)
class Contrast(Method):
    """A second stream of token logits beside a generation.

    A subclass states a name, its options, `second_stream` and `weights`.

    Attributes:
        needs_inputs_alone: whether the model's inputs are enough to make the second stream. `attach` adds such a
            contrast by itself; the others need the image and the prompt and go through `VLM.answer`.
        judge: the stream whose probabilities tell plausible tokens; 0 is the first.
        weighs_the_first: whether the first stream is weighed at all. Interventions act in no other, so none goes beside
            a contrast that does not weigh it.
        trial: options under which it acts on any model that has image keys, even a tiny random one; the laws are tested
            with them.
    """

    lever: ClassVar[str] = "second stream"
    passes: ClassVar[int] = 2
    needs_inputs_alone: ClassVar[bool] = True
    judge: ClassVar[int] = 0
    weighs_the_first: ClassVar[bool] = True
    trial: ClassVar[Mapping[str, Any]] = {}

    bound: float = option(
        0.1,
        at_least=0.0,
        at_most=1.0,
        help="tokens less probable than this share of the most probable one are excluded",
        kw_only=True,
    )

    def check(self, anatomy: Anatomy) -> None:
        """Raise `UnsupportedModel` if the family cannot run a second stream; called before anything changes."""
        require_second_stream(anatomy)

    def check_model(self, model: nn.Module, anatomy: Anatomy) -> None:
        """Raise `UnsupportedModel` if another part than the language model is not as needed; called with `check`."""
        return

    def second_stream(self, asked: Asked) -> SecondStream:
        """Return the second stream of a batch; a method with several states `streams` in its place.

        Raises:
            BadOption: if there is no image to contrast with.
            UnsupportedModel: if the family cannot run a second stream.
        """
        raise NotImplementedError(f"{type(self).__name__} states neither second_stream nor streams")

    def streams(self, asked: Asked) -> tuple[SecondStream, ...]:
        """Return all streams of a batch beside the first; see `second_stream`."""
        return (self.second_stream(asked),)

    @abstractmethod
    def weights(self, step: int) -> tuple[float, ...]:
        """Return the weights of the first stream and each of the others at a step, counted from 0."""
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
        return ContrastProcessor(self.streams(asked), weigh, self.mask(), self.gate(), self.judge)
