"""CARVE: what a question looks at more than a description does is cut out of the picture and asked about again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from vlm_heads.asking.other_pictures import about_others
from vlm_heads.attached.first_passes import made, new_tokens
from vlm_heads.attached.tracking import Tracker
from vlm_heads.call import AttentionCall
from vlm_heads.errors import BadOption, UnsupportedGeneration, UnsupportedModel
from vlm_heads.families import Anatomy
from vlm_heads.generate_call import GenerateCall
from vlm_heads.models.prompts import model_inputs
from vlm_heads.models.shown import pictures_of
from vlm_heads.pipelines.base import Answered, Asked, Pipeline
from vlm_heads.receipt import PipelineReceipt
from vlm_heads.toolkit.first_pass import FirstPass
from vlm_heads.toolkit.layer_sets import Layers, layers_option, resolve_layers
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.picture_grid import grids_of, require_grid
from vlm_heads.toolkit.regions import strongest
from vlm_heads.toolkit.row_attention import image_keys, over_prompt, require_image_keys, row_weights

_FIRST, _LAST, _OF = 20, 25, 32
_EPSILON = 1e-8
_SUFFIX = "Answer the question using a single word or phrase."
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class ContrastiveCrop(Pipeline):
    """CARVE: the part of the picture that the question looks at, and a general instruction does not, is shown larger.

    Two first passes answer the question and the general instruction. At every token, the question's attention to the
    image is divided by the instruction's. Later tokens count more. The regions where the quotient is high are kept, the
    rest is made black, the box around them is cut out and enlarged, and the question is asked about that.

    Formula:
        A[t, l, j] = mean over heads of w[t, l, i, j]   weights after softmax in the row that predicts token t = 0, 1, …
        S[j]       = sum over tokens t and layers l of (t + 1) * A_question[t, l, j] / (A_general[t, l, j] + 1e-8)
        S over pixels by bilinear interpolation; kept are the pixels in its top `share`, of these the
        max(regions, share * number of regions) connected regions with the largest sum of S

    Paper and program:
        Algorithm 1 asks about the cut-out part alone; the program shows the whole picture and the part beside it, in
        one prompt. `mode=paper` and `mode=code`. The program adds "Answer the question using a single word or phrase."
        to the question and the instruction; here the question stays as the caller asked it, and `mode=code` adds the
        sentence to the instruction. The program lays the image's positions over the whole picture, even where the
        processor cut its edges off; so does this. Made for questions: it was not published for captions.

    Choices:
        The picture that was given to `VLM` is cut. Where the model's inputs were made elsewhere, it is the picture that
        the processor made, which is smaller: enlarging that shows nothing new.
    """

    name: ClassVar[str] = "carve"
    label: ClassVar[str] = "CARVE"
    needs: ClassVar[tuple[str, ...]] = ("the processor", "two first passes of 32 tokens")
    paper: ClassVar[Paper | None] = Paper(
        "Ge et al.", "Focusing by Contrastive Attention: Enhancing VLMs' Visual Reasoning", 2026, "ECCV", "2509.06461"
    )

    share: float = option(
        0.2, at_least=0.0, at_most=1.0, help="share of the pixels, and of their regions, that is kept"
    )
    regions: int = option(3, at_least=1, help="connected regions that are kept at least")
    tokens: int = option(32, at_least=1, help="tokens of each first pass at most")
    general: str = option("Write a general description of the image.", help="the instruction that is divided by")
    mode: Literal["paper", "code"] = option(
        "paper", help="paper shows the cut-out part alone, code the picture and the part beside it"
    )
    layers: Layers = layers_option(paper="20 to 25 of 32, in proportion")

    def check(self, anatomy: Anatomy) -> None:
        require_image_keys(anatomy)
        require_grid(anatomy)
        if anatomy.quirks.blind_from_decoder or anatomy.quirks.drops_processors:
            raise UnsupportedModel(
                f"{anatomy.model_type} generates past its own forward or in a way of its own, so {self.name} cannot "
                "ask it again"
            )

    def around(
        self, model: nn.Module, anatomy: Anatomy, processor: Any, tracker: Tracker, receipt: PipelineReceipt
    ) -> Asked:
        if getattr(processor, "tokenizer", None) is None:
            raise BadOption(
                f"{self.name} asks about parts of pictures: give the model's processor, as in attach(model, "
                f'"{self.name}", processor=processor)'
            )
        return _Means(self, model, anatomy, processor, tracker, receipt)

    def chosen_layers(self, anatomy: Anatomy) -> frozenset[int]:
        """Return the layers whose attention is read."""
        first, last = (round(edge / _OF * anatomy.depth) for edge in (_FIRST, _LAST))
        paper = range(min(first, anatomy.depth - 1), min(anatomy.depth, max(first, last) + 1))
        return resolve_layers(self.layers, anatomy.depth, paper) & anatomy.attentions.keys()


class Attention(FirstPass):
    """Records each row's attention to the image, token by token and layer by layer.

    Args:
        layers: that are read.
        tokens: of the pass.
    """

    def __init__(self, layers: frozenset[int], tokens: int) -> None:
        self.tokens = tokens
        self._layers = layers
        self._seen: dict[int, list[Tensor]] = {layer: [] for layer in sorted(layers)}
        self._image: Tensor | None = None

    def see(self, call: AttentionCall) -> None:
        if call.layer in self._layers:
            if call.prefill:
                self._image = image_keys(call)[:, : call.key_map.prompt_length]
            self._seen[call.layer].append(over_prompt(call, row_weights(call).mean(dim=1)))

    def found(self, lengths: Tensor) -> Mapping[Any, Any]:
        """Return as "maps", for each row, float64 `[tokens, L, n]` over its image positions."""
        assert self._image is not None, "the prompt is read before a token is said"
        every = torch.stack([torch.stack(steps) for steps in self._seen.values()], dim=1).double().cpu()
        image = self._image.cpu()
        return {"maps": [every[:length, :, row, image[row]] for row, length in enumerate(lengths.tolist())]}


class _Means:
    """Asks one model otherwise; see `ContrastiveCrop`."""

    def __init__(
        self,
        method: ContrastiveCrop,
        model: Any,
        anatomy: Anatomy,
        processor: Any,
        tracker: Tracker,
        receipt: PipelineReceipt,
    ) -> None:
        self._method, self._model, self._anatomy = method, model, anatomy
        self._processor, self._tracker, self._receipt = processor, tracker, receipt
        self._layers = method.chosen_layers(anatomy)

    def __call__(self, call: GenerateCall, generate: Callable[..., Any], answered: Answered) -> Any:
        """Run in place of `generate`."""
        if not self._has_pictures(call):
            return answered(call)
        pictures = pictures_of(call.inputs, self._processor, self._anatomy.model_type)
        grids = grids_of(self._anatomy, self._model.config, call.inputs)
        boxes, parts = [], []
        for picture, grid, found in zip(pictures, grids, self._quotients(call, generate, pictures), strict=True):
            box, part = cut_out(picture, found.view(grid), self._method.share, self._method.regions)
            boxes.append(box)
            parts.append([part] if self._method.mode == "paper" else [picture, part])
        self._receipt.calls += 1
        self._receipt.rows = [
            {"box": list(box), "picture": list(one.size)} for box, one in zip(boxes, pictures, strict=True)
        ]
        return self._asked(call, parts, answered)

    def _has_pictures(self, call: GenerateCall) -> bool:
        """Return whether there are pictures to cut; refuse what cannot be asked so."""
        name = self._method.name
        ids = call.inputs.get("input_ids")
        if ids is None or "inputs_embeds" in call.inputs:
            raise BadOption(f"{name} needs input_ids: give generate() the processor's whole output")
        cache = call.arguments.get("past_key_values")
        if cache is not None and int(cache.get_seq_length()):
            raise UnsupportedGeneration(f"{name} asks a whole prompt again: give the conversation without its cache")
        seen = torch.isin(ids, torch.tensor(self._anatomy.vision_token_ids, device=ids.device)).any(dim=1).tolist()
        if any(seen) and not all(seen):
            raise UnsupportedGeneration(f"{name} cuts each prompt's picture, and one of these has none: ask it alone")
        return any(seen)

    def _quotients(
        self, call: GenerateCall, generate: Callable[..., Any], pictures: Sequence[Image.Image]
    ) -> list[Tensor]:
        """Return for each row, over its image positions, how much more the question looks than the instruction."""
        general = f"{self._method.general} {_SUFFIX}" if self._method.mode == "code" else self._method.general
        instructed = model_inputs(self._model, self._processor, pictures, [general] * len(pictures))
        maps = []
        for inputs in (call.inputs, instructed):
            first = Attention(self._layers, self._method.tokens)
            self._receipt.first_passes += 1
            maps.append(made(first, call, inputs, generate, self._tracker)["maps"])
        return [quotient(asked, told) for asked, told in zip(*maps, strict=True)]

    def _asked(self, call: GenerateCall, parts: Sequence[Sequence[Image.Image]], answered: Answered) -> Any:
        """Return the answer about the parts, with the caller's own prompt in it."""
        inputs = about_others(self._model, self._processor, self._anatomy, call, parts)
        own: Tensor = call.inputs["input_ids"]
        rest = {name: value for name, value in call.arguments.items() if name not in {*call.inputs, "inputs"}}
        rest["max_new_tokens"] = call.limit(own.shape[1])
        rest.pop("max_length", None)
        output = answered(GenerateCall.of(self._model, (), rest | inputs))
        sequences = output if isinstance(output, Tensor) else output.sequences
        asked: Tensor = inputs["input_ids"]
        copies = sequences.shape[0] // own.shape[0]
        said = new_tokens(sequences, asked.repeat_interleave(copies, dim=0))
        whole = torch.cat([own.repeat_interleave(copies, dim=0), said], dim=1)
        if isinstance(output, Tensor):
            return whole
        output.sequences = whole
        return output


def quotient(asked: Tensor, told: Tensor) -> Tensor:
    """Return `[n]`: how much more a question looks at each image position than an instruction, later tokens more.

    Args:
        asked: `[tokens, L, n]`, the question's attention.
        told: `[tokens, L, n]`, the instruction's; tokens that only one of the two has do not count.
    """
    count = min(len(asked), len(told))
    more = asked[:count] / (told[:count] + _EPSILON)
    return (more * torch.arange(1, count + 1, dtype=more.dtype)[:, None, None]).sum(dim=(0, 1))


def cut_out(picture: Image.Image, values: Tensor, share: float, regions: int) -> tuple[Box, Image.Image]:
    """Return a box of the picture as left, top, right and bottom, and what is in it, enlarged, the rest black.

    Args:
        picture: RGB.
        values: float64 `[rows, columns]`, laid over the whole picture.
        share: see `ContrastiveCrop`.
        regions: see `ContrastiveCrop`.
    """
    width, height = picture.size
    rows, columns = values.shape
    small = Image.frombytes("F", (columns, rows), values.float().contiguous().numpy().tobytes())
    over = _numbers(small.resize((width, height), Image.Resampling.BILINEAR), torch.float32).double()
    kept = strongest(over[..., 0], share, regions)
    down, across = kept.any(dim=1).nonzero()[:, 0].tolist(), kept.any(dim=0).nonzero()[:, 0].tolist()
    box = (across[0], down[0], across[-1] + 1, down[-1] + 1)
    masked = _numbers(picture.convert("RGB"), torch.uint8) * kept[..., None]
    part = Image.frombytes("RGB", (width, height), masked.numpy().tobytes()).crop(box)
    scale = max(width / part.width, height / part.height)
    return box, part.resize((int(part.width * scale), int(part.height * scale)), Image.Resampling.LANCZOS)


def _numbers(picture: Image.Image, dtype: torch.dtype) -> Tensor:
    """Return `[H, W, channels]`, a picture's numbers."""
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=dtype).view(picture.height, picture.width, -1)
