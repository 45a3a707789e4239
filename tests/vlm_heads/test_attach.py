"""attach: what it refuses before anything changes, and what it leaves open."""

import pytest
import torch
import transformers as T
from torch import nn

from tests.support.compare import equal
from tests.support.families import Build, Tiny
from vlm_heads import VLM, HeadReinforcement, attach, errors
from vlm_heads.attention import is_bound
from vlm_heads.families import examine

NEVER = "nothing may run"


def _refused(model: nn.Module, said: str, kind: type[Exception] = errors.UnsupportedModel, what: object = None) -> None:
    with pytest.raises(kind, match=said), attach(model, [HeadReinforcement()] if what is None else what):
        raise AssertionError(NEVER)


def test_a_text_only_model_is_refused() -> None:
    config = T.LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    _refused(T.LlamaForCausalLM(config), "text-only")


def test_what_is_no_transformers_model_is_refused() -> None:
    _refused(nn.Linear(2, 2), "no transformers model")


@pytest.mark.parametrize("implementation", ["paged|sdpa", "somebodys_own"])
def test_an_attention_with_masks_of_its_own_is_refused(implementation: str, llava: Tiny) -> None:
    config = llava.model.model.language_model.config
    config._attn_implementation = implementation
    _refused(llava.model, "sdpa")
    assert config._attn_implementation == implementation
    assert not is_bound(llava.decoder_layers[0].self_attn)


class _OwnAttention(nn.Module):
    """An attention that asks nobody, as remote code often brings it."""

    def __init__(self, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.o_proj = nn.Linear(64, 64)


def test_an_attention_beside_the_interface_is_refused(llava: Tiny) -> None:
    for index, layer in enumerate(llava.decoder_layers):
        layer.self_attn = _OwnAttention(index)
    _refused(llava.model, "_OwnAttention computes attention on its own")


def test_an_attention_that_never_comes_by_is_said(llava: Tiny) -> None:
    """A model that switches its implementation back by itself runs, and nothing fires."""
    config = llava.model.model.language_model.config

    def run() -> None:
        with attach(llava.model, [HeadReinforcement(heads="random")]):
            config._attn_implementation = "sdpa"
            llava.generate()

    with pytest.raises(errors.NothingIntervened, match="interface"):
        run()
    assert config._attn_implementation == "sdpa"


def test_a_model_without_decoder_layers_is_refused(llava: Tiny) -> None:
    llava.model.model.language_model.layers = nn.ModuleList()
    _refused(llava.model, "no list of 3 decoder layers")


def test_an_encoder_decoder_is_refused(llava: Tiny) -> None:
    llava.model.config.text_config.is_encoder_decoder = True
    _refused(llava.model, "encoder-decoder")


@pytest.mark.parametrize(
    "what",
    [HeadReinforcement, ["vrh"], [HeadReinforcement], [None], 3],
    ids=["a class", "an unknown word", "a class in a list", "nothing", "a number"],
)
def test_what_is_no_intervention_is_refused(what: object, llava: Tiny) -> None:
    _refused(llava.model, "intervention", errors.BadOption, what)


def test_layers_outside_the_model_are_refused(llava: Tiny) -> None:
    _refused(llava.model, "0..2", errors.BadOption, [HeadReinforcement(layers=[3])])


def test_a_second_attach_on_the_same_model_is_refused(llava: Tiny) -> None:
    with attach(llava.model, [HeadReinforcement()], allow_idle=True):
        _refused(llava.model, "another attach", errors.AlreadyAttached)
        assert is_bound(llava.decoder_layers[0].self_attn)
    with attach(llava.model, [HeadReinforcement()]):
        llava.generate()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *((one, other) for one in ("askback", "carve") for other in ("vhr", "vcd", "dola", "askback", "carve")),
        *((one, other) for one in ("vhr", "vcd", "dola") for other in ("askback", "carve")),
        ("vhr", "vhr"),
    ],
)
def test_no_check_or_pipeline_is_attached_around_another_or_inside(first: str, second: str) -> None:
    vlm = VLM.from_pretrained("mini")
    before = sorted(vars(vlm.model))
    run = attach(vlm.model, first, processor=vlm.processor, allow_idle=True)
    with pytest.raises(errors.AlreadyAttached, match="inside another attach"):
        attach(vlm.model, second, processor=vlm.processor, allow_idle=True)
    run.detach()
    assert sorted(vars(vlm.model)) == before
    attach(vlm.model, "vhr", allow_idle=True).detach()


@pytest.mark.parametrize(("outer", "inner"), [("vcd", "vcd"), ("vcd", "vhr"), ("vhr", "vcd"), ("dola", "m3id")])
def test_the_inner_of_two_ends_first(outer: str, inner: str) -> None:
    """Ended in another order, they left the model mitigated for good."""
    vlm = VLM.from_pretrained("mini")
    before = sorted(vars(vlm.model))
    first = attach(vlm.model, outer, allow_idle=True)
    second = attach(vlm.model, inner, allow_idle=True)
    with pytest.raises(errors.AlreadyAttached, match="detach that one first"):
        first.detach()
    second.detach()
    first.detach()
    assert sorted(vars(vlm.model)) == before


def test_no_intervention_is_allowed_and_changes_nothing(llava: Tiny) -> None:
    plain = llava.generate()
    with attach(llava.model, []) as run:
        got = llava.generate()
    assert equal(plain.logits, got.logits)
    assert run.receipt.steps == 0


def test_the_vision_tower_keeps_its_attention(llava: Tiny) -> None:
    tower = llava.model.model.vision_tower.config
    with attach(llava.model, [HeadReinforcement()], allow_idle=True):
        assert tower._attn_implementation == "sdpa"
        assert llava.model.model.language_model.config._attn_implementation == "vlm_heads_sdpa"


def test_eager_models_keep_giving_their_weights(llava: Tiny) -> None:
    llava.model.set_attn_implementation("eager")
    with torch.no_grad(), attach(llava.model, [HeadReinforcement(gain=1.0, layers="all")]):
        got = llava.model(**llava.inputs, output_attentions=True)
    with torch.no_grad():
        expected = llava.model(**llava.inputs, output_attentions=True)
    assert equal(expected.attentions, got.attentions)


def test_hidden_states_are_those_of_the_image_stream_alone(llava: Tiny) -> None:
    with torch.no_grad():
        expected = llava.model(**llava.inputs, output_hidden_states=True).hidden_states
        for blind in ("plain", "lockstep", "two-pass"):
            with attach(llava.model, [HeadReinforcement(gain=1.0, layers="all", blind=blind)]):
                got = llava.model(**llava.inputs, output_hidden_states=True).hidden_states
            assert len(got) == len(expected)
            assert equal(expected, got)


def test_gradients_flow_through_a_gain(llava: Tiny) -> None:
    with attach(llava.model, [HeadReinforcement(layers="all")]):
        llava.model(**llava.inputs).logits.sum().backward()
    gradient = llava.decoder_layers[0].self_attn.v_proj.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_anatomy_counts_what_is_there(family: str, tiny: Build) -> None:
    model = tiny(family)
    anatomy = examine(model.model)
    assert list(anatomy.layers) == model.decoder_layers
    assert dict(anatomy.projections) == model.projections()
    assert (anatomy.depth, anatomy.heads, anatomy.width) == (3, 4, 64)


def test_one_head_leaves_nothing_to_choose(tiny: Build) -> None:
    _refused(tiny("llava", num_attention_heads=1, num_key_value_heads=1).model, "one head in each layer")
