"""What travels between a client and the server: OpenAI's chat completions, with a mitigation and its receipt beside."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_STOPS, MOST_TURNS, MOST_ALTERNATIVES, MOST_BIASES = 16, 256, 20, 300
LARGEST_SEED = 2**63 - 1


class Part(BaseModel):
    """What every part of a request is held to: an unknown field is refused, for it would be ignored silently."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TextPart(Part):
    """A piece of what somebody says."""

    type: Literal["text"]
    text: str


class Address(Part):
    """Where a picture is: a data URL, or a remote one where the server allows that."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"  # a model here sees a picture in one way


class PicturePart(Part):
    """A picture among what somebody says."""

    type: Literal["image_url"]
    image_url: Address


Content = list[Annotated[TextPart | PicturePart, Field(discriminator="type")]]


class Message(Part):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Content
    name: str | None = None


class StreamOptions(Part):
    """What a stream holds beside the pieces."""

    include_usage: bool = False
    include_obfuscation: bool = False  # OpenAI's own servers fill pieces up


class ChatRequest(Part):
    """A request for one answer.

    Fields that would change the answer and are not known here are refused by their names. Those of OpenAI that change
    nothing at the value given are taken.
    """

    model: str
    messages: list[Message] = Field(min_length=1, max_length=MOST_TURNS)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-LARGEST_SEED, le=LARGEST_SEED)
    stop: str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=MOST_ALTERNATIVES)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(None, max_length=MOST_BIASES)
    mitigation: str | None = Field(None, max_length=100_000)

    n: Literal[1] | None = 1
    frequency_penalty: Literal[0] | None = 0
    presence_penalty: Literal[0] | None = 0
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None


class Usage(BaseModel):
    """Tokens of a request; those that stand for the picture are the prompt's."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Alternative(BaseModel):
    """A token with its log-probability."""

    token: str
    logprob: float
    bytes: list[int]


class SaidToken(Alternative):
    """A token of the answer, and the most probable ones in its place."""

    top_logprobs: list[Alternative]


class Logprobs(BaseModel):
    """Log-probabilities of the answer's tokens."""

    content: list[SaidToken]


class SaidMessage(BaseModel):
    """The model's turn."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """The answer."""

    index: Literal[0] = 0
    message: SaidMessage
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"]


class Delta(BaseModel):
    """What a piece adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class PieceChoice(BaseModel):
    """The answer's next piece."""

    index: Literal[0] = 0
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class Completion(BaseModel):
    """What an answer and its pieces have in common.

    Attributes:
        mitigation: words for what was done to the model; empty for nothing.
        receipt: what it did, shared by all that were answered in one batch; None where nothing was done, and in pieces
            before the last.
    """

    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage | None = None
    mitigation: str
    receipt: dict[str, Any] | None = None


class ChatCompletion(Completion):
    """An answer."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[Choice]


class ChatCompletionChunk(Completion):
    """A piece of an answer."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[PieceChoice]


class Served(BaseModel):
    """A model that is served.

    Attributes:
        weights: a hash that tells one set of weights from another under the same name.
        mitigation: words for what is done to it where a request says nothing.
        end_tokens: ids that end an answer, for a `logit_bias` on its length.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "vlm-heads"
    weights: str
    mitigation: str
    end_tokens: list[int]


class ServedList(BaseModel):
    """All models that are served."""

    object: Literal["list"] = "list"
    data: list[Served]


class Problem(BaseModel):
    """Why there is no answer."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Refused(BaseModel):
    """What a client gets in place of an answer."""

    error: Problem
