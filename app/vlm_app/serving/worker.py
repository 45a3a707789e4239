"""The worker: the one thread that has the model, and takes jobs in batches that fit together."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from vlm_app.serving.counts import Counts
from vlm_app.serving.growing import Growing
from vlm_app.serving.job import Done, Failed, Job, Sampling
from vlm_app.serving.rows import AllLeft, Row, Rows
from vlm_heads import VLM, Answer
from vlm_heads.errors import BadImage, BadOption, VlmHeadsError
from vlm_heads.models import load_image

logger = logging.getLogger("vlm_heads.serving")
_Read = tuple[Job, Image.Image]


class Worker:
    """Answers jobs in the order they came; those behind that fit a job go along with it.

    Attributes:
        vlm: the model.
        counts: what was done so far.

    Args:
        vlm: the model; the worker's thread has it alone.
        together: jobs in one batch, at most.
    """

    def __init__(self, vlm: VLM, *, together: int = 16) -> None:
        self.vlm = vlm
        self.counts = Counts()
        self._together = together
        self._jobs: deque[Job] = deque()
        self._running: Sequence[Job] = ()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="vlm-heads-worker", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether jobs are taken."""
        return self._thread.is_alive() and not self._stopping

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._jobs)

    def seconds_until(self, more: int) -> float:
        """Return about how long it takes until so many more jobs are answered."""
        return self.counts.seconds_a_job * more

    def start(self) -> None:
        """Begin to take jobs."""
        self._thread.start()

    def stop(self) -> None:
        """Give up what waits, end what is generated at its next token, and return when the thread has ended."""
        with self._changed:
            self._stopping = True
            for job in (*self._jobs, *self._running):
                job.leave()
            self._changed.notify_all()
        self._thread.join()

    def put(self, job: Job) -> None:
        """Let a job wait for its turn."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()

    def token_text(self, token: int) -> str:
        """Return a token as text, special ones included."""
        text: str = self.vlm.processor.tokenizer.decode([token])
        return text

    def _run(self) -> None:
        while self._work():  # between two batches nothing of the last one is kept
            pass

    def _work(self) -> bool:
        """Answer the next batch; return whether there was one."""
        batch = self._next()
        start = time.perf_counter()
        try:
            self._answer(batch)
        except Exception as failure:  # whatever it is, the others still want their answers
            logger.exception("a batch of %d failed", len(batch))
            _fail(batch, failure)
        if batch:
            self.counts.note_batch(len(batch), time.perf_counter() - start)
        self._running = ()
        return bool(batch)

    def _next(self) -> list[Job]:
        """Return the jobs of the next batch; none where the worker is to stop."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._jobs or self._stopping)
                self._forget_left()
                if self._stopping:
                    return []
                if self._jobs:
                    break
            first = self._jobs[0]
            batch = [first, *(job for job in list(self._jobs)[1:] if first.fits(job))][: self._together]
            self._jobs = deque(job for job in self._jobs if job not in batch)
            self._running = batch
            return batch

    def _forget_left(self) -> None:
        kept = deque(job for job in self._jobs if not job.left())
        self.counts.note_left(len(self._jobs) - len(kept))
        self._jobs = kept

    def _answer(self, batch: Sequence[Job]) -> None:
        read: list[_Read] = []
        for job in batch:
            try:
                read.append((job, load_image(job.picture)))
            except BadImage as failure:
                job.deliver(Failed(failure))
        if read:
            self._answer_read(read)

    def _answer_read(self, read: Sequence[_Read]) -> None:
        """Answer jobs together; where the model refuses them, or has no room for all, each by itself."""
        try:
            self._generate(read)
        except (VlmHeadsError, torch.OutOfMemoryError) as failure:
            for job, image in read:
                if len(read) == 1 or job.spoke:
                    _fail([job], failure)
                else:
                    self._answer_read([(job, image)])

    def _generate(self, read: Sequence[_Read]) -> None:
        jobs = [job for job, _ in read]
        if jobs[0].mitigation.check is None:
            self._generate_rows(read)
        elif jobs[0].streams:
            self._stream_checked(*read[0])
        else:
            self._generate_checked(read)

    def _generate_rows(self, read: Sequence[_Read]) -> None:
        jobs = [job for job, _ in read]
        rows = [self._row(job) for job in jobs]
        criterion = Rows(rows, self.ends())
        more: dict[str, Any] = {"stopping_criteria": [criterion]}
        if criterion.chances is not None:
            more["logits_processor"] = [criterion.chances]
        answers = self._answers(read, max(job.limit for job in jobs), more)
        for job, row, answer in zip(jobs, rows, answers, strict=True):
            self._deliver(job, row, answer)

    def _answers(self, read: Sequence[_Read], limit: int, more: dict[str, Any]) -> list[Answer]:
        first = read[0][0]
        images, talks = [image for _, image in read], [job.conversation for job, _ in read]
        more = {"max_new_tokens": limit, **more, **self._biased(first.biases), **_drawn(first.sampling)}
        return self.vlm.answer_batch(images, talks, first.mitigation, allow_idle=True, **more)

    def _generate_checked(self, read: Sequence[_Read]) -> None:
        """Answer where words are taken back: nothing is certain before the end."""
        jobs = [job for job, _ in read]
        more = {"stopping_criteria": [AllLeft([job.left for job in jobs])]}
        for job, answer in zip(jobs, self._answers(read, jobs[0].limit, more), strict=True):
            self._deliver(job, self._row(job), answer)

    def _stream_checked(self, job: Job, image: Image.Image) -> None:
        """Say each sentence when it has been checked."""
        more = {"max_new_tokens": job.limit, **_drawn(job.sampling)}
        row, raw = self._row(job), ""
        stream = self.vlm.stream(image, job.conversation, job.mitigation, **more)
        while True:
            try:
                raw += next(stream)
            except StopIteration as end:
                answer: Answer = end.value
                break
            if piece := row.growing.more(raw, over=False):
                job.say(piece)
            if job.left():
                stream.close()
                self.counts.note_left(1)
                return
        self._deliver(job, row, answer)

    def _deliver(self, job: Job, row: Row, answer: Answer) -> None:
        """Deliver the end of an answer; what its row has not heard token by token, it hears here."""
        if row.finish is None:
            row.ids = list(answer.token_ids)
            piece = row.growing.more(self._decode(row.ids), over=True)
            if job.streams and piece:
                job.say(piece)
            row.finish = "stop" if row.growing.stopped or self.ends().intersection(row.ids[-1:]) else "length"
        self.counts.note_tokens(answer.prompt_tokens, len(row.ids))
        self.counts.note_left(job.left())
        job.deliver(
            Done(row.growing.text, row.finish, answer.prompt_tokens, len(row.ids), answer.receipt, tuple(row.chances))
        )

    def _row(self, job: Job) -> Row:
        growing = Growing(self._decode, job.stops)
        return Row(growing, job.limit, job.left, job.say if job.streams else None, bool(job.stops), job.alternatives)

    def _biased(self, biases: Sequence[tuple[int, float]]) -> dict[str, Any]:
        """Return the argument of `generate` for biases on tokens.

        Raises:
            BadOption: if there is no such token.
        """
        size = self.vlm.model.config.get_text_config().vocab_size
        if unknown := [token for token, _ in biases if token >= size]:
            raise BadOption(f"logit_bias: the model has no token {unknown[0]}, but {size} from 0 on")
        return {"sequence_bias": [[[token], float(bias)] for token, bias in biases]} if biases else {}

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.vlm.processor.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def ends(self) -> set[int]:
        """Return the ids that end an answer."""
        ends = self.vlm.model.generation_config.eos_token_id
        return set(ends) if isinstance(ends, list | tuple) else set() if ends is None else {ends}


def _drawn(sampling: Sampling | None) -> dict[str, Any]:
    """Seed the generator where tokens are drawn, and return the arguments of `generate`."""
    if sampling is None:
        return {}
    torch.manual_seed(secrets.randbits(63) if sampling.seed is None else sampling.seed)
    return sampling.arguments


def _fail(jobs: Sequence[Job], failure: Exception) -> None:
    for job in jobs:
        job.deliver(Failed(failure))
