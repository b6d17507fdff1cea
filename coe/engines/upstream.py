"""What upstreams say, read in one place: their answers, streamed or whole, and their errors.

An engine gives an answer as bytes; :class:`AnswerReader` makes whole events or a whole body of them. Who asks
an expert reads through it and parses nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coe.core import json_codec
from coe.core.errors import CoeError, EngineError, ExpertRefused
from coe.core.openai import usage_of

OURS_TO_FIX = frozenset({401, 402, 403, 404, 405, 408})
"""Upstream's 4xx that a client of ours cannot mend: our key, our model name, our URL."""


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

    def without_key(self, raw: bytes) -> bytes:
        """Some servers quote the key that they were sent; neither our clients nor our log shall see it."""
        return raw.replace(self.api_key.encode(), b"[key]") if self.api_key else raw


class AnswerReader:
    """Reads one answer of the expert ``name``, fed as it comes, however its bytes are cut.

    A stream passes as server-sent events of one ``data`` line each, up to ``[DONE]``, which is not passed;
    comments and other fields are dropped. A whole body passes when all of it is there. ``take_usage``: the
    usage of a stream is noted and not passed. Raises EngineError for an answer that is an error, is not what
    was asked for, or breaks off.
    """

    def __init__(self, name: str, stream: bool, take_usage: bool = False) -> None:
        self._name, self._stream, self._takes_usage = name, stream, stream and take_usage
        self._held = b""
        self._body: list[bytes] = []
        self.events = 0
        self.usage: Mapping[str, int] = {}
        """token counts by OpenAI's names, as far as they came"""
        self.done = False
        """whether the answer is complete; what comes after that is dropped"""

    def feed(self, data: bytes) -> bytes:
        """What may be passed on now that ``data`` came."""
        if self.done:
            return b""
        if not self._stream:
            self._body.append(data)
            return b""
        if self._held:
            data, self._held = self._held + data, b""
        if b"\r" in data:
            data = self._with_plain_line_ends(data)
        *events, rest = data.split(b"\n\n")
        self._held = rest + self._held
        return b"".join([self._passed(event) for event in events])

    def end(self) -> bytes:
        """What may be passed on now that nothing more comes; nothing where nothing came."""
        if self.done:
            return b""
        if not self._stream:
            return self._whole()
        passed = self._passed(self._held.rstrip(b"\r\n")) if self._held.strip().endswith(b"[DONE]") else b""
        if not self.done and self.events:
            raise EngineError(
                f"{self._name} broke off its answer",
                code="stream_broken",
                hint="What came is not complete; ask again.",
            )
        return passed

    def _with_plain_line_ends(self, data: bytes) -> bytes:
        if data.endswith(b"\r"):  # The next byte may be the other half of the line's end.
            data, self._held = data[:-1], b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

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
        if data == b"[DONE]":
            self.done = True
            return b""
        if named_error or b'"error"' in data:
            self._raise_error(data, named_error)
        self.events += 1
        if b'"usage"' in data:
            data = self._note_usage(data)
        return b"data: " + data + b"\n\n" if data else b""

    def _raise_error(self, data: bytes, surely: bool) -> None:
        found = error_fields(data, surely)
        if found or surely:
            raise EngineError(
                f"{self._name} failed in mid-answer: {found.get('message') or 'it gave no reason'}"
            )

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

    def _whole(self) -> bytes:
        raw, self.done = b"".join(self._body), True
        body = json_codec.fields(raw)
        if body is None:
            raise EngineError(
                f"{self._name} answered something that is not a JSON object",
                hint="Look at the log of its engine.",
            )
        if "usage" in body:
            self.usage = usage_of({"usage": json_codec.decode(bytes(body["usage"]))})
        return raw


def completion(name: str, raw: bytes) -> Mapping[str, Any]:
    """A whole answer as a completion with choices. Raises EngineError for anything else."""
    body = _object(raw)
    if not isinstance(body.get("choices"), list) or not body["choices"]:
        raise EngineError(f"{name} answered no completion", hint="Look at the log of its engine.")
    return body


def refusal(upstream: Upstream, status: int, raw: bytes, retry_after: str | None = None) -> CoeError:
    """What an upstream's error answer means for our client."""
    raw = upstream.without_key(raw)
    fields = error_fields(raw, surely=True)
    message = str(fields.get("message") or raw[:500].decode(errors="replace") or f"HTTP {status}")
    if status < 400 or status >= 500 or status in OURS_TO_FIX:
        return EngineError(f"{upstream.name} answered {status}: {message}", hint=upstream.hint)
    wait = float(retry_after) if retry_after and retry_after.isdigit() else None
    code = _code(status, fields, message)
    hint = "Shorten the prompt or lower max_tokens." if code == "context_length_exceeded" else None
    param = fields.get("param")
    return ExpertRefused(
        status,
        message,
        code=code,
        param=param.removeprefix("body.") if isinstance(param, str) else None,
        hint=hint,
        retry_after_s=wait,
    )


def error_fields(raw: bytes, surely: bool = False) -> Mapping[str, Any]:
    """The fields of OpenAI's envelope; where it is ``surely`` an error, also of the flat forms that other
    servers send. Empty for what is not an error."""
    body = _object(raw)
    error = body.get("error", body if surely else None)
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
        if name in (b"data", b"\xef\xbb\xbfdata"):
            lines.append(value.removeprefix(b" "))
        elif name == b"event":
            is_error = value.strip() == b"error"
    return b" ".join(lines), is_error
