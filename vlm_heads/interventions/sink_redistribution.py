"""VAR, visual attention redistribution: sinks hand part of their weight to the image (Kang et al., ICLR 2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn
from vlm_kernels import AttentionPlan, KeyClass, Redistribution

from vlm_heads.call import AttentionCall
from vlm_heads.errors import NoSinks
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.layer_sets import Layers, layers_option
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.position_sinks import SINK_POSITIONS, PositionSinks, at_positions
from vlm_heads.toolkit.row_attention import text_after_image
from vlm_heads.toolkit.sink_channels import KNOWN, SINK_DIMS, SinkDims, resolve_sink_dims
from vlm_heads.toolkit.sink_criterion import MEDIAN_FACTOR, RELATIVE_THRESHOLD, Criterion, SinkCriterion

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile

Mode = Literal["paper", "code"]
Sinks = Literal["image", "any"]


@dataclass(frozen=True)
class SinkRedistribution(Intervention):
    """VAR: on heads that look at the image, sinks give weight to the image keys that are no sinks.

    Sinks are tokens with massive activations in the layer's input. They are found at prefill, for each layer and row
    of the batch; later tokens never are sinks. It acts on the text rows after the image and on every decode step, and
    leaves a layer alone where the image has no sink.

    Three options go beyond the paper. `criterion=median` finds sinks where one channel is large at every token.
    `sinks=any` acts where the text alone has a sink. `position_sinks` names image positions that draw attention
    whatever they show.

    Formula:
        RMS(x)   = sqrt(mean(x^2) + 1e-6)   x enters the layer, before its norm
        phi(x)   = max over sink channels d of |x[d]| / RMS(x)
        sinks    = prompt tokens with phi >= threshold
        with criterion=median:
        m(x)     = max over sink channels d of |x[d]|
        sinks    = prompt tokens with m(x) >= factor * median over the prompt's tokens y of max(m(y), RMS(y))
        in both, the image keys at position_sinks are sinks too
        mass     = sum over image keys of w,   share = (sum over image sinks of w) / mass   w: weights after softmax
        selected = heads and rows with mass >= min_image_mass and share <= max_sink_share
        on these   w[sink] <- (1 - moved) * w[sink]   for sinks of the image and of the text
                   w[j]    <- w[j] + freed * w[j] / sum of w over image keys that are no sinks   for such keys j

    Paper and program:
        They disagree in six ways. The program keeps 0.6 of a sink's weight instead of moving 0.6. It compares strictly.
        It adds 1e-6 to the image mass for each image key. It never leaves out the last layer, although it is told to.
        It always takes the sink channels of the 7B model. It keeps the first sample's sinks for all later samples.
        `mode=paper` is the paper; `mode=code` is the program for one sample.
    """

    name: ClassVar[str] = "var"
    label: ClassVar[str] = "VAR"
    lever: ClassVar[str] = "redistribution"
    paper: ClassVar[Paper | None] = Paper(
        "Kang et al.",
        "See What You Are Told: Visual Attention Sink in Large Multimodal Models",
        2025,
        "ICLR",
        "2503.03321",
    )
    trial: ClassVar[Mapping[str, Any]] = {
        "sink_dims": (0,),
        "threshold": 0.7,
        "max_sink_share": 1.0,
        "min_image_mass": 0.0,
    }
    reads_hidden: ClassVar[bool] = True

    moved: float = option(
        0.6, at_least=0.0, at_most=1.0, neutral=0.0, help="share of every sink's weight that is handed on"
    )
    max_sink_share: float = option(
        0.5,
        at_least=0.0,
        at_most=1.0,
        help="a head and row is selected where sinks hold at most this share of its image mass; the paper's rho is one "
        "minus this: 0.8 in general, 0.5 against hallucination, 0.9 for vision-centric tasks",
    )
    min_image_mass: float = option(
        0.2, at_least=0.0, at_most=1.0, help="a head and row is selected where its image keys hold at least this mass"
    )
    threshold: float | Literal["relative"] = option(
        20.0,
        at_least=0.0,
        help="how far a sink channel stands above the root mean square, or relative for the paper's 20 in proportion "
        "to the square root of the width",
    )
    sink_dims: SinkDims = option("auto", form=SINK_DIMS, help="channels as 1415+2533, or auto to ask the model")
    layers: Layers = layers_option(paper="all but the first two and the last")
    mode: Mode = option(
        "paper",
        help='"code" does what the authors\' public program does for one sample: sinks keep `moved`, comparisons are '
        "strict, 1e-6 is added per image key to the image mass, the last layer is not left out, and auto means the "
        "channels of the 7B model",
    )
    criterion: Criterion = option(
        "phi",
        help='what tells sinks: "phi" is the paper\'s, a token against itself; "median" is a token against the median '
        "token of its prompt, for models in which a channel is large at every token",
    )
    factor: float = option(
        MEDIAN_FACTOR,
        at_least=1.0,
        help="with criterion=median, how many times the median token's value a sink has in its channel",
    )
    sinks: Sinks = option(
        "image",
        help='where it acts: "image" is the paper\'s, in layers where the image has a sink; "any" is in layers where '
        "the image or the text has one",
    )
    position_sinks: PositionSinks = option(
        "none",
        form=SINK_POSITIONS,
        help="image positions that are sinks in every layer, as 0+48, counted from 0 in each image",
    )

    def paper_layers(self, anatomy: Anatomy) -> Sequence[int]:
        return range(2, anatomy.depth if self.mode == "code" else anatomy.depth - 1)

    def prepared(
        self, model: nn.Module, anatomy: Anatomy, profile: HeadProfile | None
    ) -> AbstractContextManager[Mapping[Any, Any]]:
        return nullcontext({"criterion": self._criterion(anatomy)})

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if call.prefill and self._share_moved > 0.0:
            with_sink = self._mark_sinks(call)
            if bool(with_sink.any()):  # waits for the device, at prefill only
                heads = with_sink[:, None].repeat(1, call.query.shape[1])
                call.memory[call.layer] = AttentionPlan(redistribution=self._rule(heads, None))
        known: AttentionPlan | None = call.memory.get(call.layer)
        if known is None or known.redistribution is None or call.decoding:
            return known
        heads_with_sinks = known.redistribution.heads
        return AttentionPlan(redistribution=self._rule(heads_with_sinks, text_after_image(call)))

    def _mark_sinks(self, call: AttentionCall) -> Tensor:
        """Tell this layer's sinks from its other keys; return bool `[B]`, the rows in which it acts."""
        assert call.hidden is not None, "reads_hidden asks for it"
        criterion: SinkCriterion = call.memory["criterion"]
        found = criterion.sinks(call.hidden, call.key_map.classes == KeyClass.PADDING)
        if self.position_sinks != "none":
            found = found | self._at_positions(call)
        call.mark_sinks(found)
        classes = call.key_class()
        sinks = classes == KeyClass.IMAGE_SINK
        if self.sinks == "any":
            sinks = (sinks | (classes == KeyClass.TEXT_SINK)) & call.key_map.has_image[:, None]
        return sinks.any(dim=1)

    def _at_positions(self, call: AttentionCall) -> Tensor:
        """Return bool `[B, T]`: the image keys named by position, found once per generation."""
        if "positions" not in call.memory:
            call.memory["positions"] = at_positions(call.key_map.classes, self.position_sinks)
        known: Tensor = call.memory["positions"]
        return known

    def _rule(self, heads: Tensor | None, rows: Tensor | None) -> Redistribution:
        program = self.mode == "code"
        return Redistribution(
            moved=self._share_moved,
            max_sink_share=self.max_sink_share,
            min_image_mass=self.min_image_mass,
            heads=heads,
            rows=rows,
            strict=program,
            share_epsilon=1e-6 if program else 0.0,
        )

    @property
    def _share_moved(self) -> float:
        return 1.0 - self.moved if self.mode == "code" else self.moved

    def _criterion(self, anatomy: Anatomy) -> SinkCriterion:
        """Return what tells sinks on this model; no channels where it has none and positions are named.

        Raises:
            NoSinks: if no channel is found and no position is named.
        """
        least = self.factor if self.criterion == "median" else self._threshold(anatomy.width)
        dims = KNOWN[0].channels if self.mode == "code" and self.sink_dims == "auto" else self.sink_dims
        try:
            found = resolve_sink_dims(dims, anatomy, criterion=self.criterion, factor=self.factor)
        except NoSinks:
            if self.position_sinks == "none":
                raise
            found = ()
        return SinkCriterion(found, self.criterion, least)

    def _threshold(self, width: int) -> float:
        """Return what `phi` has to reach in a hidden state of this width."""
        if self.threshold == "relative":
            return RELATIVE_THRESHOLD * math.sqrt(width)
        return float(self.threshold)
