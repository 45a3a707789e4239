"""Asking: the same answers in any batch, after any kill, from any number of processes."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from vlm_evals.answer import Asking, Processes, answer_samples, fingerprint
from vlm_evals.data.coco import CocoFolder
from vlm_evals.errors import RunError
from vlm_evals.protocol import Protocol
from vlm_evals.records import Answer, Sample
from vlm_evals.runs import Run, answers_in, merge_answers, open_run
from vlm_evals.scenes.model import build_mini
from vlm_evals.tasks import bind, samples
from vlm_evals.text.budget import Budget

from vlm_heads import VLM, HeadReinforcement, Mitigation
from vlm_heads.call import AttentionCall
from vlm_heads.errors import BadImage, BadPrompt, NothingIntervened

Task = tuple[Protocol, list[Sample]]

ASK = """
import os, signal, sys
from pathlib import Path
import torch
from vlm_evals.answer import Asking, answer_samples
from vlm_evals.data.coco import CocoFolder
from vlm_evals.runs import open_run
from vlm_evals.tasks import bind, samples
from vlm_evals.text.budget import Budget
from vlm_heads import VLM

torch.set_num_threads(1)
model, world, out, stop = sys.argv[1:]
data = CocoFolder.find(Path(world))
protocol = bind("coco", "chair", data, limit=None, seed=1, max_new_tokens=4)
asked = []

def kill_in_the_middle(answered):
    asked.append(answered)
    if sum(asked) == int(stop):
        os.kill(os.getpid(), signal.SIGKILL)

with open_run(Path(out), {"protocol": protocol.as_json()}) as run:
    answer_samples(
        Asking(VLM.from_pretrained(model), batch_size=2), protocol, samples(protocol, data), run,
        progress=kill_in_the_middle,
    )
print(asked)
"""


@pytest.fixture(scope="module")
def vlm(untrained_mini: Path) -> VLM:
    return VLM.from_pretrained(untrained_mini)


@pytest.fixture(scope="module")
def captions(small_world: Path) -> Task:
    data = CocoFolder.find(small_world)
    protocol = bind("coco", "chair", data, limit=None, seed=1, max_new_tokens=4)
    return protocol, samples(protocol, data)


def said(answers: dict[str, Answer]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (answer.text, answer.token_ids) for name, answer in answers.items()}


def ask(folder: Path, vlm: VLM, task: Task, batch_size: int = 5, **more: object) -> Run:
    protocol, asked = task
    with open_run(folder, {"protocol": protocol.as_json()}) as run:
        answer_samples(Asking(vlm, batch_size=batch_size, **more), protocol, asked, run)
    return run


def test_every_sample_is_answered_once(tmp_path: Path, vlm: VLM, captions: Task) -> None:
    run = ask(tmp_path, vlm, captions)
    assert list(run.answers) == [sample.sample_id for sample in captions[1]]
    assert all(answer.error is None and len(answer.token_ids) == 4 for answer in run.answers.values())
    before = (tmp_path / "answers.jsonl").read_bytes()
    ask(tmp_path, vlm, captions)
    assert (tmp_path / "answers.jsonl").read_bytes() == before


@pytest.mark.parametrize("interventions", [(), (HeadReinforcement(),)])
def test_batches_of_any_size_give_the_same_answers(
    tmp_path: Path, vlm: VLM, captions: Task, interventions: tuple[HeadReinforcement, ...]
) -> None:
    one, all_at_once = (
        ask(tmp_path / str(size), vlm, captions, batch_size=size, mitigation=Mitigation(interventions))
        for size in (1, 12)
    )
    assert said(one.answers) == said(all_at_once.answers)


def test_a_receipt_stands_beside_a_mitigated_answer(tmp_path: Path, vlm: VLM, captions: Task) -> None:
    run = ask(tmp_path, vlm, captions, mitigation=Mitigation((HeadReinforcement(gain=1.5),)))
    receipt = answers_in(tmp_path)["1"].receipt
    assert receipt is not None
    assert receipt["interventions"][0]["options"]["gain"] == 1.5
    assert run.answers["1"].seconds > 0


class NothingToDo(HeadReinforcement):
    """VHR that fires on no layer, as a method may on a model without what it acts on."""

    def plan(self, call: AttentionCall) -> None:
        return None


def test_an_intervention_that_never_fires_is_said_at_the_end(tmp_path: Path, vlm: VLM, captions: Task) -> None:
    with pytest.raises(NothingIntervened, match="nothing to act on in any of 12 samples"):
        ask(tmp_path, vlm, captions, mitigation=Mitigation((NothingToDo(),)))
    assert len(answers_in(tmp_path)) == 12


def test_shards_give_what_one_process_gives(tmp_path: Path, vlm: VLM, captions: Task) -> None:
    protocol, asked = captions
    identity = {"protocol": protocol.as_json()}
    for index in range(3):
        with open_run(tmp_path / "three", identity, shard=index, shards=3) as run:
            answer_samples(Asking(vlm), protocol, asked, run, processes=Processes(index, 3))
    merged = merge_answers(tmp_path / "three", [sample.sample_id for sample in asked])
    assert said(merged) == said(ask(tmp_path / "one", vlm, captions).answers)


def test_killed_in_the_middle_it_goes_on(tmp_path: Path, untrained_mini: Path, small_world: Path, vlm: VLM) -> None:
    arguments = [sys.executable, "-c", ASK, str(untrained_mini), str(small_world), str(tmp_path / "run")]
    killed = subprocess.run([*arguments, "6"], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(answers_in(tmp_path / "run")) == 6
    with (tmp_path / "run" / "answers.jsonl").open("ab") as file:
        file.write(b'{"sample_id": "7", "te')  # torn by the kill
    again = subprocess.run([*arguments, "-1"], capture_output=True, text=True, check=True)
    assert again.stdout.strip() == "[6, 2, 2, 2]"  # six stood there, the other six are asked, two at a time
    data = CocoFolder.find(small_world)
    protocol = bind("coco", "chair", data, limit=None, seed=1, max_new_tokens=4)
    whole = ask(tmp_path / "whole", vlm, (protocol, samples(protocol, data)))
    assert said(answers_in(tmp_path / "run")) == said(whole.answers)


@pytest.fixture
def some_unreadable(captions: Task, tmp_path: Path) -> Task:
    """The second and third picture are no pictures."""
    protocol, asked = captions
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    swapped = [replace(one, image=str(broken)) if one.sample_id in ("2", "3") else one for one in asked]
    return protocol, swapped


def test_an_unreadable_image_is_recorded_and_the_rest_answered(
    tmp_path: Path, vlm: VLM, captions: Task, some_unreadable: Task
) -> None:
    run = ask(tmp_path / "run", vlm, some_unreadable)
    assert run.failures == 2
    assert "broken.png" in (run.answers["2"].error or "")
    whole = said(ask(tmp_path / "whole", vlm, captions).answers)
    rest = {name: text for name, text in said(run.answers).items() if name not in ("2", "3")}
    assert rest == {name: text for name, text in whole.items() if name not in ("2", "3")}


def test_too_many_unreadable_images_end_the_run(tmp_path: Path, vlm: VLM, some_unreadable: Task) -> None:
    with pytest.raises(RunError, match=r"2 samples have no answer, more than --max-failures 1; the first .* 2: "):
        ask(tmp_path / "run", vlm, some_unreadable, batch_size=4, max_failures=1)
    assert len(answers_in(tmp_path / "run")) == 4  # what was answered before stays


def test_the_end_of_text_bias_makes_answers_shorter(tmp_path: Path, vlm: VLM, captions: Task) -> None:
    run = ask(tmp_path, vlm, captions, end_bias=1000.0)
    assert {answer.token_ids for answer in run.answers.values()} == {(2,)}  # the end of text, at once


def test_sampling_draws_the_same_in_any_order(tmp_path: Path, vlm: VLM, captions: Task) -> None:
    protocol, asked = captions
    sampling = replace(protocol, decoding={"do_sample": True, "temperature": 2.0})
    forward = ask(tmp_path / "forward", vlm, (sampling, asked[:4]))
    backward = ask(tmp_path / "backward", vlm, (sampling, asked[3::-1]))
    assert said(forward.answers) == said(backward.answers)
    assert len(set(said(forward.answers).values())) > 1


def test_other_weights_have_another_fingerprint(vlm: VLM, untrained_mini: Path) -> None:
    before = fingerprint(vlm.model)
    assert fingerprint(VLM.from_pretrained(untrained_mini).model) == before
    assert fingerprint(build_mini(seed=1)) != before


def test_one_process_alone_needs_no_launcher() -> None:
    assert "WORLD_SIZE" not in os.environ
    assert Processes.current() == Processes(0, 1)


def test_more_processes_than_gpus_wait_for_each_other(tmp_path: Path) -> None:
    program = tmp_path / "wait.py"
    program.write_text(
        "from vlm_evals.answer import Processes\nhere = Processes.current()\nhere.wait()\n"
        f"open(f'{tmp_path}/{{here.index}}-of-{{here.count}}', 'w').close()\n"
    )
    count = torch.cuda.device_count() + 2
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    paths = os.pathsep.join(path for path in sys.path if path)
    subprocess.run([*launcher, str(program)], check=True, env={**os.environ, "PYTHONPATH": paths}, timeout=120)
    assert sorted(path.name for path in tmp_path.glob("*-of-*")) == [f"{index}-of-{count}" for index in range(count)]


class Picky:
    """A processor that refuses long and narrow pictures, as Qwen's does, and one word."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, images: list[list[Image.Image]], text: list[str], **options: Any) -> Any:
        if any(max(one.size) > 200 * min(one.size) for (one,) in images):
            raise ValueError("absolute aspect ratio must be smaller than 200")
        if any("forbidden" in one for one in text):
            raise TypeError("no such word")
        return self.inner(images=images, text=text, **options)


@pytest.fixture
def picky(vlm: VLM) -> VLM:
    return VLM(vlm.model, Picky(vlm.processor), "picky")


@pytest.mark.parametrize("batch_size", [1, 5, 12])
def test_a_picture_that_the_processor_refuses_is_that_samples_error(
    tmp_path: Path, picky: VLM, vlm: VLM, captions: Task, batch_size: int
) -> None:
    protocol, asked = captions
    strip = tmp_path / "strip.png"
    Image.new("RGB", (1093, 5), "red").save(strip)
    swapped = [replace(one, image=str(strip)) if one.sample_id == "2" else one for one in asked]
    swapped = [replace(one, prompt="a forbidden word") if one.sample_id == "7" else one for one in swapped]
    run = ask(tmp_path / "run", picky, (protocol, swapped), batch_size=batch_size)
    assert run.answers["2"].error == (
        "the model's processor refuses the picture of 1093 x 5 pixels: absolute aspect ratio must be smaller than 200"
    )
    assert run.answers["7"].error == "the model's processor refuses the prompt 'a forbidden word': no such word"
    whole = said(ask(tmp_path / "whole", vlm, captions).answers)
    rest = {name: text for name, text in said(run.answers).items() if name not in ("2", "7")}
    assert rest == {name: text for name, text in whole.items() if name not in ("2", "7")}


def test_what_the_processor_refuses_is_a_users_mistake(tmp_path: Path, picky: VLM, vlm: VLM) -> None:
    with pytest.raises(BadImage, match="refuses the picture of 1093 x 5 pixels"):
        picky.answer(Image.new("RGB", (1093, 5)))
    with pytest.raises(BadPrompt, match="refuses the prompt 'forbidden'"):
        picky.answer(Image.new("RGB", (10, 10)), "forbidden")

    class Broken(Picky):
        def __call__(self, **options: Any) -> Any:
            raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):  # takes nothing at all: no mistake of the user's
        VLM(vlm.model, Broken(vlm.processor)).answer(Image.new("RGB", (10, 10)))


def test_a_pipe_among_the_pictures_does_not_block(tmp_path: Path, vlm: VLM, captions: Task) -> None:
    protocol, asked = captions
    os.mkfifo(tmp_path / "pipe.png")
    swapped = [replace(one, image=str(tmp_path / "pipe.png")) if one.sample_id == "2" else one for one in asked]
    run = ask(tmp_path / "run", vlm, (protocol, swapped))
    assert "is no file but a pipe" in (run.answers["2"].error or "")
    assert run.failures == 1


@pytest.mark.parametrize("prompt", ["", "What is <image>?", "a forbidden word"])
def test_a_prompt_that_nothing_can_be_asked_with_ends_the_run_at_once(
    tmp_path: Path, picky: VLM, captions: Task, prompt: str
) -> None:
    protocol, asked = captions
    with pytest.raises(BadPrompt):
        ask(tmp_path, picky, (protocol, [replace(one, prompt=prompt) for one in asked]))
    assert answers_in(tmp_path) == {}


def test_answers_cut_after_tokens_are_those_of_a_smaller_limit(vlm: VLM, captions: Task, tmp_path: Path) -> None:
    protocol, asked = captions
    long = ask(tmp_path / "long", vlm, (replace(protocol, max_new_tokens=20), asked[:4]))
    short = ask(tmp_path / "short", vlm, (replace(protocol, max_new_tokens=16), asked[:4]))
    assert any(answer.ends for answer in long.answers.values())
    for name, answer in answers_in(tmp_path / "long").items():
        assert Budget(16, "tokens").answer(answer).text == short.answers[name].text
