"""A method of one's own: every head's output counts for more, in proportion to how much of it comes from the image.

    python examples/new_intervention.py

As a package, name the class in the entry-point group `vlm_heads.methods`; then `--with louder:gain=5` finds it too.
"""

from dataclasses import dataclass
from typing import ClassVar

import vlm_heads
from vlm_heads.methods import AttentionCall, AttentionPlan, Intervention, Layers, image_keys, layers_option, option
from vlm_heads.methods import row_weights as weights_of_last_row
from vlm_heads.models import planted_image


@dataclass(frozen=True)
class LouderImage(Intervention):
    """Multiply a head's output by `gain ** m`, with m its attention mass on image keys where the prompt ends."""

    name: ClassVar[str] = "louder"

    gain: float = option(4.0, at_least=0.0, neutral=1.0, help="factor on a head that looks at the image alone")
    layers: Layers = layers_option("last-half")

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if call.prefill:
            mass = (weights_of_last_row(call) * image_keys(call)[:, None]).sum(dim=-1)  # [B, Hq]
            call.note_all_heads()
            call.memory[call.layer] = AttentionPlan(head_gain=self.gain**mass)
        return call.memory.get(call.layer)


if __name__ == "__main__":
    vlm = vlm_heads.VLM.from_pretrained("planted")
    print("plain:    ", vlm.answer(planted_image("car"), "what do you see?").text)
    print("mitigated:", vlm.answer(planted_image("car"), "what do you see?", LouderImage()).text)
