"""From HTTP to a :class:`coe.core.types.Request`: reading within bounds, parsing, checking, the routing
text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError

from coe.core import json_codec as quick_json
from coe.core.errors import BadHttp, BadRequest, PayloadTooLarge
from coe.core.openai import named_elsewhere
from coe.core.suggest import nearest
from coe.core.types import DeadlineClass, Endpoint, Options, Request, RequestId
from coe.gateway.schemas import (
    ChatBody,
    CoeOptions,
    CompletionBody,
    ContentPart,
    Message,
    RouteBody,
    Sampling,
)
from coe.registry.schema import Limits

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Body = TypeVar("Body", bound=BaseModel)
Parsed = TypeVar("Parsed")
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Headers = Mapping[bytes, bytes]

BODY_TIMEOUT_S = 60.0
"""From the end of the headers to the end of the body."""
DEADLINE_HEADER = "x-coe-deadline-class"
LARGE_BODY_BYTES = 262_144
"""Parsing more than this may take long enough for others to notice."""
MAX_ENTRIES = 4_096
"""Of a request and of its lists and objects that are looked at one by one."""
_LOOKED_AT = ("tools", "logit_bias", "stop", "coe")
_BODIES: Mapping[Endpoint, type[Sampling]] = {"chat/completions": ChatBody, "completions": CompletionBody}


class ClientGone(Exception):
    """The client hung up."""


async def read_body(receive: Receive, headers: Headers, max_bytes: int) -> bytes:
    """The whole body. Refuses one over ``max_bytes`` as soon as that shows, and anything but JSON."""
    _check_content_type(headers)
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _whole_body(receive, max_bytes)
    except TimeoutError:
        raise BadHttp(
            408,
            f"the body did not come within {BODY_TIMEOUT_S:g} s",
            code="body_too_slow",
            hint="Send it again.",
        ) from None


async def _whole_body(receive: Receive, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def parse_json(raw: bytes) -> dict[str, Any]:
    """The body as an object. Raises BadRequest with line and column of the fault."""
    if not raw.strip():
        raise BadRequest("the body is empty", code="empty_body", hint="Send a JSON object.")
    try:
        body = quick_json.decode(raw)
    except json.JSONDecodeError as error:
        raise _malformed(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise _malformed(f"the body is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise _malformed("it is nested too deeply") from None
    except ValueError as error:
        raise _malformed(str(error)) from None
    if not isinstance(body, dict):
        raise BadRequest(
            f"the body must be a JSON object, not {json_kind(body)}", code="invalid_json", hint="Send {...}."
        )
    return body


async def parsed(raw: bytes, parse: Callable[[], Parsed]) -> Parsed:
    """What ``parse`` makes of ``raw``; of a large one while the event loop goes on."""
    return parse() if len(raw) <= LARGE_BODY_BYTES else await asyncio.to_thread(parse)


def parse_completion(
    endpoint: Endpoint, raw: bytes, headers: Headers, limits: Limits, request_id: RequestId
) -> Request:
    """A checked request. Raises BadRequest naming the field at fault."""
    body = parse_json(raw)
    _check_counts(body, limits)
    checked = validate(_BODIES[endpoint], body)
    options = _options(checked.coe, headers)
    if isinstance(checked, ChatBody):
        _check_messages(checked.messages, body["messages"], limits)
        text = routing_text(checked.messages)
    else:
        prompt = cast(CompletionBody, checked).prompt
        _check_prompts(prompt, limits)
        text = _prompt_text(prompt, limits)
    body.pop("coe", None)
    private = "no-store" in directives(headers.get(b"cache-control", b""))
    return Request(
        request_id, endpoint, checked.model, body, quick_json.printable(text), options, private, len(raw)
    )


def directives(cache_control: bytes) -> frozenset[str]:
    """The names in a ``Cache-Control`` header, in lower case (RFC 9111, section 5.2)."""
    listed = cache_control.decode("latin-1").lower().split(",")
    return frozenset(one.partition("=")[0].strip() for one in listed)


def parse_route(raw: bytes, limits: Limits, request_id: RequestId, routed_model: str) -> Request:
    """A dry run: a request that is routed and never asked."""
    body = parse_json(raw)
    _check_counts(body, limits)
    checked = validate(RouteBody, body)
    if (checked.input is None) == (checked.messages is None):
        raise BadRequest(
            "the body must have either input or messages",
            param="input",
            hint='For example {"input": "2+2?"}.',
        )
    if checked.messages is not None:
        _check_messages(checked.messages, body["messages"], limits)
        text = routing_text(checked.messages)
    else:
        text = _prompt_text(checked.input, limits)
    options = Options(router=checked.router)
    said = {"messages": body["messages"]} if checked.messages is not None else {}
    return Request(request_id, "chat/completions", routed_model, said, quick_json.printable(text), options)


def routing_text(messages: Sequence[Message]) -> str:
    """What is asked: the last user message that has text, else the last message that has."""
    texts = [(message.role, _text(message)) for message in messages]
    by_user = [text for role, text in texts if role == "user" and text]
    return next(reversed(by_user), None) or next((text for _, text in reversed(texts) if text), "")


def _text(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content.strip()
    return "\n".join(part.text for part in message.content or () if _is_text(part) and part.text).strip()


def _is_text(part: ContentPart) -> bool:
    return part.type in ("text", "input_text")


def _check_media(part: Mapping[str, Any], where: str, hosts: Collection[str]) -> None:
    if named_elsewhere(part, hosts):
        raise BadRequest(
            f"{where} refers to media by URL",
            code="remote_media",
            param=where,
            hint="Send the media itself as a data: URL. The operator of the service can allow a host: "
            "`limits: {media_hosts: [HOST]}` in experts.yaml.",
        )


def _check_counts(body: Mapping[str, Any], limits: Limits) -> None:
    """Before anything looks at each entry: what would take long to check is refused by its number."""
    for name, value in ((None, body), *((name, body.get(name)) for name in _LOOKED_AT)):
        if isinstance(value, list | dict) and len(value) > MAX_ENTRIES:
            what = f"{name or 'the body'} has {len(value)} entries"
            raise _too_many("too_many_entries", what, MAX_ENTRIES, name)
    messages = body.get("messages")
    if not isinstance(messages, list):
        return
    if len(messages) > limits.max_messages:
        what = f"the request has {len(messages)} messages"
        raise _too_many("too_many_messages", what, limits.max_messages, "messages", "max_messages")
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    parts = sum(len(content) for content in contents if isinstance(content, list))
    if parts > limits.max_parts:
        what = f"the messages have {parts} content parts"
        raise _too_many("too_many_parts", what, limits.max_parts, "messages", "max_parts")


def _too_many(code: str, what: str, bound: int, param: str | None, setting: str | None = None) -> BadRequest:
    hint = f"Send fewer, or raise limits.{setting} in experts.yaml." if setting else "Send fewer."
    return BadRequest(f"{what}, more than the {bound} allowed", code=code, param=param, hint=hint)


def _check_messages(messages: Sequence[Message], raw: Sequence[Any], limits: Limits) -> None:
    for index, message in enumerate(messages):
        for number, part in enumerate(message.content if isinstance(message.content, list) else ()):
            where = f"messages[{index}].content[{number}]"
            sent = raw[index]["content"][number]
            if isinstance(sent, dict):
                _check_media(sent, where, limits.media_hosts)
            if _is_text(part) and part.text is None:
                raise BadRequest(
                    f"{where}.text is missing",
                    param=f"{where}.text",
                    hint="A content part of type text needs the field text.",
                )
    _check_length(sum(len(_text(message)) for message in messages), "messages", limits)


def _check_length(chars: int, param: str, limits: Limits) -> None:
    if chars > limits.max_prompt_chars:
        raise BadRequest(
            f"the prompt has {chars} characters, more than the {limits.max_prompt_chars} allowed",
            code="prompt_too_long",
            param=param,
            hint="Shorten it, or raise limits.max_prompt_chars in experts.yaml.",
        )


def _check_prompts(prompt: Any, limits: Limits) -> None:
    count = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    if count > limits.max_prompts:
        what = f"the request has {count} prompts"
        raise _too_many("too_many_prompts", what, limits.max_prompts, "prompt", "max_prompts")


def _prompt_text(prompt: Any, limits: Limits) -> str:
    """Token ids belong to one expert's tokenizer; as text they are empty."""
    texts = [prompt] if isinstance(prompt, str) else [text for text in prompt if isinstance(text, str)]
    _check_length(sum(map(len, texts)), "prompt", limits)
    return "\n".join(texts).strip()


def _options(checked: CoeOptions | None, headers: Headers) -> Options:
    word = headers.get(DEADLINE_HEADER.encode())
    deadline_class: DeadlineClass = "standard" if word is None else _deadline_class(word.decode("latin-1"))
    if checked is None:
        return Options(deadline_class=deadline_class)
    return checked.options(deadline_class)


def _deadline_class(word: str) -> DeadlineClass:
    choices = get_args(DeadlineClass)
    if word not in choices:
        raise BadRequest(
            f'{DEADLINE_HEADER} must be one of {", ".join(choices)}, not "{word[:60]}"',
            param=DEADLINE_HEADER,
            hint=f"Send {nearest(word, choices) or 'standard'}, or leave the header out.",
        )
    return cast(DeadlineClass, word)


def _check_content_type(headers: Headers) -> None:
    given = headers.get(b"content-type", b"").decode("latin-1")
    if given.partition(";")[0].strip().lower() != "application/json":
        raise BadHttp(
            415,
            f"the content type is {given[:80] or 'missing'}; it must be application/json",
            code="unsupported_content_type",
            hint="Send the header Content-Type: application/json.",
        )
    coding = headers.get(b"content-encoding", b"identity").decode("latin-1")
    if coding.strip().lower() != "identity":
        raise BadHttp(
            415,
            f"the content encoding {coding[:40]} is not supported",
            code="unsupported_content_encoding",
            hint="Send the body uncompressed.",
        )


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the body is larger than {max_bytes} bytes",
        hint="Send less, or raise limits.max_body_bytes in experts.yaml.",
    )


def _malformed(what: str) -> BadRequest:
    return BadRequest(f"the body is not JSON: {what}", code="invalid_json", hint="Correct the JSON.")


# A wrong field in a body, in words: its path, what it must be, and what it is.

_KINDS: Mapping[str, str] = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "finite_number": "a finite number",
}
_BOUNDS: Mapping[str, str] = {
    "greater_than": "greater than",
    "greater_than_equal": "at least",
    "less_than": "less than",
    "less_than_equal": "at most",
}


def validate(model: type[Body], body: Mapping[str, Any]) -> Body:
    """``body`` as ``model``. Raises BadRequest for the first field at fault, named in ``param``."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _fault(error.errors(include_url=False)[0], model) from None


def json_kind(value: Any) -> str:
    """``value`` as a person would name it: short things as they are, others by their kind."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 40 else f'"{value[:37]}..."'
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return str(value) if len(str(value)) <= 40 else "a long number"


def _fault(error: ErrorDetails, model: type[BaseModel]) -> BadRequest:
    kind, given, context = error["type"], json_kind(error["input"]), error.get("ctx", {})
    where = _path(error["loc"])
    if kind == "missing":
        return _refused(f"{where} is missing", where, code="missing_field", hint="It is required.")
    if kind == "extra_forbidden":
        return _unknown_key(where, str(error["loc"][-1]), CoeOptions if error["loc"][0] == "coe" else model)
    if kind in _KINDS:
        return _refused(f"{where} must be {_KINDS[kind]}, not {given}", where)
    if kind in _BOUNDS:
        bound = next(iter(context.values()))
        return _refused(f"{where} must be {_BOUNDS[kind]} {bound:g}, not {given}", where)
    if kind == "literal_error":
        return _refused(f"{where} must be {context['expected']}, not {given}", where)
    if kind in ("too_short", "string_too_short"):
        return _refused(f"{where} must not be empty", where)
    if kind == "string_too_long":
        return _refused(
            f"{where} must be at most {context['max_length']} characters long, not {given}", where
        )
    message = error["msg"].removeprefix("Value error, ")
    return _refused(f"{where} {message}, not {given}", where)


def _path(loc: tuple[str | int, ...]) -> str:
    """``messages[0].role``; without the tags of unions, which start with ``~``."""
    steps = (step if isinstance(step, int) else step[:100] for step in loc if not str(step).startswith("~"))
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")


def _unknown_key(where: str, key: str, model: type[BaseModel]) -> BadRequest:
    names = list(model.model_fields)
    close = nearest(key, names)
    meant = f'; did you mean "{close}"?' if close else ""
    return _refused(
        f"{where} is not a known field{meant}",
        where,
        code="unknown_field",
        hint=f"The fields here are {', '.join(names)}.",
    )


def _refused(message: str, param: str, code: str = "invalid_value", hint: str | None = None) -> BadRequest:
    return BadRequest(message, code=code, param=param, hint=hint or f"Correct {param} and send it again.")
