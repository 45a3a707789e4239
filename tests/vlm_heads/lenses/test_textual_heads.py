"""ONLY against a plain, uncached loop in float64 ; what it reads, family by family."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from tests.support.compare import distance, equal, rounding
from tests.support.families import CLOSE, Build, Inputs, Tiny
from tests.support.family_table import FamilyTable
from tests.support.layer_loop import vivid
from vlm_heads import TextualHeads, attach, errors, examine
from vlm_heads.attached.lens_processor import LensWatcher
from vlm_heads.call import AttentionCall, GenerationState
from vlm_heads.key_map import KeyMap
from vlm_heads.layer_end import behind_attention
from vlm_heads.lenses.textual_heads import _outlying
from vlm_heads.receipt import LayerTally

CLOSE_SCORES = rounding(torch.float32, terms=64, size=40.0)


def padded() -> Inputs:
    """Return a left-padded batch of two prompts, each with a picture of four positions."""
    torch.manual_seed(3)
    ids = torch.tensor([[1, 5, *[150] * 4, 7, 8, 9, 10, 11], [0, 0, 0, 1, *[150] * 4, 9, 12, 13]])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "pixel_values": torch.randn(2, 3, 28, 28)}


@dataclass
class Loop:
    """One tiny Llava in float64, each prompt alone and without padding, asked anew for every token.

    Attributes:
        model: in float64.
        lens: whose formula is followed, by its options alone.
        apart: for every token said, how far apart the two paths' probabilities were.
        agreed: for every token said, whether that was near.
        kept: for every token said, the heads that were kept.
    """

    model: PreTrainedModel
    lens: TextualHeads

    def __post_init__(self) -> None:
        self.model = copy.deepcopy(self.model).double()
        self.agreed: list[bool] = []
        self.apart: list[float] = []
        self.kept: list[list[bool]] = []

    def answer(self, inputs: Inputs, steps: int = 5) -> tuple[Tensor, list[Tensor]]:
        """Return the greedy answer `[B, steps]` and the log-probabilities `[B, V]` it was chosen from."""
        given = zip(inputs["input_ids"], inputs["attention_mask"], inputs["pixel_values"], strict=True)
        rows = [self._row(ids[mask.bool()], pixels[None].double(), steps) for ids, mask, pixels in given]
        return torch.stack([said for said, _ in rows]), [
            torch.stack(step) for step in zip(*(one for _, one in rows), strict=True)
        ]

    def _row(self, ids: Tensor, pixels: Tensor, steps: int) -> tuple[Tensor, list[Tensor]]:
        prompt, scores = len(ids), []
        for _ in range(steps):
            with torch.no_grad():
                scores.append(self._step(ids, pixels).log_softmax(-1))
            ids = torch.cat([ids, scores[-1].argmax()[None]])
        return ids[prompt:], scores

    def _step(self, ids: Tensor, pixels: Tensor) -> Tensor:
        decoder, last = self.model.get_decoder(), []
        behind = decoder.norm.register_forward_pre_hook(lambda _, args: last.append(args[0][0, -1]))
        output = self.model(input_ids=ids[None], pixel_values=pixels, use_cache=False, output_hidden_states=True)
        behind.remove()
        weights, values = self._attention(output.hidden_states[self.lens.layer])
        attended = decoder.layers[self.lens.layer].self_attn.o_proj(self._kept_heads(ids, weights, values))
        other = self._end(attended, output.hidden_states[-2][0, -1], last[0])
        return self._weighed(output.logits[0, -1], other)

    def _attention(self, entering: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer's weights in the last row `[H, T]`, and the values `[H, T, D]` that each head reads."""
        decoder, length = self.model.get_decoder(), entering.shape[1]
        layer = decoder.layers[self.lens.layer]
        normed, attention = layer.input_layernorm(entering), layer.self_attn
        query, key, value = (
            project(normed).view(length, -1, 16).transpose(0, 1)[None]
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        turn = decoder.rotary_emb(normed, torch.arange(length)[None])
        query, key = apply_rotary_pos_emb(query, key, *turn)
        group = query.shape[1] // key.shape[1]
        logits = query[0, :, -1:] @ key[0].repeat_interleave(group, dim=0).transpose(1, 2) / math.sqrt(16)
        return logits[:, 0].softmax(-1), value[0].repeat_interleave(group, dim=0)

    def _kept_heads(self, ids: Tensor, weights: Tensor, values: Tensor) -> Tensor:
        """Return what the heads that are kept give, side by side; the others give 0."""
        code = self.lens.mode == "code"
        image = [at for at in range(len(ids)) if ids[at] == 150]
        text = [at for at in range(len(ids)) if ids[at] != 150]
        ratios = []
        for head in weights:
            entropies = []
            for share in (text[1:] if code else text, image):
                part = head[share]
                if code:
                    part = head[share] = torch.where(part > part.mean() + part.std(), 0.0, part)
                likely = (part / part.sum()).tolist()
                entropies.append(-sum(p * math.log(p + (1e-6 if code else 0.0)) for p in likely if p > 0))
            ratios.append(entropies[0] / entropies[1])
        self.kept.append([one >= sum(ratios) / len(ratios) for one in ratios])
        return torch.cat(
            [kept * (one @ value) for kept, one, value in zip(self.kept[-1], weights, values, strict=True)]
        )

    def _end(self, attended: Tensor, entering: Tensor, last: Tensor) -> Tensor:
        """Return the token logits behind a last layer whose attention gives `attended`."""
        decoder, code = self.model.get_decoder(), self.lens.mode == "code"
        end = decoder.layers[-1]
        state = 0.2 * entering + end.input_layernorm(attended) if code else entering + attended
        state = decoder.norm(state + end.mlp(end.post_attention_layernorm(state)))
        state = state + 0.5 * decoder.norm(last) if code else state
        found: Tensor = self.model.get_output_embeddings()(state)
        return found

    def _weighed(self, z: Tensor, other: Tensor) -> Tensor:
        p = z.softmax(-1)
        self.apart.append(float((p - other.softmax(-1)).abs().sum()))
        self.agreed.append(self.apart[-1] < self.lens.near)
        weighed = z + self.lens.together * other if self.agreed[-1] else z + self.lens.apart * (z - other)
        return weighed.masked_fill(p < self.lens.bound * p.max(), -math.inf)


def _compared(model: PreTrainedModel, lens: TextualHeads) -> Loop:
    inputs, loop = padded(), Loop(model, lens)
    answer, expected = loop.answer(inputs)
    with attach(model, lens) as run:
        got = model.generate(
            **inputs, max_new_tokens=5, do_sample=False, eos_token_id=None, return_dict_in_generate=True,
            output_scores=True, output_logits=True,
        )  # fmt: skip
    assert equal(got.sequences[:, -5:], answer)
    for one, other in zip(expected, got.scores, strict=True):
        assert equal(one.isinf(), other.isinf())
        assert distance(one.float(), other) < CLOSE_SCORES
    moved = (got.scores[-1] - got.logits[-1].log_softmax(-1))[~got.scores[-1].isinf()]
    assert moved.std() > 10 * CLOSE_SCORES  # the comparison would be empty otherwise
    assert run.receipt.lenses[0].tokens == 10
    return loop


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("mode", ["paper", "code"])
@pytest.mark.parametrize(("layer", "near"), [(0, 0.0), (0, 2.0), (2, 0.5)])
def test_equals_a_plain_loop(layer: int, near: float, mode: Any, key_heads: int, tiny: Build) -> None:
    model = vivid(tiny("llava", num_key_value_heads=key_heads))
    loop = _compared(model, TextualHeads(layer=layer, near=near, mode=mode, bound=0.02, together=2.0, apart=1.5))
    assert {0.0: not any(loop.agreed), 2.0: all(loop.agreed)}.get(near, True)
    assert all(0 < sum(kept) < 4 for kept in loop.kept)


@pytest.mark.parametrize("mode", ["paper", "code"])
def test_each_token_of_each_row_goes_its_own_way(mode: Any, tiny: Build) -> None:
    """At a distance in the middle, some tokens are added to and others contrasted; the heads change too."""
    model = vivid(tiny("llava"))
    free = Loop(model, TextualHeads(near=0.0, mode=mode, bound=0.02))
    free.answer(padded())
    loop = _compared(model, TextualHeads(near=sorted(free.apart)[5], mode=mode, bound=0.02))
    assert 0 < sum(loop.agreed) < 10
    assert len({tuple(kept) for kept in loop.kept}) > 1


@pytest.mark.parametrize("mode", ["paper", "code"])
def test_the_comparison_sees_the_other_form(mode: Any, tiny: Build) -> None:
    model, inputs = vivid(tiny("llava")), padded()
    found = [
        Loop(model, TextualHeads(near=0.0, bound=0.0, mode=one)).answer(inputs, steps=1)[1][0]
        for one in (mode, "code" if mode == "paper" else "paper")
    ]
    assert distance(*found) > 10 * CLOSE_SCORES


class _AllHeads(TextualHeads):
    """Keeps every head, so that what it reads is what the layer's attention gives."""

    def chosen(self, call: AttentionCall) -> tuple[Tensor, Tensor]:
        weights, kept = super().chosen(call)
        return weights, torch.ones_like(kept)


class _Kept(LensWatcher):
    """Keeps what was read in the last forward."""

    def see(self, call: AttentionCall) -> None:
        super().see(call)
        self.memory = call.memory


REFUSED = {
    "janus": "drops logits processors",
    "mllama": "reads the image in cross-attention",
    "qwen3_5": "gates it first",
    "lfm2_vl": "no attention of its own",
}


def test_every_family_ends_as_its_layers_do_or_says_why_not(family: str, tiny: Build, support: FamilyTable) -> None:
    """With every head kept, what is read is what the attention gives; the last layer's end is what it leaves."""
    model = tiny(family)
    layer = 1 if family in ("qwen3_5", "lfm2_vl") else 0
    if family in REFUSED:
        with pytest.raises(errors.UnsupportedModel, match=REFUSED[family]):
            attach(model.model, TextualHeads(layer=layer))
        support.states(family, "only", f"refused: {REFUSED[family]}")
        return
    anatomy, heard = examine(model.model), {}

    def hear(name: str) -> Any:
        return lambda _, args, kwargs, output: heard.update({name: (args, kwargs, output)})

    last = anatomy.depth - 1
    places = {"first": anatomy.attentions[0], "last": anatomy.attentions[last], "layer": anatomy.layers[last]}
    handles = [one.register_forward_hook(hear(name), with_kwargs=True) for name, one in places.items()]
    watching = _Kept(_AllHeads())
    with attach(model.model, watch=[watching]), torch.no_grad():
        model.generate(steps=3)
        for handle in handles:
            handle.remove()
        read = anatomy.projections[0](watching.memory["textual"])
        assert distance(read, heard["first"][2][0][:, -1]) < CLOSE
        args, kwargs, left = heard["layer"]
        entering = (args[0] if args else kwargs["hidden_states"])[:, -1]
        again = behind_attention(anatomy, last, entering, heard["last"][2][0][:, -1])
        assert distance(again, (left[0] if isinstance(left, tuple) else left)[:, -1]) < CLOSE
    support.states(family, "only", "equals hooks")


def _call(*rows: list[float]) -> AttentionCall:
    """Return a call of one row whose heads have these weights: over a word, two image keys, a word, one said before."""
    key_map = KeyMap.of_prompt(torch.tensor([[9, 150, 150, 7]]), None, 150)
    key_map.grow(4, 1)
    logits = torch.tensor(rows).clamp_min(1e-30).log()[None, :, None]
    keys = torch.eye(5).expand(1, len(rows), 5, 5)  # so that a query is its own row of logits
    state = GenerationState(key_map, prefill=False)
    return AttentionCall(
        0, nn.Identity(), logits, keys, keys, None, state, None, lambda: (logits, None), {}, LayerTally(), scale=1.0
    )


def test_heads_worked_by_hand() -> None:
    """Head 0: the text has shares 1/4, 1/4, 1/2, entropy 1.040; the image has 7/12, 5/12, 0.679. The ratio is 1.53.

    Head 1: the text has shares 1/5, 4/5, 0, entropy 0.500; the image 3/5, 2/5, 0.673. The ratio is 0.74, below the mean
    of 1.14, so head 0 alone is kept. In the program's form the first key is no text: head 0 has shares 1/3, 2/3, so
    0.637 / 0.679 = 0.94, and head 1 has one key, so 0.
    """
    call = _call([0.1, 0.35, 0.25, 0.1, 0.2], [0.1, 0.3, 0.2, 0.4, 0.0])
    lens = TextualHeads()
    weights, kept = lens.chosen(call)
    assert kept.tolist() == [[True, False]]
    assert distance(weights[0, 0], torch.tensor([0.1, 0.35, 0.25, 0.1, 0.2])) < CLOSE
    lens.see(call)
    assert distance(call.memory["textual"][0], torch.tensor([0.1, 0.35, 0.25, 0.1, 0.2, 0, 0, 0, 0, 0])) < CLOSE
    assert TextualHeads(mode="code").chosen(call)[1].tolist() == [[True, False]]
    assert not lens.chosen(_call([0.1, 0.35, 0.25, 0.1, 0.2], [0.1, 0.1, 0.5, 0.1, 0.2]))[1][0, 0]  # now 2.31 beside it


def test_outliers_worked_by_hand() -> None:
    """1, 1, 1, 7: the mean is 2.5 and the standard deviation 3, so that 7 alone is above 5.5; 9 is of another share."""
    share = torch.tensor([[[True, True, True, True, False]]])
    assert _outlying(torch.tensor([[[1.0, 1, 1, 7, 9]]]), share).tolist() == [[[False, False, False, True, False]]]
    assert not _outlying(torch.ones(1, 1, 5), share).any()


@pytest.mark.parametrize(
    ("options", "match"),
    [({"layer": 7}, "layers that have: 0, 1, 2"), ({"layer": -1}, "layer"), ({"near": 3.0}, "near")],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], match: str, llava: Tiny) -> None:
    with pytest.raises(errors.BadOption, match=match):
        attach(llava.model, TextualHeads(**options))


def test_a_last_layer_without_the_first_norm_is_refused_by_name(tiny: Build) -> None:
    """OPT names its norms in another way, so that the program's form is not defined there; the paper's is."""
    model = tiny("instructblip")
    with pytest.raises(errors.UnsupportedModel, match="take mode='paper'"):
        attach(model.model, TextualHeads(mode="code"))
