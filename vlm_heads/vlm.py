"""VLM: a vision-language model that answers questions about images, with or without interventions."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, StoppingCriteria, TextIteratorStreamer

from vlm_heads.attach import attach_mitigation
from vlm_heads.attached.turns import turn_of
from vlm_heads.checks.ask_back import AskBack, Means
from vlm_heads.contrast import ContrastProcessor
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.errors import BadImage, BadOption, BadPrompt, UnsupportedGeneration
from vlm_heads.generate_call import check_arguments, effective_config, with_defaults
from vlm_heads.mitigation import Mitigated, Mitigation
from vlm_heads.models.images import ImageSource, load_image
from vlm_heads.models.loading import load
from vlm_heads.models.placement import input_device
from vlm_heads.models.prompts import DEFAULT_PROMPT, Conversation, Prompt, model_inputs
from vlm_heads.models.whole import Finite
from vlm_heads.profile import HeadProfile
from vlm_heads.receipt import CheckReceipt, Receipt
from vlm_heads.wrappers import unwrapped

_SHORT = 60  # characters of an answer that its repr shows


@dataclass(frozen=True)
class Answer:
    """What a model said about one image.

    Attributes:
        text: without special tokens, stripped.
        token_ids: generated ids, without padding; an end token is included. Where a family pads with an end token, a
            row that others outlast has one.
        seconds: what the whole call took; in a batch, what the batch took.
        prompt_tokens: tokens of the prompt, those that stand for the image included, without padding.
        receipt: what the interventions and a check did, and which way the contrast took, JSON-serialisable; None where
            there were none. A batch's rows share it, except for what was asked about each.
    """

    text: str
    token_ids: tuple[int, ...]
    seconds: float
    receipt: dict[str, Any] | None = None
    prompt_tokens: int = 0

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= _SHORT else f"{self.text[: _SHORT - 1]}…"
        acted = ", mitigated" if self.receipt is not None else ""
        return f"<Answer {text!r}: {len(self.token_ids)} tokens, {self.seconds:.2f} s{acted}>"


class VLM:
    """A model and its processor.

    Attributes:
        model: an unmodified transformers model in evaluation mode.
        processor: its processor.
        name: what it was loaded as.
    """

    def __init__(self, model: nn.Module, processor: Any, name: str = "") -> None:
        self.model: Any = model.eval()
        self.processor = processor
        self.name = name

    def __repr__(self) -> str:
        family = getattr(getattr(self.model, "config", None), "model_type", type(self.model).__name__)
        return f"<VLM {self.name!r}: {family} on {self.device}>"

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str | torch.device | None = None,
        allow_missing: bool = False,
        **kwargs: Any,
    ) -> VLM:
        """Return a model by name, folder or Hugging Face id.

        "mini" is the trained model of the embedded world, "planted" the constructed one that shows the mechanism. Only
        safetensors are read, and a repository's own code is run only with `trust_remote_code=True`.

        Args:
            name_or_path: "mini", "planted", a folder or an id.
            device: where it is put; None leaves it where `from_pretrained` puts it.
            allow_missing: let weights that the checkpoint misses, or has in another shape, be random.
            **kwargs: for the model's `from_pretrained`, as `dtype` or `device_map`.

        Raises:
            UnknownModel: if there is no such model.
            UnsupportedModel: if it is no vision-language model, or its checkpoint is not whole.
        """
        model, processor = load(str(name_or_path), kwargs, allow_missing)
        if device is not None:
            model = model.to(device)
        return cls(model, processor, str(name_or_path))

    @property
    def device(self) -> torch.device:
        """Where the model takes its inputs."""
        return input_device(self.model)

    def answer(
        self,
        image: ImageSource,
        prompt: Prompt = DEFAULT_PROMPT,
        interventions: Mitigated | Sequence[Mitigated] = (),
        *,
        profile: HeadProfile | None = None,
        contrast: Contrast | None = None,
        **generate_kwargs: Any,
    ) -> Answer:
        """Return what the model says about an image.

        Greedy unless `generate_kwargs` say otherwise. Any argument of `generate` may be given.

        Args:
            image: what is asked about.
            prompt: what is asked, or a `Conversation` of several turns.
            interventions: one or several, words for them, or a whole `Mitigation`.
            profile: in place of the mitigation's.
            contrast: a second stream beside the answer's; interventions do not act on it.
            **generate_kwargs: for `generate`.

        Raises:
            BadImage: if the image cannot be read.
            BadPrompt: if the prompt is empty or carries the image token.
            UnsupportedModel: if a method cannot act on this model, or the model's token logits are not numbers.
        """
        chosen: dict[str, Any] = {"profile": profile, "contrast": contrast}
        return self.answer_batch([image], [prompt], interventions, **chosen, **generate_kwargs)[0]

    def answer_batch(
        self,
        images: Sequence[ImageSource],
        prompts: Prompt | Sequence[Prompt] = DEFAULT_PROMPT,
        interventions: Mitigated | Sequence[Mitigated] = (),
        *,
        profile: HeadProfile | None = None,
        contrast: Contrast | None = None,
        allow_idle: bool = False,
        **generate_kwargs: Any,
    ) -> list[Answer]:
        """Return one answer per image, computed in one batch; see `answer`.

        A method that takes one prompt at a time, as OPERA does, answers them one after the other.

        With `num_return_sequences=n` there are n for each image, one image's after the other's.

        Args:
            images: one per row.
            prompts: one for all, or one per image.
            interventions, profile, contrast: see `answer`.
            allow_idle: let an intervention find nothing to act on, as it may in a batch of many.
            **generate_kwargs: for `generate`.
        """
        start = time.perf_counter()
        whole = _whole(interventions, contrast, profile)
        if not whole.batched and len(images) > 1:
            pairs = zip(images, _one_each(prompts, len(images)), strict=True)
            each = (self.answer_batch([image], [prompt], whole, allow_idle=allow_idle, **generate_kwargs)
                    for image, prompt in pairs)  # fmt: skip
            return [answer for answers in each for answer in answers]
        inputs, decoding, processor = self._asked(images, prompts, whole.contrast, generate_kwargs)
        output, receipt = self._generate({**inputs, **decoding}, whole, processor, allow_idle)
        rows = _generated(output, inputs, effective_config(self.model, decoding))
        lengths = _lengths(inputs, len(rows))
        seconds = time.perf_counter() - start
        return [self._answer(row, seconds, receipt, index, lengths[index]) for index, row in enumerate(rows)]

    def stream(
        self,
        image: ImageSource,
        prompt: Prompt = DEFAULT_PROMPT,
        interventions: Mitigated | Sequence[Mitigated] = (),
        *,
        profile: HeadProfile | None = None,
        contrast: Contrast | None = None,
        follow: Callable[[Receipt], None] | None = None,
        **generate_kwargs: Any,
    ) -> Generator[str, None, Answer]:
        """Yield the answer piece by piece, as it is generated in another thread; see `answer`.

        The model is free again when the answer is whole or the iterator is closed; another answer of this model waits
        until then. A failure in the other thread is raised here.
        What the generator returns in the end, as `yield from` gives it, is the whole `Answer`. A method that takes
        words back, as OPERA does, is not heard before the end: its answer is one piece.

        Args:
            image, prompt, interventions, profile, contrast: see `answer`.
            follow: called once the methods are attached, in the other thread, with the receipt that they fill in.
            **generate_kwargs: for `generate`.

        Raises:
            UnsupportedGeneration: for several beams or sequences, of which no piece is certain before the end.
        """
        whole = _whole(interventions, contrast, profile)
        check_arguments(self.model, generate_kwargs)
        _require_one_sequence(effective_config(self.model, _decoding(generate_kwargs)))
        inputs, decoding, processor = self._asked([image], prompt, whole.contrast, generate_kwargs)
        return self._pieces(inputs, whole, decoding, processor, follow)

    def ask_back(
        self,
        images: Sequence[ImageSource],
        captions: Sequence[str],
        check: AskBack | str = "askback",
        *,
        prompts: Prompt | Sequence[Prompt] = DEFAULT_PROMPT,
        interventions: Mitigated | Sequence[Mitigated] = (),
        profile: HeadProfile | None = None,
    ) -> list[Answer]:
        """Return saved captions without the objects that the model, asked about each, does not stand by.

        Whoever wrote the captions, this model is asked. A phrase is left out so that a sentence is left; nothing is
        generated. The answers' receipts list the questions and their margins, and no token ids come back.

        Args:
            images: one a caption.
            captions: what was said about them.
            check: `askback` with its options; its `say_more`, `when` and `max_rounds` have no meaning here.
            prompts: what the captions answer, one for all, or one each; it decides their words' own probability.
            interventions: questions are answered under them.
            profile: in place of the mitigation's.

        Raises:
            BadOption: if `check` is another method, or a contrast, a lens or a pipeline is given.
            BadImage: if an image cannot be read.
        """
        start = time.perf_counter()
        whole = Mitigation.of(interventions, check, profile=profile)
        asked = whole.check_of_saved()
        inputs = self.inputs(images, _one_each(prompts, len(captions)))
        attached = replace(whole, check=None)
        with (
            turn_of(self.model).whole(),
            torch.inference_mode(),
            attach_mitigation(self.model, attached, allow_idle=True) as run,
        ):
            asked.check(run.anatomy)
            run.receipt.check = receipt = CheckReceipt(asked.name, asked.stated())
            means = Means(asked, unwrapped(self.model), run.anatomy, self.processor, run.tracker, receipt)
            texts = means.review(inputs, list(captions))
        seconds = time.perf_counter() - start
        return [Answer(text, (), seconds, run.receipt.to_dict(row)) for row, text in enumerate(texts)]

    def inputs(self, images: Sequence[ImageSource], prompts: Prompt | Sequence[Prompt]) -> dict[str, Any]:
        """Return what `model.generate` takes for a batch of images and prompts, left-padded.

        Raises:
            BadPrompt: if there are not as many prompts as images.
        """
        several, each = _several(images), _one_each(prompts, len(_several(images)))
        return model_inputs(self.model, self.processor, [load_image(image) for image in several], each)

    def _asked(
        self,
        images: Sequence[ImageSource],
        prompts: Prompt | Sequence[Prompt],
        contrast: Contrast | None,
        generate_kwargs: dict[str, Any],
    ) -> tuple[dict[str, Any], dict[str, Any], ContrastProcessor | None]:
        """Return the inputs of a batch, the arguments of `generate`, and the contrast's processor for them."""
        check_arguments(self.model, generate_kwargs)
        decoding = _decoding(generate_kwargs)
        if contrast is None:
            return self.inputs(images, prompts), decoding, None
        upright = [load_image(image) for image in _several(images)]
        each = _one_each(prompts, len(upright))
        asked = Asked(self.model, self.inputs(upright, each), upright, each, self.inputs, self._text)
        return dict(asked.inputs), decoding, contrast.processor(asked)

    def _text(self, ids: torch.Tensor) -> str:
        """Return the words of token ids `[n]`."""
        text: str = self.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return text

    def _generate(
        self,
        arguments: dict[str, Any],
        mitigation: Mitigation,
        processor: ContrastProcessor | None,
        allow_idle: bool = False,
        follow: Callable[[Receipt], None] | None = None,
    ) -> tuple[Any, Receipt | None]:
        """Return what `generate` returns, and the receipt; answers on one model wait for one another."""
        finite = Finite()
        arguments = {**arguments, "logits_processor": [finite, *(arguments.get("logits_processor") or ())]}
        with turn_of(self.model).whole(), torch.inference_mode():
            if not mitigation:
                output, receipt = self.model.generate(**arguments), None
            else:
                beside: dict[str, Any] = {"processor": self.processor, "contrast_processor": processor}
                with attach_mitigation(self.model, mitigation, allow_idle=allow_idle, **beside) as run:
                    if follow is not None:
                        follow(run.receipt)
                    output = self.model.generate(**arguments)
                receipt = run.receipt
            finite.check()
            return output, receipt

    def _pieces(
        self,
        inputs: dict[str, Any],
        mitigation: Mitigation,
        decoding: dict[str, Any],
        processor: ContrastProcessor | None,
        follow: Callable[[Receipt], None] | None,
    ) -> Generator[str, None, Answer]:
        start = time.perf_counter()
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        stop = _Stop()
        criteria = [*(decoding.pop("stopping_criteria", None) or ()), stop]
        heard = {"streamer": streamer} if mitigation.streamed else {}
        arguments = {**inputs, **decoding, "stopping_criteria": criteria, **heard}

        def generate() -> tuple[Any, Receipt | None]:
            try:
                return self._generate(arguments, mitigation, processor, follow=follow)
            finally:
                streamer.end()  # whoever listens must not wait for a generation that failed

        with ThreadPoolExecutor(1, "vlm-heads-stream") as thread:
            work = thread.submit(generate)
            try:
                yield from (piece for piece in streamer if piece)
            finally:
                stop.requested = True
            output, receipt = work.result()
        rows = _generated(output, inputs, effective_config(self.model, decoding))
        answer = self._answer(rows[0], time.perf_counter() - start, receipt, 0, _lengths(inputs, 1)[0])
        if not mitigation.streamed and answer.text:
            yield answer.text
        return answer

    def _answer(self, ids: list[int], seconds: float, receipt: Receipt | None, row: int, prompt_tokens: int) -> Answer:
        text = self.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
        written = None if receipt is None else receipt.to_dict(row)
        return Answer(text, tuple(ids), seconds, written, prompt_tokens)


class _Stop(StoppingCriteria):  # type: ignore[misc]
    """Ends a generation that nobody listens to any more."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.requested, dtype=torch.bool, device=input_ids.device)


def _whole(
    interventions: Mitigated | Sequence[Mitigated], contrast: Contrast | None, profile: HeadProfile | None
) -> Mitigation:
    """Return one mitigation of all that `answer` takes.

    Raises:
        BadOption: if what is given as a contrast is none.
    """
    if contrast is not None and not isinstance(contrast, Contrast):
        raise BadOption(f"{contrast!r} is no contrast; give an instance, as in contrast=NoisedImage()")
    return Mitigation.of(interventions, contrast=contrast, profile=profile)


def _several(images: Sequence[ImageSource]) -> Sequence[ImageSource]:
    """Return the images.

    Raises:
        BadImage: if it is one image, which would be taken apart.
    """
    if isinstance(images, Sequence) and not isinstance(images, str | bytes):
        return images
    raise BadImage(f"{type(images).__name__} where a list of images is needed: ask answer(image, ...) about one")


def _require_one_sequence(config: Any) -> None:
    for name in ("num_beams", "num_return_sequences"):
        if (getattr(config, name, None) or 1) > 1:
            raise UnsupportedGeneration(
                f"{name}={getattr(config, name)}: only one sequence can be streamed; pass {name}=1, or take the whole "
                "answer with VLM.answer"
            )


def _lengths(inputs: dict[str, Any], rows: int) -> list[int]:
    """Return the tokens of each row's prompt, where a prompt may have several rows."""
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
    return [int(one) for one in mask.sum(dim=1).repeat_interleave(rows // len(mask)).tolist()]


def _one_each(prompts: Any, count: int) -> list[Prompt]:
    if not isinstance(prompts, Sequence | Conversation) or isinstance(prompts, bytes):
        raise BadPrompt(f"prompt={prompts!r}: a text is needed, as 'what is in the picture?'")
    each = [prompts] * count if isinstance(prompts, str | Conversation) else list(prompts)
    if len(each) != count or not each:
        raise BadPrompt(f"{len(each)} prompts were given for {count} images; one each is needed")
    return each


def _decoding(generate_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of `generate`: greedy and 256 new tokens where nothing is said."""
    config = generate_kwargs.get("generation_config")
    bounded = "max_length" in generate_kwargs or getattr(config, "max_length", None) is not None
    return with_defaults(generate_kwargs, {"do_sample": False} | ({} if bounded else {"max_new_tokens": 256}))


def _generated(output: Any, inputs: dict[str, Any], config: GenerationConfig) -> list[list[int]]:
    """Return each row's new ids up to its end token, without the padding behind them."""
    sequences = output if isinstance(output, torch.Tensor) else output.sequences
    prompt = inputs["input_ids"]
    length = prompt.shape[1]
    copies = sequences.shape[0] // prompt.shape[0]
    # families that generate from embeddings return the new ids alone
    if sequences.shape[1] >= length and torch.equal(sequences[:, :length], prompt.repeat_interleave(copies, dim=0)):
        sequences = sequences[:, length:]
    rows: list[list[int]] = sequences.tolist()
    return [_said(row, config) for row in rows]


def _said(row: list[int], config: GenerationConfig) -> list[int]:
    """Return a row's ids up to its end token; one that ends without it is filled up to the longest of its batch."""
    given = config.eos_token_id
    ends = set(given if isinstance(given, list | tuple) else [given])
    if end := next((at + 1 for at, one in enumerate(row) if one in ends), 0):
        return row[:end]
    return row[: max((at + 1 for at, one in enumerate(row) if one != config.pad_token_id), default=0)]
