"""Which arms an evaluation has, and what each changes in how a model is asked."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from vlm_evals.answer import Asking, Processes, answer_samples
from vlm_evals.arms import Arm, arms_of, decoding_controls, masked
from vlm_evals.data.coco import CocoFolder
from vlm_evals.errors import TaskError
from vlm_evals.experiment import ask_arms, setting
from vlm_evals.first_token import FirstWord, Margins, most_frequent
from vlm_evals.metric import Controls
from vlm_evals.protocol import sampling
from vlm_evals.runs import answers_in, open_run
from vlm_evals.scored import evaluation_report
from vlm_evals.tasks import asked_of, bind, samples

from vlm_heads import VLM, Mitigation


def names(words: str, metric: str, **more: Any) -> list[str]:
    fitting = asked_of(metric).controls
    return [arm.name for arm in arms_of(Mitigation.parse(words), paired=True, fitting=fitting, **more)]


def test_controls_are_those_that_fit() -> None:
    heads, prompts = ["bottom-heads", "random-heads"], ["prompt-yes", "prompt-no"]
    first = ["first-word+1", "first-word+3"]
    both = ["plain", "mitigated"]
    assert names("vhr", "pope") == both
    assert names("vhr", "pope", controls=True) == [*both, *heads, *prompts]
    assert names("vcd", "pope", controls=True) == [*both, *prompts, "mask-only"]
    assert names("vcd:bound=0", "pope", controls=True) == [*both, *prompts]
    assert names("vhr vcd", "chair", controls=True) == [*both, *heads, "mask-only", *first]
    assert names("pai", "chair", controls=True) == [*both, *first]
    assert names("vhr", "chair", curve=True)[2:] == [f"bias{bias:+g}" for bias in (-1.0, -0.3, 0.4, 1.2, 2.6)]
    with pytest.raises(TaskError, match="--controls: vcd chooses no heads, and the metric has no controls of its own"):
        arms_of(Mitigation.parse("vcd:bound=0"), paired=True, controls=True)
    with pytest.raises(TaskError, match="name one, as in --with vhr"):
        arms_of(Mitigation(), paired=False, controls=True)


def test_a_mask_is_the_contrasts_own() -> None:
    arms = arms_of(Mitigation.parse("vcd:bound=0.3"), paired=True, controls=True, fitting=Controls())
    assert arms[-1].decoding == masked(0.3)
    assert masked(0.3) == {
        "do_sample": True, "num_beams": 1, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.3,
    }  # fmt: skip


def test_greedy_is_a_control_of_what_is_not_greedy() -> None:
    arms = [Arm("plain"), Arm("mitigated")]
    assert decoding_controls(arms, {"do_sample": False, "num_beams": 1}) == []
    assert [arm.name for arm in decoding_controls(arms, {"do_sample": False, "num_beams": 3})] == ["greedy"]
    assert [arm.name for arm in decoding_controls(arms, sampling(1.0))] == ["greedy", "mask-only"]
    masks = [*arms, Arm("mask-only", decoding=masked(0.3))]
    assert [arm.name for arm in decoding_controls(masks, sampling(0.7))] == ["greedy"]


def test_a_first_word_is_raised_where_it_is_plausible() -> None:
    # the word's logit lies log 10 = 2.30 below the largest at most, or it stays
    logits = torch.tensor([[5.0, 3.0, 0.0], [5.0, 2.6, 0.0], [1.0, 4.0, 9.0]])
    raised = FirstWord(1, 1.5)(torch.zeros(3, 1, dtype=torch.long), logits)
    assert raised.tolist() == [[5.0, 4.5, 0.0], [5.0, pytest.approx(2.6), 0.0], [1.0, 4.0, 9.0]]
    assert logits[0, 1] == 3.0  # what was given is left alone
    assert torch.equal(FirstWord(1, 0.0)(logits.long(), logits), logits)


def test_the_most_frequent_token() -> None:
    assert most_frequent([4, 3, 4, 3, 9]) == 3
    assert most_frequent([]) is None


def test_margins_by_hand() -> None:
    # yes begins with 1 or 2, no with 0: log(e^1 + e^2) - 3 = 2.3133 - 3; of two beams a row the first counts
    margins = Margins([1, 2], [0])
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.0, 0.0], [-math.inf, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert torch.equal(margins(torch.zeros(4, 1), logits), logits)
    margins(torch.zeros(4, 2), logits * 7)  # later steps are not the answer's first token
    assert margins.of(2) == [pytest.approx(-0.686738), None]
    assert Margins([1], [0]).of(2) == [None, None]  # where a model drops what reads its logits


@pytest.fixture(scope="module")
def vlm(untrained_mini: Path) -> VLM:
    return VLM.from_pretrained(untrained_mini)


def test_words_are_found_as_a_tokenizer_spells_them(vlm: VLM) -> None:
    tokenizer = vlm.processor.tokenizer
    found = Margins.of_words(tokenizer, ("yes", "no"))
    assert found is not None
    assert [ids.tolist() for ids in found._words] == [
        [tokenizer.convert_tokens_to_ids("▁Yes")],
        [tokenizer.convert_tokens_to_ids("▁No")],
    ]
    assert Margins.of_words(tokenizer, ("grue", "no")) is None  # unknown to this tokenizer


def asked(vlm: VLM, world: Path, folder: Path, batch: int) -> dict[str, Any]:
    data = CocoFolder.find(world)
    protocol = bind("coco", "pope", data, limit=2, seed=7, max_new_tokens=3)
    with open_run(folder, {"protocol": protocol.as_json()}) as run:
        answer_samples(Asking(vlm, batch_size=batch), protocol, samples(protocol, data), run)
    return answers_in(folder)


def test_margins_are_those_of_the_logits_in_any_batch(vlm: VLM, small_world: Path, tmp_path: Path) -> None:
    together = asked(vlm, small_world, tmp_path / "together", 16)
    alone = asked(vlm, small_world, tmp_path / "alone", 1)
    tokenizer = vlm.processor.tokenizer
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("▁Yes", "▁No"))
    data = CocoFolder.find(small_world)
    for sample in samples(bind("coco", "pope", data, limit=2, seed=7, max_new_tokens=3), data)[:4]:
        with torch.inference_mode():
            logits = vlm.model(**vlm.inputs([sample.image], [sample.prompt])).logits[0, -1]
        expected = float(logits[yes] - logits[no])
        assert together[sample.sample_id].margin == pytest.approx(expected, abs=1e-4)
    for name, answer in together.items():
        assert answer.text == alone[name].text
        assert answer.margin == pytest.approx(alone[name].margin, abs=1e-4)


def test_recording_a_margin_changes_no_answer(vlm: VLM, small_world: Path, tmp_path: Path) -> None:
    found = asked(vlm, small_world, tmp_path, 16)
    data = CocoFolder.find(small_world)
    for sample in samples(bind("coco", "pope", data, limit=2, seed=7, max_new_tokens=3), data)[:3]:
        assert vlm.answer(sample.image, sample.prompt, max_new_tokens=3).token_ids == found[sample.sample_id].token_ids


def test_what_an_arm_changes_is_part_of_what_its_directory_is_bound_to(vlm: VLM) -> None:
    plain = setting(Asking(vlm), Arm("plain"))
    assert set(plain) == {"model", "weights", "interventions", "contrast", "end_bias", "profile"}  # as it always was
    added = setting(Asking(vlm), Arm("prompt-yes", added=" Say yes."))
    assert added == plain | {"added_to_prompt": " Say yes."}
    assert setting(Asking(vlm), Arm("mask-only", decoding=masked(0.1))) == plain | {"decoding": masked(0.1)}


def report_of(vlm: VLM, world: Path, out: Path, metric: str, words: str, **changes: Any) -> dict[str, Any]:
    data = CocoFolder.find(world)
    protocol = bind("coco", metric, data, limit=2, seed=7, max_new_tokens=4, **changes)
    fitting = asked_of(metric).controls
    arms = arms_of(Mitigation.parse(words), paired=True, controls=True, fitting=fitting)
    arms += decoding_controls(arms, protocol.decoding)
    for _ in range(2):  # started again it goes on, and asks nothing twice
        ask_arms(Asking(vlm, allow_idle=True), protocol, data, arms, out, processes=Processes())
    return evaluation_report(out, {arm.name: arm.end_bias for arm in arms}, seed=7)


def test_controls_of_questions_are_asked_and_reported(vlm: VLM, small_world: Path, tmp_path: Path) -> None:
    found = report_of(vlm, small_world, tmp_path, "pope", "vcd")
    assert list(found["controls"]) == ["prompt-yes", "prompt-no", "mask-only", "output", "output-fixed"]
    assert found["beats"].keys() == found["controls"].keys()
    assert found["controls"]["output"]["yes_ratio"] == pytest.approx(found["mitigated"]["yes_ratio"])
    notes = "\n".join(found["settings"]["notes"])
    assert "the control prompt-yes adds 'Answer yes whenever possible.' to every prompt of the plain model" in notes
    assert "the control mask-only decodes the plain model with do_sample True" in notes
    assert "the control output turns plain answers by their margin: random" in notes
    assert sum(sum(turns.values()) for one in found["transition"].values() for turns in list(one.values())[:2]) == 36


def test_controls_of_a_protocol_that_samples(vlm: VLM, small_world: Path, tmp_path: Path) -> None:
    found = report_of(vlm, small_world, tmp_path, "pope", "pai", decoding=sampling(1.0))
    assert list(found["controls"]) == ["prompt-yes", "prompt-no", "greedy", "mask-only", "output", "output-fixed"]


def test_a_first_word_is_that_of_the_plain_answers(vlm: VLM, small_world: Path, tmp_path: Path) -> None:
    found = report_of(vlm, small_world, tmp_path, "chair", "pai")
    first = most_frequent(answer.token_ids[0] for answer in answers_in(tmp_path / "plain").values())
    assert first is not None
    word = vlm.processor.tokenizer.decode([first]).strip()
    assert list(found["controls"]) == ["first-word+1", "first-word+3"]
    assert f"the control first-word+3 adds +3 to the logits of {word!r}" in found["settings"]["notes"][-1]
