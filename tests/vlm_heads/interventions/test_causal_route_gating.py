"""CRG against a plain autograd loop in float64 without a cache, its derivation, and its gates by hand."""

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.support.compare import distance
from tests.support.families import BYPASSING, CLOSE, Build, Tiny
from tests.support.family_table import FamilyTable
from tests.support.full_loop import FullLoop, plain
from vlm_heads import VLM, attach, errors
from vlm_heads.interventions.causal_route_gating import CausalRouteGating, gates


class PlainLoop(FullLoop):
    """CRG with one full forward and one gradient for each token, written out."""

    def __init__(self, tiny: Tiny, method: CausalRouteGating, layers: tuple[int, ...]) -> None:
        super().__init__(tiny)
        self.model.requires_grad_(False)
        self.method, self.layers = method, layers
        self.kept: dict[tuple[int, int], Tensor] = {}  # text gates `[Hq]`, by row and layer

    def score(self, logits: Tensor) -> Tensor:
        """Return what is differentiated."""
        chances = logits.log_softmax(-1)
        if self.method.yes == "none":
            return chances.max()
        yes, no = ([int(one) for one in some] for some in (self.method.yes, self.method.no))
        return chances[yes].exp().sum().log() - chances[no].exp().sum().log()

    def routes(self, weights: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return both routes `[Hq, D]` of a row's weights `[Hq, T]`."""
        image = torch.nn.functional.pad(self.image, (0, weights.shape[1] - len(self.image)))
        return ((weights * image)[:, None] @ values)[:, 0], ((weights * ~image)[:, None] @ values)[:, 0]

    def gated(self, layer: int, logits: Tensor, values: Tensor) -> Tensor:
        """Return attention whose rows are gated as they were when they were new."""
        weights = logits.softmax(-1)
        output = weights @ values
        for (row, at), gate in self.kept.items():
            if at == layer and row < output.shape[1]:
                image, text = self.routes(weights[:, row], values)
                output[:, row] = image + gate[:, None] * text
        return output

    def helps(self, said: list[int]) -> dict[int, tuple[Tensor, Tensor]]:
        """Return how much the routes of the newest row help, `[Hq]` each, by layer."""
        added: dict[int, Tensor] = {}
        found: dict[int, tuple[Tensor, Tensor]] = {}

        def rule(layer: int, logits: Tensor, values: Tensor) -> Tensor:
            output = self.gated(layer, logits, values)
            if layer in self.layers:
                found[layer] = self.routes(logits.softmax(-1)[:, -1].detach(), values.detach())
                added[layer] = torch.zeros_like(output[:, -1], requires_grad=True)
                output = torch.cat([output[:, :-1], (output[:, -1] + added[layer])[:, None]], dim=1)
            return output

        score = self.score(self.token_logits(said, rule, gradients=True))
        slopes = torch.autograd.grad(score, list(added.values()))
        return {
            layer: ((slope * found[layer][0]).sum(-1), (slope * found[layer][1]).sum(-1))
            for layer, slope in zip(added, slopes, strict=True)
        }

    def generate(self, steps: int) -> list[Tensor]:
        """Return the token logits of each step."""
        said: list[int] = []
        found: list[Tensor] = []
        for _ in range(steps):
            row = len(self.prompt) + len(said) - 1
            helps = self.helps(said)
            for heads in [list(helps)] if self.method.per == "all" else [[layer] for layer in helps]:
                gate = self.gate([helps[layer] for layer in heads])
                self.kept |= {(row, layer): one for layer, one in zip(heads, gate, strict=True)}
            found.append(self.token_logits(said, self.gated))
            said.append(int(found[-1].argmax()))
        return found

    def gate(self, helps: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Return the gates of heads that are ranked together, `[Hq]` for each layer."""
        image = [float(one) for pair in helps for one in pair[0]]
        text = [float(one) for pair in helps for one in pair[1]]
        found = [1.0] * len(image)
        for sign, least, most in ((1, 0.5, 1.0), (-1, 0.0, 0.5)):
            members = [at for at in range(len(image)) if sign * image[at] > 0 > sign * text[at]]
            members.sort(key=lambda at: abs(image[at]) / (abs(image[at]) + abs(text[at]) + 1e-8))
            chosen = members[: self.method.count]
            for rank, at in enumerate(chosen):
                share = rank / (len(chosen) - 1) if len(chosen) > 1 else 0.0
                bent = min(max(share**self.method.gamma, 1e-6), 1 - 1e-6) if len(chosen) > 1 else 0.0
                found[at] = least + (most - least) * bent
        return list(torch.tensor(found, dtype=torch.float64).chunk(len(helps)))


@pytest.mark.parametrize(
    "options",
    [{}, {"per": "all", "count": 3}, {"yes": (20, 30), "no": (40,), "gamma": 0.4}, {"layers": 2}],
    ids=["default", "all heads together", "yes against no", "the last layer"],
)
def test_equals_a_plain_autograd_loop(options: dict[str, Any], model: Tiny) -> None:
    method = CausalRouteGating(**{"layers": "all", **options})
    loop = PlainLoop(model, method, (2,) if "layers" in options else (0, 1, 2))
    expected = loop.generate(5)
    assert any(bool((gate < 1).any()) for gate in loop.kept.values())
    with attach(model.model, method, allow_idle=True):
        got = model.generate(5)
    for ours, theirs in zip(got.logits, expected, strict=True):
        assert distance(ours[0].double(), theirs) < CLOSE


def test_what_routes_help_is_the_slope_of_the_score_by_their_gains(model: Tiny) -> None:
    """The derivation: D_v and D_t are the derivatives of the score by gains on the two routes, at gain 1."""
    loop = PlainLoop(model, CausalRouteGating(layers="all"), (0, 1, 2))
    helps, step = loop.helps([7]), 0.01  # norms of the model round to float32

    def score(layer: int, head: int, image_gain: float, text_gain: float) -> float:
        def rule(at: int, logits: Tensor, values: Tensor) -> Tensor:
            output = plain(at, logits, values)
            if at == layer:
                image, text = loop.routes(logits.softmax(-1)[:, -1], values)
                output[head, -1] = image_gain * image[head] + text_gain * text[head]
            return output

        return float(loop.score(loop.token_logits([7], rule)))

    for layer, (image, text) in helps.items():
        for head in range(4):
            by_image = (score(layer, head, 1 + step, 1) - score(layer, head, 1 - step, 1)) / (2 * step)
            by_text = (score(layer, head, 1, 1 + step) - score(layer, head, 1, 1 - step)) / (2 * step)
            assert abs(by_image - float(image[head])) < 1e-5
            assert abs(by_text - float(text[head])) < 1e-5


def test_the_gates_by_hand() -> None:
    """Helped are heads 0, 1, 2 and 5 with VRI 1/4, 1/2, 1/5 and 3/4, of which 2, 0 and 1 are gated: ranks 0, 1, 2 of 3.

    With gamma 1 their gates are 0.5 (and 1e-6 of the range), 0.75, and 1 less as much. Misled is head 3 alone: 0.
    """
    image = torch.tensor([[1.0, 2, 1, -1, 1, 3]])
    text = torch.tensor([[-3.0, -2, -4, 1, 1, -1]])
    found = gates(image, text, count=3, gamma=1.0)
    assert torch.allclose(found, torch.tensor([[0.75, 1.0, 0.5, 0.0, 1.0, 1.0]]), atol=1e-6)
    assert gates(image, text, 3, 1.0, "misled").tolist() == [[1, 1, 1, 0, 1, 1]]
    assert gates(image, text, 0, 1.0).tolist() == [[1] * 6]


def test_it_runs_in_inference_mode_and_beside_others(model: Tiny) -> None:
    with attach(model.model, "crg:layers=all"):
        expected = model.generate()
    with torch.inference_mode(), attach(model.model, "crg:layers=all"):
        got = model.generate()
    assert distance(expected, got) == 0.0
    assert not any(parameter.grad is not None for parameter in model.model.parameters())
    with attach(model.model, "crg:layers=all", "vhr:gain=2,layers=all", "m3id:rate=1") as run:
        model.generate()
    assert run.receipt.second_stream is not None
    assert "runs each forward twice" in run.receipt.second_stream.why


def test_the_embedded_model_takes_it() -> None:
    mini = VLM.from_pretrained("mini")
    answer = mini.answer(
        Image.new("RGB", (112, 112), "grey"), "Describe the image.", "crg:layers=all", max_new_tokens=6
    )
    assert answer.receipt is not None
    assert answer.receipt["interventions"][0]["mass_moved"] > 0


REFUSED = {
    "mllama": ("the image is read through cross-attention", "cross-attention"),
    "qwen3_5": ("linear attention writes over its state", "linear attention"),
    **dict.fromkeys(BYPASSING, ("generates past its own forward", "past its own forward")),
}


def test_the_backend_agrees_with_the_specification_on_every_family(
    family: str, tiny: Build, support: FamilyTable
) -> None:
    model = tiny(family)
    if family in REFUSED:
        why, said = REFUSED[family]
        with pytest.raises(errors.UnsupportedModel, match=said), attach(model.model, "crg:layers=all"):
            pass
        support.states(family, "first forward", f"refused: {why}")
        return
    with attach(model.model, "crg:layers=all", backend="reference", allow_idle=True):
        expected = model.generate(3)
    with attach(model.model, "crg:layers=all", allow_idle=True):
        assert distance(expected, model.generate(3)) < CLOSE
    support.states(family, "first forward", "equals the specification")


def test_yes_without_no_is_refused(llava: Tiny) -> None:
    with pytest.raises(errors.BadOption, match="for both"):
        attach(llava.model, "crg:yes=3")


def test_a_bare_forward_of_a_prompt_is_followed_in_inference_mode(tiny: Build) -> None:
    one = tiny("llava")
    with torch.inference_mode(), attach(one.model, "crg", allow_idle=True):
        logits = one.model(**one.inputs).logits
    assert bool(logits.isfinite().all())
