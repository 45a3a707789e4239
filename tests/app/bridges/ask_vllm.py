"""Ask vLLM, in its own environment: `python ask_vllm.py CHECKPOINT < questions > answers`, both JSON.

It is not imported by a test: vLLM's requirements and ours do not meet in one environment, so `tests.support.ask_engine`
runs it as a program and says what the questions are.
"""

import json
import sys
from typing import Any


def requests(questions: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Return prompts and sampling parameters, greedy, as vLLM takes them."""
    from PIL import Image
    from vllm import SamplingParams

    prompts, parameters = [], []
    for one in questions:
        prompt: dict[str, Any] = {"prompt" if isinstance(one["prompt"], str) else "prompt_token_ids": one["prompt"]}
        if one["image"] is not None:
            with Image.open(one["image"]) as image:
                prompt["multi_modal_data"] = {"image": image.convert("RGB")}
        wish = None if one["wish"] is None else {"vlm_heads": one["wish"]}
        prompts.append(prompt)
        parameters.append(SamplingParams(temperature=0, max_tokens=one["tokens"], extra_args=wish))
    return prompts, parameters


def answers(engine: Any, questions: list[dict[str, Any]]) -> list[list[int] | str]:
    """Return the generated ids of each question of a round; where vLLM refuses one, its reason for the whole round."""
    from vllm.exceptions import VLLMValidationError

    try:
        found = engine.generate(*requests(questions), use_tqdm=False)
    except VLLMValidationError as refused:
        return [str(refused)] * len(questions)
    return [list(one.outputs[0].token_ids) for one in found]


def main() -> None:
    """Read the rounds, ask one after the other, and print one line of answers."""
    from vllm import LLM

    asked = json.load(sys.stdin)
    chosen = {"dtype": "float32", "max_model_len": 256, "enforce_eager": True, "limit_mm_per_prompt": {"image": 1}}
    engine = LLM(model=sys.argv[1], **{**chosen, **asked["engine"]})
    print("ANSWERS " + json.dumps([answers(engine, questions) for questions in asked["rounds"]]))


if __name__ == "__main__":
    main()
