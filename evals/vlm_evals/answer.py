"""Asks a model everything that a protocol asks: in batches, from where an earlier start ended, shared by processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import torch
from PIL import Image

from vlm_evals.errors import RunError
from vlm_evals.first_token import FirstWord, Margins
from vlm_evals.protocol import Protocol
from vlm_evals.records import Answer, Sample
from vlm_evals.runs import Run, content_hash
from vlm_evals.tasks import asked_of
from vlm_evals.text.budget import text_ends
from vlm_heads import VLM, Mitigation, attach
from vlm_heads.errors import BadImage, BadPrompt, NothingIntervened
from vlm_heads.models import load_image

SAMPLED_VALUES = 16  # of a parameter, at least
PLAIN = Mitigation()  # the model as it is


@dataclass(frozen=True)
class Processes:
    """The processes that share a run, as `torchrun` starts them, or `accelerate launch` on GPUs.

    Attributes:
        index: of this process, from 0.
        count: how many there are.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def current(cls, device: str | None = None) -> Processes:
        """Return this process's place among those started together; one alone where it was started by hand.

        They only wait for each other. So where several share a GPU, which NCCL refuses, they do it through the CPU.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from accelerate import PartialState

        gpus = 0 if device == "cpu" else torch.cuda.device_count()
        state = PartialState(cpu=gpus < int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        return cls(state.process_index, state.num_processes)

    @property
    def first(self) -> bool:
        """Whether this is the process that merges and reports."""
        return self.index == 0

    def once(self, missing: Callable[[], bool], make: Callable[[], object]) -> None:
        """Make something where it is missing: the first process makes it, and all go on when it is there."""
        if self.first and missing():
            make()
        self.wait()

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.count == 1:
            return
        if torch.distributed.get_backend() == "gloo":  # accelerate would name a GPU for each process
            torch.distributed.barrier()
        else:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


@dataclass(frozen=True)
class Asking:
    """How a model is asked.

    Attributes:
        vlm: the model.
        mitigation: what is done to the model in every generation.
        end_bias: added to the end-of-text logits at every step; positive makes answers shorter.
        first_word: a token, and what is added to its logits wherever it is plausible; None for neither.
        batch_size: samples in one generation; the answers do not depend on it.
        max_failures: unreadable images a run may hold before it is given up.
        allow_idle: whether an intervention may find nothing to act on in the whole share.
    """

    vlm: VLM
    mitigation: Mitigation = PLAIN
    end_bias: float = 0.0
    first_word: tuple[int, float] | None = None
    batch_size: int = 16
    max_failures: int = 20
    allow_idle: bool = False

    @property
    def where(self) -> str | None:
        """Address of the server that is asked; None, for it is this machine's own model."""
        return None

    def stated(self) -> dict[str, Any]:
        """Return whom it asks, as JSON."""
        return {"model": self.vlm.name, "weights": fingerprint(self.vlm.model)}

    def named(self, token: int) -> str:
        """Return a token as a word."""
        return str(self.vlm.processor.tokenizer.decode([token]).strip())

    def answer(
        self,
        protocol: Protocol,
        samples: Sequence[Sample],
        run: Run,
        *,
        processes: Processes,
        progress: Callable[[int], None],
    ) -> None:
        """Answer samples; see `answer_samples`."""
        answer_samples(self, protocol, samples, run, processes=processes, progress=progress)


def answer_samples(
    asking: Asking,
    protocol: Protocol,
    samples: Sequence[Sample],
    run: Run,
    *,
    processes: Processes | None = None,
    progress: Callable[[int], None] = lambda answered: None,
) -> None:
    """Answer this process's share of the samples that the run has no answer to, and write each batch to the run.

    An image that cannot be read is recorded with its error in place of an answer.

    Args:
        asking: whom to ask, and how.
        protocol: prompt, decoding and seed.
        samples: everything the protocol asks.
        run: where the answers go, opened as this process's shard.
        processes: those that share the work; by default this one alone.
        progress: called with the number of samples of this share that have an answer, as they come.

    Raises:
        RunError: if more images are unreadable than `max_failures`.
        BadPrompt: if the first prompt is empty, carries the image token, or is refused with any picture.
        NothingIntervened: if an intervention found nothing to act on in the whole share, unless that is allowed.
        VlmHeadsError: if the model or an intervention cannot do what is asked.
    """
    sharing = processes or Processes()
    share = samples[sharing.index :: sharing.count]
    rest = [sample for sample in share if sample.sample_id not in run.answers]
    if rest:  # a prompt that no picture helps is no sample's error
        asking.vlm.inputs([Image.new("RGB", (64, 64), "grey")], [rest[0].prompt])
    progress(len(share) - len(rest))
    sampling = bool(protocol.decoding.get("do_sample"))
    for batch in _batches(rest, asking.batch_size if asking.mitigation.batched and not sampling else 1):
        if sampling:  # a sample draws the same whichever process asks, and in whichever order
            torch.manual_seed(seed_of(protocol, batch[0]))
        run.append(_answer_batch(asking, protocol, batch))
        check_failures(run, asking.max_failures)
        progress(len(batch))
    if asking.allow_idle:
        return
    own = {sample.sample_id for sample in share}
    check_fired(asking.mitigation, [answer for name, answer in run.answers.items() if name in own])


def seed_of(protocol: Protocol, sample: Sample) -> int:
    """Return what seeds the draws of one answer, whoever is asked and in whichever order."""
    return crc32(f"{protocol.seed}/{sample.sample_id}".encode())


def fingerprint(model: torch.nn.Module) -> str:
    """Return a hash that tells one set of weights from another under the same name.

    It reads the name, the shape and a few values of every parameter, so large models take no time.
    """
    seen = []
    tied: Mapping[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    for name, parameter in model.named_parameters():
        if parameter.is_meta and name in tied:  # offloaded, a tied weight is listed twice
            continue
        values = _in_memory(model, name, parameter).detach().flatten()
        picked = values[:: max(1, values.numel() // SAMPLED_VALUES)].float().tolist()
        seen.append([name, list(parameter.shape), picked])
    return content_hash(seen)


def _in_memory(model: torch.nn.Module, name: str, parameter: torch.Tensor) -> torch.Tensor:
    """Return a parameter's values, fetched where accelerate has offloaded them."""
    if not parameter.is_meta:
        return parameter
    from accelerate.utils import align_module_device

    owner, _, own = name.rpartition(".")
    module = model.get_submodule(owner)
    with align_module_device(module):
        values: torch.Tensor = getattr(module, own).clone()
    return values


def _batches(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    return (samples[start : start + size] for start in range(0, len(samples), size))


def _answer_batch(asking: Asking, protocol: Protocol, batch: Sequence[Sample]) -> list[Answer]:
    """Return one answer a sample, in order; those without a picture that can be used carry the error."""
    answers: dict[str, Answer] = {}
    usable: list[tuple[Sample, Image.Image]] = []
    for sample in batch:
        try:
            usable.append((sample, load_image(sample.image)))
        except BadImage as error:
            answers[sample.sample_id] = _failed(sample, error)
    try:
        answers |= _answered(asking, protocol, usable)
    except (BadImage, BadPrompt):  # the processor refuses one of them, and the others are to be answered
        taken, refused = _refused(asking.vlm, usable)
        if not refused:
            raise
        answers |= refused | _answered(asking, protocol, taken)
    return [answers[sample.sample_id] for sample in batch]


def _answered(asking: Asking, protocol: Protocol, asked: Sequence[tuple[Sample, Image.Image]]) -> dict[str, Answer]:
    """Return sample id -> answer of one generation."""
    if not asked:
        return {}
    images, prompts = [image for _, image in asked], [sample.prompt for sample, _ in asked]
    arguments = _generation(asking, protocol)
    margins = _margins(asking, protocol)
    if margins is not None:
        arguments["logits_processor"] = [margins, *arguments.get("logits_processor", ())]
    with _attached(asking) as receipts:
        said = asking.vlm.answer_batch(images, prompts, **arguments)
    measured = margins.of(len(asked)) if margins is not None else [None] * len(asked)
    either = margins.either(len(asked)) if margins is not None else [None] * len(asked)
    answers = {}
    for row, ((sample, _), one) in enumerate(zip(asked, said, strict=True)):
        seconds = round(one.seconds / len(asked), 6)
        receipt = receipts[min(row, len(receipts) - 1)] if receipts else None
        ends = text_ends(one.token_ids, one.text, lambda ids: _decoded(asking.vlm, ids))
        answers[sample.sample_id] = Answer(
            sample.sample_id, one.text, one.token_ids, seconds, receipt,
            margin=measured[row], either=either[row], ends=ends,
        )  # fmt: skip
    return answers


def _decoded(vlm: VLM, token_ids: Sequence[int]) -> str:
    text: str = vlm.processor.tokenizer.decode(list(token_ids), skip_special_tokens=True)
    return text.strip()


def _margins(asking: Asking, protocol: Protocol) -> Margins | None:
    """Return what records the margin of a metric's two words; None where there are none, or token logits are weighed.

    A lens or a second stream weighs them after they are recorded, so that the margin would not be the answer's.
    """
    words = asked_of(protocol.metric).controls.margin
    if words is None or asking.mitigation.contrast is not None or asking.mitigation.weighing():
        return None
    return Margins.of_words(asking.vlm.processor.tokenizer, words)


def _refused(
    vlm: VLM, asked: Sequence[tuple[Sample, Image.Image]]
) -> tuple[list[tuple[Sample, Image.Image]], dict[str, Answer]]:
    """Return the samples that the model's processor takes, and the answers of those it refuses."""
    taken, refused = [], {}
    for sample, image in asked:
        try:
            vlm.inputs([image], [sample.prompt])
        except (BadImage, BadPrompt) as error:
            refused[sample.sample_id] = _failed(sample, error)
        else:
            taken.append((sample, image))
    return taken, refused


def _failed(sample: Sample, error: Exception) -> Answer:
    return Answer(sample.sample_id, "", error=str(error))


@contextmanager
def _attached(asking: Asking) -> Iterator[list[dict[str, Any]]]:
    """Attach for one batch, and fill in the receipts at its end: one for all rows, or one each where words are checked.

    A batch may give an intervention nothing to do; only the whole run shows whether it ever fires.
    """
    receipts: list[dict[str, Any]] = []
    done = replace(asking.mitigation, contrast=None)  # it goes beside: it may need the image and the prompt
    if not done:
        yield receipts
        return
    with attach(asking.vlm.model, done, allow_idle=True, processor=asking.vlm.processor) as attachment:
        yield receipts
    by_row = next((one.rows for one in (attachment.receipt.check, attachment.receipt.pipeline) if one is not None), [])
    receipts += [attachment.receipt.to_dict(row) for row in range(max(1, len(by_row)))]


def check_fired(mitigation: Mitigation, answers: Iterable[Answer]) -> None:
    """Raise `NothingIntervened` where an intervention found nothing to act on in all that was answered."""
    fired: set[str] = set()
    answered = 0
    for answer in answers:
        answered += answer.error is None
        fired |= {one["name"] for one in (answer.receipt or {}).get("interventions", ()) if one["layers"]}
        fired |= {one["name"] for one in (answer.receipt or {}).get("lenses", ()) if one["tokens"]}
    acting = (*mitigation.interventions, *mitigation.lenses)
    idle = [one.name for one in acting if one.name not in fired]
    if idle and answered:
        raise NothingIntervened(
            f"{', '.join(idle)} found nothing to act on in any of {answered} samples, so the run would be the plain "
            "model's: `vlm-heads doctor` says what works on this model"
        )


def _generation(asking: Asking, protocol: Protocol) -> dict[str, Any]:
    arguments = dict(protocol.decoding) | {"max_new_tokens": protocol.max_new_tokens}
    arguments["contrast"] = asking.mitigation.contrast
    if asking.end_bias:
        ends = asking.vlm.model.generation_config.eos_token_id
        ids = ends if isinstance(ends, list) else [ends]
        arguments["sequence_bias"] = [[[token], float(asking.end_bias)] for token in ids]
    if asking.first_word is not None:
        arguments["logits_processor"] = [FirstWord(*asking.first_word)]
    return arguments


def check_failures(run: Run, allowed: int) -> None:
    """Raise `RunError` where more samples failed than a run may hold."""
    if run.failures > allowed:
        first = next(answer for answer in run.answers.values() if answer.error is not None)
        raise RunError(
            f"{run.failures} samples have no answer, more than --max-failures {allowed}; "
            f"the first was sample {first.sample_id}: {first.error}"
        )
