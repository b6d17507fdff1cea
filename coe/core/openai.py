"""OpenAI completion bodies: what stands in them, their sum of usage, and one replayed as a stream."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from coe.core import json_codec
from coe.core.addresses import is_metadata, meant_host
from coe.core.errors import BadRequest
from coe.core.types import Endpoint, is_data_url

Body = Mapping[str, Any]
DONE = b"data: [DONE]\n\n"

MOST_VALUES = 10_000
"""In a content part that is looked through for URLs."""
MAX_TOKENS = 10**9
"""A usage with more is a mistake of who sent it."""

_WORDS = re.compile(r"\s*\S+|\s+$")
_UNPRINTED = re.compile(r"[\x00-\x20]+")
_WORDED = re.compile(
    "text|refusal|thinking|reasoning(_content)?|summary|content|title|name|description|context|quote|type|id"
    "|tool_(call|use)_id|signature"
)
"""Fields whose texts are words, which nobody fetches."""
_QUOTED = frozenset(["annotations", "citations", "arguments"])
"""Fields in which a model or a tool says where something is."""


def first_choice(body: Body) -> Mapping[str, Any]:
    """The first choice of a completion; empty when there is none."""
    choices = body.get("choices")
    found = choices[0] if isinstance(choices, list) and choices else None
    return found if isinstance(found, Mapping) else {}


def message_of(body: Body) -> Mapping[str, Any]:
    """The first choice's message; for plain completions one that holds the text."""
    choice = first_choice(body)
    message = choice.get("message")
    if isinstance(message, Mapping):
        return message
    return {"role": "assistant", "content": choice.get("text")}


def text_of(body: Body) -> str:
    """The text of the first choice; empty when it has none (a tool call)."""
    return joined_text(message_of(body).get("content"))


def joined_text(content: Any) -> str:
    """Content as text: a string, or the text parts of a list (thinking and the like are no part of it)."""
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, Mapping))
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def tool_calls_of(body: Body) -> tuple[Mapping[str, Any], ...]:
    """The first choice's tool calls."""
    calls = message_of(body).get("tool_calls")
    return tuple(call for call in calls if isinstance(call, Mapping)) if isinstance(calls, list) else ()


def characters_of(body: Body) -> int:
    """Of the texts and tool calls of all choices."""
    found = 0
    for choice in body.get("choices") or ():
        alone = {"choices": [choice]}
        calls = tool_calls_of(alone)
        found += len(text_of(alone)) + (len(json.dumps(calls)) if calls else 0)
    return found


def usage_of(body: Body) -> dict[str, int]:
    """Token counts of the body's usage as far as they can be true: whole numbers, not negative, and no more
    than any model reads or writes. Empty when it has none. Those of its ``*_details`` have a dot in their
    name: ``prompt_tokens_details.cached_tokens``."""
    usage = body.get("usage")
    found: dict[str, int] = {}
    for name, value in usage.items() if isinstance(usage, Mapping) else ():
        inner = value.items() if name.endswith("_details") and isinstance(value, Mapping) else ()
        for label, count in ((name, value), *((f"{name}.{key}", count) for key, count in inner)):
            if type(count) is int and 0 <= count <= MAX_TOKENS:
                found[label] = count
    return found


def usage_json(usage: Mapping[str, int]) -> dict[str, Any]:
    """Token counts of :func:`usage_of` as answers have them."""
    shown: dict[str, Any] = {}
    for label, count in usage.items():
        name, _, key = label.partition(".")
        if key:
            shown.setdefault(name, {})[key] = count
        else:
            shown[name] = count
    return shown


def stand_in(body: Body, named: str) -> str | None:
    """Who answered in place of the expert ``named`` by the request, as the receipt of this service says; None
    where it answered itself, or where another server did. What an expert is worth is measured by its own
    answers alone."""
    receipt = body.get("coe")
    if not isinstance(receipt, Mapping) or receipt.get("router") != "pinned":
        return None
    return None if receipt.get("expert") in (None, named) else str(receipt["expert"])


def summed(usages: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Token counts added up, key by key."""
    total: dict[str, int] = {}
    for usage in usages:
        for key, count in usage.items():
            total[key] = total.get(key, 0) + count
    return total


def to_json(payload: Body) -> bytes:
    return json_codec.encode(payload)


def event(payload: Body) -> bytes:
    """One server-sent event."""
    return b"data: " + to_json(payload) + b"\n\n"


def comment(text: str) -> bytes:
    """A comment of an event stream; clients skip it."""
    return b": " + " ".join(text.split()).encode() + b"\n\n"


def parse_event(raw: bytes) -> dict[str, Any] | None:
    """The JSON object of one ``data:`` line; None for anything else, ``[DONE]`` too."""
    if not raw.startswith(b"data:"):
        return None
    try:
        payload = json.loads(raw[5:])
    except ValueError:
        return None
    return payload if isinstance(payload, dict) else None


def replay(body: Body, endpoint: Endpoint) -> Iterator[bytes]:
    """A whole answer as stream events, without usage and ``[DONE]``: a piece for each token whose
    log-probability is known, else for each word; tool calls in one piece each."""
    choice = first_choice(body)
    head = _head(body, endpoint)
    if endpoint == "completions":
        pieces: Iterator[dict[str, Any]] = _text_pieces(choice)
    else:
        pieces = _chat_pieces(choice)
    for piece in pieces:
        yield event({**head, "choices": [{"index": 0, "logprobs": None, "finish_reason": None, **piece}]})
    last: dict[str, Any] = {"text": ""} if endpoint == "completions" else {"delta": {}}
    finish = {"index": 0, **last, "logprobs": None, "finish_reason": choice.get("finish_reason")}
    yield event({**head, "choices": [finish]})


def assembled(chunks: Iterable[Body]) -> dict[str, Any]:
    """The whole answer that stream chunks tell piece by piece, of the first choice."""
    body: dict[str, Any] = {}
    texts: dict[str, list[str]] = {}
    calls: dict[int, dict[str, Any]] = {}
    finish = None
    for chunk in chunks:
        body.update({key: chunk[key] for key in ("id", "created", "model", "usage") if chunk.get(key)})
        choice = first_choice(chunk)
        finish = choice.get("finish_reason") or finish
        delta = choice.get("delta", choice)
        for key in ("text", "content", "reasoning_content", "refusal"):
            if (piece := joined_text(delta.get(key))) or isinstance(delta.get(key), str):
                texts.setdefault(key, []).append(piece)
        for call in delta.get("tool_calls") or ():
            _add_call(calls.setdefault(call.get("index", 0), {}), call)
    said = {key: "".join(pieces) for key, pieces in texts.items()}
    if "text" in said:
        choice = {"index": 0, "text": said["text"], "finish_reason": finish}
        return {"object": "text_completion", **body, "choices": [choice]}
    message: dict[str, Any] = {"role": "assistant", "content": None, **said}
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"object": "chat.completion", **body, "choices": [choice]}


def _add_call(call: dict[str, Any], piece: Mapping[str, Any]) -> None:
    function = dict(piece.get("function") or {})
    known = call.setdefault("function", {})
    known["arguments"] = known.get("arguments", "") + (function.pop("arguments", None) or "")
    known.update(function)
    call.update({key: value for key, value in piece.items() if key not in ("function", "index")})


def usage_event(body_or_chunk: Body, endpoint: Endpoint, usage: Mapping[str, int]) -> bytes:
    """The chunk without choices that carries the usage of a stream."""
    return event({**_head(body_or_chunk, endpoint), "choices": [], "usage": usage_json(usage)})


def _head(body: Body, endpoint: Endpoint) -> dict[str, Any]:
    kind = "chat.completion.chunk" if endpoint == "chat/completions" else "text_completion"
    kept = {key: body[key] for key in ("id", "created", "model", "system_fingerprint") if key in body}
    return {**kept, "object": kind}


def _chat_pieces(choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    message = choice.get("message") or {}
    yield {"delta": {"role": message.get("role", "assistant"), "content": ""}}
    if thoughts := _thoughts(message.get("content")):
        yield {"delta": {"reasoning_content": thoughts}}
    for key in ("reasoning_content", "reasoning", "refusal"):
        if isinstance(message.get(key), str) and message[key]:
            yield {"delta": {key: message[key]}}
    tokens = (choice.get("logprobs") or {}).get("content")
    content = joined_text(message.get("content"))
    if tokens and "".join(token["token"] for token in tokens) == content:
        for token in tokens:
            yield {"delta": {"content": token["token"]}, "logprobs": {"content": [token], "refusal": None}}
    else:
        for number, word in enumerate(_WORDS.findall(content)):
            # Tokens that do not spell the text (bytes, specials) go with the first piece, none is lost.
            known = {"logprobs": {"content": tokens, "refusal": None}} if tokens and not number else {}
            yield {"delta": {"content": word}, **known}
    for index, call in enumerate(message.get("tool_calls") or ()):
        yield {"delta": {"tool_calls": [{"index": index, **call}]}}


def _thoughts(content: Any) -> str:
    """What content in parts says of type ``thinking`` (Mistral's form)."""
    parts = content if isinstance(content, list) else ()
    thinking = (part.get("thinking") for part in parts if isinstance(part, Mapping))
    return "".join(joined_text(each) for each in thinking if each)


def _text_pieces(choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    text, logprobs = choice.get("text") or "", choice.get("logprobs")
    if logprobs:
        yield {"text": text, "logprobs": logprobs}
        return
    for word in _WORDS.findall(text):
        yield {"text": word}


def named_elsewhere(part: Mapping[str, Any], hosts: Collection[str] = ()) -> bool:
    """Whether a message or a content part, but for its words, has something to be fetched elsewhere than from
    ``hosts``. Raises BadRequest where finding out would take long."""
    return any(not _may_be_fetched(url, hosts) for url in _urls(part))


def _urls(part: Mapping[str, Any]) -> Iterator[str]:
    """What is, or may be taken for, a URL or a file, at any depth of what is not words."""
    waiting: list[tuple[str, Any]] = [("", part)]
    seen = 0
    while waiting:
        named, value = waiting.pop()
        seen += 1
        if seen > MOST_VALUES:
            what = f"a message or content part has more than {MOST_VALUES} values"
            raise BadRequest(what, code="too_many_entries", param="messages", hint="Send fewer.")
        if isinstance(value, str):
            start = _UNPRINTED.sub("", value[:2_000]).lower()
            is_one = named.endswith(("url", "uri")) or "://" in start[:64] or start.startswith("file:")
            if is_one and not _WORDED.fullmatch(named):
                yield value.strip()
        elif isinstance(value, Mapping):
            quoted = {"input", *_QUOTED} if value.get("type") == "tool_use" else _QUOTED
            inner = ((str(name).lower(), each) for name, each in value.items())
            waiting += [(name, each) for name, each in inner if name not in quoted]
        elif isinstance(value, list):
            waiting += [(named, each) for each in value]


def _may_be_fetched(url: str, hosts: Collection[str]) -> bool:
    if is_data_url(url):
        return True
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    # Where http://one.example\@another.example/ leads depends on who reads it: urllib3 goes to the first.
    if "\\" in url or "@" in parts.netloc or any(sign <= " " for sign in url):
        return False
    if parts.scheme not in ("http", "https") or host is None:
        return False
    return meant_host(host) in map(meant_host, hosts) or ("*" in hosts and not is_metadata(host))
