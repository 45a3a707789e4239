"""Owl against two streams with other logits written out in float64."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.families import Tiny
from tests.support.stream_oracle import Rule, Whole, padded, plainly
from tests.vlm_heads.contrasts.conftest import Holds
from vlm_heads import HeadReinforcement, attach
from vlm_heads.contrasts.favoured_modality import FavouredModality
from vlm_heads.errors import BadOption


def favouring(sign: float, image: float, text: float, layers: Sequence[int], base: Sequence[float] = ()) -> Rule:
    """Return the stream that favours the picture, or with sign -1 the text; the first token is neither."""

    def rule(call: Whole) -> Tensor:
        if call.layer not in layers:
            return plainly(call)
        texts = ~call.image
        texts[0] = False
        texts[call.prompt :] = False
        for row in call.predicting:
            of_image, of_text = image, text
            if base:
                weights = call.logits[:, row].softmax(-1)
                ratio = (weights[:, call.image].sum(-1) / weights[:, texts].sum(-1)).mean().item()
                if ratio < base[call.layer]:
                    rise = 0.2 * (base[call.layer] - ratio) / base[call.layer]
                    of_image, of_text = min(0.6, image + rise), min(0.6, text + rise)
            logits = call.logits[:, row].clone()
            call.logits[:, row, call.image] += sign * of_image * logits[:, call.image].abs()
            call.logits[:, row, texts] -= sign * of_text * logits[:, texts].abs()
        return plainly(call)

    return rule


def test_the_picture_is_favoured_in_one_stream_and_the_text_in_the_other(model: Tiny, holds: Holds) -> None:
    streams = [favouring(sign, 0.9, 0.7, (0, 2)) for sign in (1.0, -1.0)]
    contrast = FavouredModality(image=0.9, text=0.7, contrast=0.5, layers=(0, 2))
    holds(contrast, model.model, padded(), streams, lambda _: (0.0, 1.5, -0.5), 0.1)


def test_strengths_rise_where_a_layer_is_under_its_base(tmp_path: Path, model: Tiny, holds: Holds) -> None:
    """Layer 0 is far under its base, layer 1 never, and layer 2 near its own."""
    base = [50.0, 1e-6, 1.0]
    (tmp_path / "ratios.txt").write_text("\n".join(map(str, base)))
    streams = [favouring(sign, 0.4, 0.5, (0, 1, 2), base) for sign in (1.0, -1.0)]
    contrast = FavouredModality(base=str(tmp_path / "ratios.txt"), layers="all")
    holds(contrast, model.model, padded(), streams, lambda _: (0.0, 1.2, -0.2), 0.1)


def test_the_papers_layers_are_all_but_two(llava: Tiny, holds: Holds) -> None:
    streams = [favouring(sign, 0.4, 0.5, (2,)) for sign in (1.0, -1.0)]
    holds(FavouredModality(), llava.model, padded(), streams, lambda _: (0.0, 1.2, -0.2), 0.1, least=1e-5)


def test_what_cannot_be_done_is_refused_by_name(tmp_path: Path, llava: Tiny) -> None:
    with pytest.raises(BadOption, match="vhr acts in the first alone"):
        attach(llava.model, HeadReinforcement(), FavouredModality())
    (tmp_path / "short.txt").write_text("1.0 2.0")
    with pytest.raises(BadOption, match="each of 3 layers"):
        attach(llava.model, FavouredModality(base=str(tmp_path / "short.txt")))
    with pytest.raises(BadOption, match="is no file of numbers"):
        attach(llava.model, FavouredModality(base=str(tmp_path / "missing.txt")))


def test_a_strength_of_zero_never_rises(tmp_path: Path, llava: Tiny) -> None:
    (tmp_path / "ratios.txt").write_text("50 50 50")
    contrast = FavouredModality(image=0.0, text=0.0, base=str(tmp_path / "ratios.txt"), layers="all")
    plain = llava.generate()
    with attach(llava.model, contrast):
        assert torch.equal(llava.generate().sequences, plain.sequences)
