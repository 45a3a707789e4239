"""The second-stream contrasts by name, as `--with vcd` and `VLM.answer(..., contrast=NoisedImage())` take them.

Each is a frozen dataclass whose fields are its options, as an intervention is, and says what its second stream sees.
The arithmetic is in `contrast.py`. A new one is a class in this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable
from zlib import crc32

from PIL import Image
from torch import nn

from vlm_heads import contrast
from vlm_heads.contrast import ContrastProcessor
from vlm_heads.errors import BadOption
from vlm_heads.toolkit.image_changes import DIFFUSION_STEPS, random_change
from vlm_heads.toolkit.options import require_number


@dataclass(frozen=True)
class Asked:
    """One batch of questions as the first stream gets it, from which a second stream makes its own.

    Attributes:
        model: that generates.
        images: upright RGB, one per row.
        prompts: one per row.
        inputs: of the model, made from both.
        build: makes inputs of other images and prompts.
    """

    model: nn.Module
    images: Sequence[Image.Image]
    prompts: Sequence[str]
    inputs: Mapping[str, Any]
    build: Callable[[Sequence[Image.Image], Sequence[str]], dict[str, Any]]

    def asking(self, text: str) -> dict[str, Any]:
        """Return inputs with a text put before every prompt."""
        return self.build(self.images, [f"{text} {prompt}" for prompt in self.prompts])


@runtime_checkable
class Contrast(Protocol):
    """A second stream beside a generation. Subclass it with a frozen dataclass whose fields are the options.

    Attributes:
        name: the word for it on the command line.
        neutral: options under which the answer is the first stream's.
    """

    name: ClassVar[str]
    neutral: ClassVar[Mapping[str, Any]]

    def processor(self, asked: Asked) -> ContrastProcessor:
        """Return what `generate` takes as a logits processor; for this batch alone.

        Raises:
            BadOption: if there is no image to contrast with.
            UnsupportedModel: if the family cannot run a second stream.
        """
        ...


@dataclass(frozen=True)
class NoisedImage(Contrast):
    """VCD (Leng et al., CVPR 2024): `(1 + alpha) z - alpha z(noised image)`.

    Attributes:
        alpha: strength; 0 changes nothing.
        bound: tokens less probable than this share of the most probable are excluded.
        noise_step: of the diffusion's 1000 steps.
        seed: of the noise, the same for every picture.
    """

    name: ClassVar[str] = "vcd"
    neutral: ClassVar[Mapping[str, Any]] = {"alpha": 0.0}

    alpha: float = 1.0
    bound: float = 0.1
    noise_step: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.bound, alpha=self.alpha)
        require_number("noise_step", self.noise_step, at_least=0, at_most=DIFFUSION_STEPS)

    def processor(self, asked: Asked) -> ContrastProcessor:
        return contrast.noised_image(
            asked.model, asked.inputs, alpha=self.alpha, bound=self.bound, noise_step=self.noise_step, seed=self.seed
        )


@dataclass(frozen=True)
class FadingImage(Contrast):
    """M3ID (Favero et al., CVPR 2024): the image-free stream is taken off more and more as the answer grows.

    Attributes:
        rate: at which the image is forgotten, a token; 0 changes nothing.
        bound: tokens less probable than this share of the most probable are excluded.
    """

    name: ClassVar[str] = "m3id"
    neutral: ClassVar[Mapping[str, Any]] = {"rate": 0.0}

    rate: float = 0.02
    bound: float = 0.1

    def __post_init__(self) -> None:
        _check(self.bound, rate=self.rate)

    def processor(self, asked: Asked) -> ContrastProcessor:
        return contrast.fading_image(asked.model, asked.inputs, rate=self.rate, bound=self.bound)


@dataclass(frozen=True)
class ImageFree(Contrast):
    """PAI's second half (Liu et al., ECCV 2024): `gamma z - (gamma - 1) z(no image)`; its first is `pai`.

    Attributes:
        gamma: strength; 1 changes nothing.
        bound: tokens less probable than this share of the most probable are excluded.
    """

    name: ClassVar[str] = "pai-contrast"
    neutral: ClassVar[Mapping[str, Any]] = {"gamma": 1.0}

    gamma: float = 1.1
    bound: float = 0.1

    def __post_init__(self) -> None:
        require_number("gamma", self.gamma, at_least=1.0)
        _check(self.bound)

    def processor(self, asked: Asked) -> ContrastProcessor:
        return contrast.image_free(asked.model, asked.inputs, gamma=self.gamma, bound=self.bound)


@dataclass(frozen=True)
class DisturbedPrompt(Contrast):
    """ICD (Wang et al., ACL 2024): `(1 + alpha) z - alpha z(disturbing instruction)`.

    Attributes:
        alpha: strength; 0 changes nothing.
        bound: tokens less probable than this share of the most probable are excluded.
        instruction: put before the prompt in the second stream. A model that does not know its words is disturbed by
            that instead.
    """

    name: ClassVar[str] = "icd"
    neutral: ClassVar[Mapping[str, Any]] = {"alpha": 0.0}

    alpha: float = 1.0
    bound: float = 0.1
    instruction: str = "You are a confused object detector."

    def __post_init__(self) -> None:
        _check(self.bound, alpha=self.alpha)

    def processor(self, asked: Asked) -> ContrastProcessor:
        return contrast.other_inputs(asked.model, asked.asking(self.instruction), alpha=self.alpha, bound=self.bound)


@dataclass(frozen=True)
class LeadingQuestion(Contrast):
    """LQCD (Zhao et al. 2024): `(1 + alpha) z(the question) - alpha z(the same question, led)`.

    The authors turn each question into a leading one by hand; here a text that leads is put before it.

    Attributes:
        alpha: strength; 0 changes nothing.
        bound: tokens less probable than this share of the most probable are excluded.
        lead: put before the prompt in the second stream.
    """

    name: ClassVar[str] = "lqcd"
    neutral: ClassVar[Mapping[str, Any]] = {"alpha": 0.0}

    alpha: float = 1.0
    bound: float = 0.1
    lead: str = "There are several objects in this picture and the answer is Yes."

    def __post_init__(self) -> None:
        _check(self.bound, alpha=self.alpha)

    def processor(self, asked: Asked) -> ContrastProcessor:
        return contrast.other_inputs(asked.model, asked.asking(self.lead), alpha=self.alpha, bound=self.bound)


@dataclass(frozen=True)
class ChangedImage(Contrast):
    """RITUAL (Woo et al. 2024): `z + weight z(changed image)`, an ensemble and no contrast.

    Attributes:
        weight: of the second stream; 0 changes nothing.
        bound: tokens less probable than this share of the most probable are excluded.
        seed: draws the change, with the picture: a picture is changed alike in every batch.
    """

    name: ClassVar[str] = "ritual"
    neutral: ClassVar[Mapping[str, Any]] = {"weight": 0.0}

    weight: float = 3.0
    bound: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.bound, weight=self.weight)

    def processor(self, asked: Asked) -> ContrastProcessor:
        changed = [random_change(image, crc32(image.tobytes(), self.seed)) for image in asked.images]
        inputs = asked.build(changed, asked.prompts)
        return contrast.changed_image(asked.model, inputs, weight=self.weight, bound=self.bound)


def known_contrasts() -> dict[str, type[Any]]:
    """Return every contrast class of this file by its command line name, in alphabetical order."""
    found: list[Any] = [one for one in globals().values() if isinstance(one, type) and Contrast in one.__mro__[1:]]
    return {kind.name: kind for kind in sorted(found, key=lambda kind: str(kind.name))}


def check_contrast(given: object) -> None:
    """Raise `BadOption` unless this is an instance of a contrast."""
    if isinstance(given, type) or not isinstance(given, Contrast):
        raise BadOption(f"{given!r} is no contrast; give an instance, as in contrast=NoisedImage()")


def _check(bound: float, **strength: float) -> None:
    require_number("bound", bound, at_least=0.0, at_most=1.0)
    for name, value in strength.items():
        require_number(name, value, at_least=0.0)
