"""SGLang's hook as a plain module hook, on attention that looks like SGLang's. In SGLang itself it was not tried."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from vlm_app.bridges.sglang import gain_hook, head_gains

from tests.support.compare import equal
from vlm_heads import HeadProfile
from vlm_heads.errors import BadOption, BadProfile, UnsupportedModel

GAINS = torch.tensor([[2.0, 1.0, 0.5, 4.0], [1.0, 1.0, 1.0, 1.0], [0.25, 2.0, 1.0, 0.0]])


class RadixAttention(nn.Module):
    """What the hook reads of SGLang's: the layer, and the heads of this rank. It hands its input on."""

    def __init__(self, layer: int, heads: int) -> None:
        super().__init__()
        self.layer_id = layer
        self.tp_q_head_num = heads

    def forward(self, output: Tensor) -> Tensor:
        return output


class SelfAttention(nn.Module):
    """Attention and output projection of one rank, which holds the columns of its own heads."""

    def __init__(self, layer: int, heads: int, columns: Tensor) -> None:
        super().__init__()
        self.attn = RadixAttention(layer, heads)
        self.columns = columns

    def forward(self, output: Tensor) -> Tensor:
        projected: Tensor = self.attn(output) @ self.columns.T
        return projected


def _projected(layer: int, ranks: int, output: Tensor, weight: Tensor) -> Tensor:
    """Return a layer's projected output with the hook on every rank, summed as the ranks sum theirs."""
    width = weight.shape[1] // ranks
    parts = []
    for rank in range(ranks):
        own = slice(rank * width, (rank + 1) * width)
        module = SelfAttention(layer, 4 // ranks, weight[:, own])
        module.attn.register_forward_hook(gain_hook(GAINS, rank))
        parts.append(module(output[:, own]))
    return torch.stack(parts).sum(dim=0)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_hooked_is_folded(layer: int, ranks: int) -> None:
    """The projection's columns times the gains give the same, however many ranks share the heads."""
    torch.manual_seed(0)
    output, weight = torch.randn(5, 4 * 8), torch.randn(16, 4 * 8)
    folded = output @ (weight * GAINS[layer].repeat_interleave(8)).T
    assert torch.allclose(_projected(layer, ranks, output, weight), folded, atol=1e-5)


def test_a_layer_without_gains_hands_its_very_output_on() -> None:
    attention, output = RadixAttention(1, 4), torch.randn(5, 32)
    attention.register_forward_hook(gain_hook(GAINS))
    assert attention(output) is output


def test_modules_that_are_no_such_attention_are_refused() -> None:
    output, hook = torch.randn(5, 32), gain_hook(GAINS)
    with pytest.raises(UnsupportedModel, match="Linear is no attention of a decoder layer"):
        hook(nn.Linear(2, 2), (), output)
    with pytest.raises(BadProfile, match="3 layers of 4 heads; layer 3 here computes 4"):
        hook(RadixAttention(3, 4), (), output)
    with pytest.raises(BadProfile, match="layer 0 here computes 3"):
        hook(RadixAttention(0, 3), (), output)
    with pytest.raises(UnsupportedModel, match="more than head outputs"):
        hook(RadixAttention(0, 4), (), (output, output))


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool, int], None]:
    """Stand for the two questions that the factory asks SGLang: are all recorded forwards off, and which rank is it."""

    def serve(graphs_off: bool, rank: int) -> None:
        graphs, context = ModuleType("graphs"), ModuleType("context")
        graphs.cuda_graph_fully_disabled = lambda: graphs_off  # type: ignore[attr-defined]
        context.get_parallel = lambda: SimpleNamespace(attn_tp_rank=rank)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "sglang.srt.model_executor.cuda_graph_config", graphs)
        monkeypatch.setitem(sys.modules, "sglang.srt.runtime_context", context)

    return serve


def test_the_factory_reads_a_folder_and_its_rank(tmp_path: Path, served: Callable[[bool, int], None]) -> None:
    HeadProfile(torch.zeros(3, 4), gains=GAINS).save_pretrained(tmp_path)
    served(True, 1)
    output = torch.ones(2, 16)
    found = head_gains({"profile": str(tmp_path)})(RadixAttention(0, 2), (), output)
    assert found is not None
    assert equal(found, torch.tensor([0.5, 4.0]).repeat_interleave(8).expand(2, -1))


def test_the_factory_refuses_what_would_go_unseen(tmp_path: Path, served: Callable[[bool, int], None]) -> None:
    HeadProfile(torch.zeros(3, 4), gains=GAINS).save_pretrained(tmp_path / "gains")
    HeadProfile(torch.zeros(3, 4)).save_pretrained(tmp_path / "scores")
    served(False, 0)
    with pytest.raises(UnsupportedModel, match="--disable-decode-cuda-graph"):
        head_gains({"profile": str(tmp_path / "gains")})
    with pytest.raises(BadProfile, match="scores and no gains"):
        head_gains({"profile": str(tmp_path / "scores")})
    with pytest.raises(BadOption, match="config is"):
        head_gains({"folder": str(tmp_path / "gains")})
