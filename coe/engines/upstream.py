"""What upstreams say, read in one place: their answers, streamed or whole, and their errors.

An engine gives an answer as bytes; :class:`AnswerReader` makes whole events or a whole body of them. Who asks
an expert reads through it and parses nothing itself.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from coe.core import json_codec
from coe.core.errors import CoeError, EngineError, ExpertRefused
from coe.core.openai import assembled, characters_of, first_choice, replay, to_json, usage_event, usage_of
from coe.core.types import Endpoint

OURS_TO_FIX = frozenset({401, 402, 403, 404, 405, 408})
"""Upstream's 4xx that a client of ours cannot mend: our key, our model name, our URL."""
NOT_NOW = frozenset({409, 413, 425, 429})
"""Upstream's 4xx by which this server does not take the request now, or not of this size; another may."""
NOT_ME = re.compile(
    r"context.{0,20}(length|window)|maximum.{0,30}tokens|too (long|large|many tokens)|tool.?(choice|call|use)"
    r"|function.?call|content.{0,10}(filter|policy)|moderation|multi-?modal|modalit|image|audio|vision|video"
    r"|response_format|json_?schema|structured output|guided|quota|credit|billing|rate.?limit|chat template",
    re.IGNORECASE,
)
"""What a 400 or 422 says that is about this model, its limits or its provider and not about the request."""
LONGEST_RETRY_S = 86_400.0
MAX_BODY_BYTES = 32 * 2**20
MAX_EVENT_BYTES = 8 * 2**20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
CHARS_PER_TOKEN = 4.0
FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')


@dataclass(frozen=True)
class Upstream:
    """Where a server is: ``url`` without a trailing slash (its OpenAI API below ``/v1`` for vLLM).

    ``socket`` is the Unix socket to reach it by, ``keepalive_s`` must be below the server's own, so
    that we never send on a connection that it is closing.
    """

    name: str
    url: str
    socket: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    keepalive_s: float = 4.0
    read_timeout_s: float | None = None
    hint: str | None = None
    guarded: bool = False
    """refuse to connect to link-local and metadata addresses"""
    ours: bool = True
    """a process of this service: what it did not answer may be asked again, as nobody is paid for it"""

    def without_key(self, raw: bytes) -> bytes:
        """Some servers quote the key that they were sent; neither our clients nor our log shall see it."""
        return raw.replace(self.api_key.encode(), b"[key]") if self.api_key else raw


class AnswerReader:
    """Reads one answer of the expert ``name``, fed as it comes, however its bytes are cut. What is decided,
    in this order:

    1. The content type says whether a stream or one body comes; without one the first byte does. Whatever was
       asked for, the other form is taken: a body is replayed as a stream, a stream is put together to a body.
    2. A body passes when all of it is there, and must be a completion. An error is one also with status 200.
    3. A stream passes as events of one ``data`` line each, whatever its line ends; comments and other fields
       are no part of an answer. Events before an error pass, unless nothing has passed yet: then another
       expert may still answer.
    4. ``[DONE]`` ends it and is not passed; what comes after it is dropped. A stream that ends without it is
       whole if a choice had ended.
    5. ``take_usage``: usage is noted wherever it stands, and not passed to a client that did not ask for it.

    Raises EngineError for an answer that is an error, is no completion, is too large, or breaks off.
    """

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        stream: bool,
        take_usage: bool = False,
        content_type: str | None = None,
    ) -> None:
        self._name, self._endpoint, self._stream = name, endpoint, stream
        self._takes_usage = stream and take_usage
        self._content_type = (content_type or "").partition(";")[0].strip().lower()
        self._is_stream: bool | None = None
        self._held = b""
        self._body: list[bytes] = []
        self._size = 0
        self._chunks: list[dict[str, Any]] = []
        self._finished = False
        self._error: EngineError | None = None
        self.events = 0
        """of a stream, each about one token; of a body whose usage is not known, its text in tokens"""
        self.usage: Mapping[str, int] = {}
        """token counts by OpenAI's names, as far as they came"""
        self.done = False
        """whether the answer is complete; what comes after that is dropped"""

    def feed(self, data: bytes) -> bytes:
        """What may be passed on now that ``data`` came."""
        if self._error is not None:
            raise self._error
        if self.done or not data:
            return b""
        if self._is_stream is None:
            data = data.removeprefix(BYTE_ORDER_MARK)
            self._is_stream = self._comes_as_stream(data)
        if not self._is_stream:
            self._body.append(data)
            self._require_size(self._size + len(data), MAX_BODY_BYTES)
            return b""
        if self._held:
            data, self._held = self._held + data, b""
        if b"\r" in data:
            data = self._with_plain_line_ends(data)
        *events, rest = data.split(b"\n\n")
        self._held = rest + self._held
        self._require_size(len(self._held), MAX_EVENT_BYTES)
        return self._pass_on(events)

    def end(self) -> bytes:
        """What may be passed on now that nothing more comes; nothing where nothing came."""
        if self._error is not None:
            raise self._error
        if self.done:
            return b""
        if not self._is_stream:
            return self._whole(b"".join(self._body)) if self._body else b""
        last = self._held.strip()
        passed = b""
        if last.endswith(b"[DONE]") or _object(
            _fields(last)[0]
        ):  # some servers leave the last empty line out
            passed, self._held = self._pass_on([last]), b""
        if not self._stream and self._chunks and (self.done or self._finished):
            return self._whole(to_json(assembled(self._chunks)))
        if not self.done and not self._finished and self.events:
            raise EngineError(
                f"{self._name} broke off its answer",
                code="stream_broken",
                hint="What came is not complete; ask again.",
            )
        self.done = True
        return passed

    def _comes_as_stream(self, first: bytes) -> bool:
        kind = self._content_type
        if kind == "text/event-stream":
            return True
        if kind == "application/json" or kind.endswith("+json"):
            return False
        if kind in ("", "text/plain", "application/octet-stream"):
            return not first.lstrip().startswith((b"{", b"["))
        raise EngineError(
            f"{self._name} answered {kind[:100]}, which is no completion",
            hint="Look at the log of its engine.",
        )

    def _require_size(self, size: int, bound: int) -> None:
        self._size = size
        if size > bound:
            raise EngineError(f"{self._name} answered more than {bound} bytes at once")

    def _with_plain_line_ends(self, data: bytes) -> bytes:
        if data.endswith(b"\r"):  # The next byte may be the other half of the line's end.
            data, self._held = data[:-1], b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _pass_on(self, events: Sequence[bytes]) -> bytes:
        begun, passed = self.events > 0, []
        try:
            for event in events:
                passed.append(self._passed(event))
        except EngineError as error:
            if not begun or not self._stream:
                raise
            self._error = error
        found = b"".join(passed)
        if self._error is not None and not found:
            raise self._error
        if not self._stream:
            # A stream where a body was asked for is put together at its end.
            return self._whole(to_json(assembled(self._chunks))) if self.done and self._chunks else b""
        return found

    def _passed(self, event: bytes) -> bytes:
        """One event as it is passed on; empty when it is not."""
        if self.done:
            return b""
        named_error = False
        if event.startswith(b"data: ") and b"\n" not in event:
            data = event[6:]  # as most events are
        else:
            data, named_error = _fields(event)
        if not data:
            return b""
        if data.strip() == b"[DONE]":
            self.done = True
            return b""
        data = json_codec.plain(data)
        if named_error or b"error" in data or not (data.startswith(b"{") and data.endswith(b"}")):
            self._require_chunk(data, named_error)
        self.events += 1
        self._finished = self._finished or FINISHED.search(data) is not None
        if not self._stream:
            self._chunks.append(_object(data))
        if b'"usage"' in data:
            data = self._note_usage(data)
        return b"data: " + data + b"\n\n" if data else b""

    def _require_chunk(self, data: bytes, named_error: bool) -> None:
        body = _object(data)
        if not body and not named_error:
            raise EngineError(f"{self._name} sent an event that is no JSON object")
        self._require_no_error(body, named_error)

    def _require_no_error(self, body: Mapping[str, Any], surely: bool = False) -> None:
        if surely or body.get("error") or body.get("object") == "error":
            reason = _error_fields(body).get("message") or "it gave no reason"
            raise EngineError(f"{self._name} failed: {str(reason)[:500]}")

    def _note_usage(self, data: bytes) -> bytes:
        """``data`` as it is passed on."""
        body = _object(data)
        usage = usage_of(body)
        if not usage:
            return data
        self.usage = usage
        if not self._takes_usage:
            return data
        rest = {name: value for name, value in body.items() if name != "usage"}
        return json_codec.encode(rest) if body.get("choices") else b""

    def _whole(self, raw: bytes) -> bytes:
        self.done = True
        raw = json_codec.plain(raw)
        body = _object(raw)
        if not body:
            raise EngineError(
                f"{self._name} answered something that is not a JSON object",
                hint="Look at the log of its engine.",
            )
        self._require_no_error(body)
        completion(self._name, body)
        self.usage = usage_of(body)
        if not self._stream:
            if "completion_tokens" not in self.usage:
                self.events = math.ceil(characters_of(body) / CHARS_PER_TOKEN)
            return raw
        events = list(replay(body, self._endpoint))
        if self.usage and not self._takes_usage:
            events.append(usage_event(body, self._endpoint, self.usage))
        self.events = len(events)
        return b"".join(events)


def completion(name: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """``body`` if it is a completion with choices. Raises EngineError for anything else."""
    if not first_choice(body):
        raise EngineError(f"{name} answered no completion", hint="Look at the log of its engine.")
    return body


def refusal(upstream: Upstream, status: int, raw: bytes, retry_after: str | None = None) -> CoeError:
    """What an upstream's error answer means for our client."""
    raw = upstream.without_key(raw)
    fields = _error_fields(_object(raw))
    message = str(fields.get("message") or raw[:500].decode(errors="replace") or f"HTTP {status}")
    if status < 400 or status >= 500 or status in OURS_TO_FIX:
        failed = EngineError(f"{upstream.name} answered {status}: {message}", hint=upstream.hint)
        failed.answered = status == 500 and bool(fields.get("message"))
        return failed
    code = _code(status, fields, message)
    hint = "Shorten the prompt or lower max_tokens." if code == "context_length_exceeded" else None
    param = fields.get("param")
    return ExpertRefused(
        status,
        message,
        code=code,
        param=param.removeprefix("body.") if isinstance(param, str) else None,
        hint=hint,
        retry_after_s=seconds_until(retry_after),
        elsewhere=status in NOT_NOW or NOT_ME.search(f"{code} {message}") is not None,
    )


def seconds_until(retry_after: str | None) -> float | None:
    """A ``Retry-After`` in seconds or as a date (RFC 9110, 10.2.3); None for what is neither."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), LONGEST_RETRY_S) if math.isfinite(seconds) else None


def _error_fields(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of OpenAI's envelope, and of the flat forms that other servers send."""
    error = body.get("error") or body
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else {}


def _code(status: int, fields: Mapping[str, Any], message: str) -> str:
    if "context length" in message.lower() or fields.get("code") == "context_length_exceeded":
        return "context_length_exceeded"
    code = fields.get("code")
    if isinstance(code, str) and not code.isdigit():
        return code
    return "rate_limit_exceeded" if status == 429 else "invalid_request"


def _object(raw: bytes) -> dict[str, Any]:
    """The JSON object, or an empty one for anything else."""
    try:
        body = json_codec.decode(raw)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _fields(event: bytes) -> tuple[bytes, bool]:
    """The data of an event, its lines joined, and whether it is of the type ``error``."""
    lines = []
    is_error = False
    for line in event.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
        elif name == b"event":
            is_error = value.strip() == b"error"
    return b" ".join(lines), is_error
