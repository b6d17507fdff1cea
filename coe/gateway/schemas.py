"""Bodies of requests and answers as pydantic models. Those of requests name the fields that we check.

Fields that are not here pass through to the expert unchanged, except inside ``coe``, which is ours: there an
unknown key is refused.
"""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
)
from pydantic_core import PydanticKnownError

from coe.aggregators.top_p import PATTERN, written
from coe.core.types import DeadlineClass, Occasion, Options, Role, WakeFrom, Why

MAX_CHOICES = 16
MAX_NAME = 200
"""Characters of a model's name."""


def _no_flag(kind: Literal["int_type", "float_type"]) -> BeforeValidator:
    def check(value: Any) -> Any:
        if isinstance(value, bool):
            raise PydanticKnownError(kind)
        return value

    return BeforeValidator(check)


def _flag(value: Any) -> Any:
    """What a chat server of today reads as true or false."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower(), value)
    return bool(value) if value in (0, 1) else value


# As vLLM reads them: JSON has no whole numbers, so 5.0 is one, and a number may stand in quotes.
# Bounds stand before what comes first at run time, or the JSON schema does not have them.
_WHOLE, _NUMBER = _no_flag("int_type"), _no_flag("float_type")
Whole = Annotated[int, Field(strict=False), _WHOLE]
Number = Annotated[float, Field(strict=False, allow_inf_nan=False), _NUMBER]
Flag = Annotated[bool, BeforeValidator(_flag)]
Positive = Annotated[int, Field(strict=False, ge=1), _WHOLE]
Penalty = Annotated[float, Field(strict=False, allow_inf_nan=False, ge=-2, le=2), _NUMBER]


class Passing(BaseModel):
    """Checks the fields that it knows. Others pass: what is sent on is the client's own body."""

    model_config = ConfigDict(
        extra="ignore",
        strict=True,
        frozen=True,
        protected_namespaces=(),
        json_schema_extra={"additionalProperties": True},
    )


def _by_top_p(value: str) -> str:
    if written(value) is None:
        raise ValueError('must be a whole number, or top-p:P with P above 0 and at most 1, as "top-p:0.6"')
    return value


# Tags start with "~" so that error messages can leave them out of a field's path.
Count = Annotated[
    Annotated[Positive, Tag("~count")]
    | Annotated[
        str, AfterValidator(_by_top_p), WithJsonSchema({"type": "string", "pattern": PATTERN}), Tag("~top-p")
    ],
    Discriminator(lambda value: "~top-p" if isinstance(value, str) else "~count"),
]


class CoeOptions(BaseModel):
    """The ``coe`` extension. Fields left out are as experts.yaml says."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    router: str | None = Field(None, max_length=MAX_NAME, description="Name of a router in experts.yaml.")
    experts: Count | None = Field(
        None, description="How many experts to ask: a number, or top-p:P of their chances of being right."
    )
    aggregate: str | None = Field(None, max_length=MAX_NAME, description="Name of an aggregator.")
    quality: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="Weight of quality.")
    cost: Annotated[float, Field(ge=0)] | None = Field(None, description="Weight of cost.")
    patience_s: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Longest wait for an expert, in seconds; then the request is refused."
    )
    deadline_class: DeadlineClass | None = Field(None, description="How urgent the request is.")

    def options(self, deadline_class: DeadlineClass) -> Options:
        """``deadline_class`` counts where the body has none."""
        values = self.model_dump()
        values["deadline_class"] = self.deadline_class or deadline_class
        if isinstance(self.experts, str):
            values["experts"] = written(self.experts)
        return Options(**values)


class ContentPart(Passing):
    """A part of a message. Only ``text`` parts are used for routing; all are passed to the expert."""

    type: str | None = None
    text: str | None = None


def _part(value: Any) -> Any:
    """A text among the parts is a part of its own, as vLLM reads it."""
    return {"type": "text", "text": value} if isinstance(value, str) else value


def _content_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "~text"
    return "~parts" if isinstance(value, list) else None


Content = Annotated[
    Annotated[str, Tag("~text")]
    | Annotated[list[Annotated[ContentPart, BeforeValidator(_part)]], Tag("~parts")],
    Discriminator(
        _content_kind,
        custom_error_type="content_type",
        custom_error_message="must be text or a list of content parts",
    ),
]


def _kinds(values: Any) -> set[type]:
    return set(map(type, values)) if isinstance(values, list) else set()


def _stop(value: Any) -> Any:
    if value is None or isinstance(value, str) or (isinstance(value, list) and _kinds(value) <= {str}):
        return value
    raise ValueError("must be text or a list of texts")


def _prompt(value: Any) -> Any:
    kinds = _kinds(value)
    tokens = [*chain.from_iterable(value)] if kinds == {list} and all(value) else value
    if isinstance(value, str) or kinds == {str} or _are_tokens(tokens):
        return value
    raise ValueError("must be text, a list of texts, or token ids, and not empty")


def _are_tokens(values: Any) -> bool:
    kinds = _kinds(values)
    return kinds == {int} or (kinds in ({float}, {int, float}) and all(v % 1 == 0 for v in values))


def _tool_choice(value: Any) -> Any:
    if value is None or isinstance(value, (str, dict)):
        return value
    raise ValueError('must be "none", "auto", "required" or an object that names a tool')


def _schema(*kinds: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": list(kinds)})


_TEXT, _TEXTS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
_TOKENS = {"type": "array", "items": {"type": "integer"}}
_NULL = {"type": "null"}

Stop = Annotated[Any, AfterValidator(_stop), _schema(_TEXT, _TEXTS, _NULL)]
Prompt = Annotated[
    Any, AfterValidator(_prompt), _schema(_TEXT, _TEXTS, _TOKENS, {"type": "array", "items": _TOKENS})
]
ToolChoice = Annotated[Any, AfterValidator(_tool_choice), _schema(_TEXT, {"type": "object"}, _NULL)]


class Message(Passing):
    role: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        description="system, developer, user, assistant, tool, function, or what the expert's chat template"
        " has besides."
    )
    content: Content | None = None


class StreamOptions(Passing):
    include_usage: Flag | None = None


class Sampling(Passing):
    """The fields that both completion endpoints share."""

    model: str = Field(
        max_length=MAX_NAME, description='"coe" has an expert chosen; an expert\'s id names it.'
    )
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(strict=False, allow_inf_nan=False, ge=0, le=2), _NUMBER] | None = None
    top_p: Annotated[float, Field(strict=False, allow_inf_nan=False, gt=0, le=1), _NUMBER] | None = None
    n: Annotated[int, Field(strict=False, ge=1, le=MAX_CHOICES), _WHOLE] | None = None
    max_tokens: Positive | None = None
    stop: Stop = None
    seed: Whole | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Number] | None = None
    user: str | None = None
    coe: CoeOptions | None = None


class ChatBody(Sampling):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Positive | None = None
    logprobs: Flag | None = None
    top_logprobs: Annotated[int, Field(strict=False, ge=0, le=20), _WHOLE] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: Flag | None = None
    response_format: dict[str, Any] | None = None


class CompletionBody(Sampling):
    """Body of POST /v1/completions."""

    prompt: Prompt = Field(description="Token ids need a named expert: they cannot be routed.")
    suffix: str | None = None
    echo: Flag | None = None
    best_of: Annotated[int, Field(strict=False, ge=1, le=MAX_CHOICES), _WHOLE] | None = None
    logprobs: Annotated[int, Field(strict=False, ge=0, le=20), _WHOLE] | None = None


class FeedbackBody(BaseModel):
    """Body of POST /v1/feedback."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="The completion's id, or the request's (x-coe-request-id)."
    )
    score: Annotated[float, Field(ge=0, le=1)] = Field(description="0 useless, 1 right; thumbs are 0 and 1.")


class RouteBody(BaseModel):
    """Body of POST /v1/route: one of ``input`` and ``messages``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    input: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    router: str | None = Field(None, max_length=MAX_NAME, description="Name of a router in experts.yaml.")


class ErrorDetail(BaseModel):
    message: str
    type: str
    code: str
    param: str | None
    hint: str | None
    source: Literal["router", "expert"]


class ErrorBody(BaseModel):
    """Every error. ``source`` says who failed; ``hint`` what to do."""

    error: ErrorDetail


class FeedbackTaken(BaseModel):
    """A rating was counted for ``expert``."""

    object: Literal["coe.feedback"]
    id: str
    expert: str


class LegBody(BaseModel):
    expert: str
    role: Role
    queue_ms: float
    swap_ms: float
    wake_from: WakeFrom
    run_ms: float | None
    tokens: int | None
    outcome: str = Field(description="ok, failed: <code>, late, not needed or cancelled.")


class LegUsage(BaseModel):
    """Tokens of one leg; the answer's usage is the sum of all of them."""

    expert: str
    role: Role
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None


class ReceiptBody(BaseModel):
    """How the answer came about."""

    request_id: str
    generation: int
    router: str
    expert: str | None = Field(description="Who answered; null while several are asked.")
    aggregator: str | None = Field(description="What combined several answers; null for one expert.")
    confidence: float | None
    runner_up: str | None
    margin: float | None
    reason: str
    why: Why | Occasion = Field(
        description="The kind of reason: why the expert was chosen, or stepped in for the chosen one"
        " (awake, failure), or that several were asked (panel)."
    )
    legs: list[LegBody]
    usage_by_leg: list[LegUsage] | None = Field(None, description="Where several experts were asked.")
    queue_ms: float
    swap_ms: float


class Completion(BaseModel):
    """OpenAI's completion object as the expert made it, with ``model`` naming the expert, and the receipt."""

    id: str
    object: str
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, Any] | None = None
    coe: ReceiptBody


class ModelBody(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    description: str
    skills: list[str] | None = Field(None, description="Of experts.")
    state: str | None = Field(None, description="Of experts: awake, sleeping, cold, or on the way.")
    shadow: bool | None = Field(None, description="Of experts: true where no router chooses it.")


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelBody]


class Alive(BaseModel):
    status: Literal["ok"]


class Ready(BaseModel):
    status: Literal["ready", "not_ready"]
    reasons: list[str]


class ExpertHealth(BaseModel):
    state: str | None
    can_answer: bool = Field(description="Whether a request for it would be tried now.")


class ExpertsHealth(BaseModel):
    status: Literal["ok", "degraded", "failed"] = Field(
        description="degraded: some cannot; failed: none can, or the scheduler is stuck."
    )
    experts: dict[str, ExpertHealth]
    stuck: dict[str, str] | None = Field(
        default=None, description="Experts whose requests wait in vain, and why; there only if any do."
    )


class Document(BaseModel):
    """The OpenAPI document itself."""

    model_config = ConfigDict(extra="allow")

    openapi: str
    paths: dict[str, Any]
