"""Answers whose whole text is known, in OpenAI's shapes: for engines that write their text themselves."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from coe.core.types import EngineCall, ExpertId, is_true, number


class TextAnswer:
    """``text`` as the answer of ``expert`` (:class:`coe.core.types.EngineAnswer`)."""

    status = 200

    def __init__(self, expert: ExpertId, call: EngineCall, text: str) -> None:
        self._left = text_body(expert, call, text)

    async def chunks(self) -> AsyncIterator[bytes]:
        while self._left:
            yield self._left.pop(0)

    async def aclose(self) -> None:
        self._left = []


def text_body(expert: ExpertId, call: EngineCall, text: str) -> list[bytes]:
    """An answer in OpenAI's shape: one JSON body, or server-sent events with a word each."""
    count = int(number(call.body.get("n")) or 1)
    words = text.split(" ")
    usage = {"prompt_tokens": 1, "completion_tokens": count * len(words)}
    usage["total_tokens"] = sum(usage.values())
    if not call.stream:
        choices = [_whole(call, i, text) for i in range(count)]
        return [json.dumps({**_head(expert, call), "choices": choices, "usage": usage}).encode()]
    pieces = [word if i == 0 else f" {word}" for i, word in enumerate(words)]
    events = [[_piece(call, i, piece) for i in range(count)] for piece in pieces]
    events.append([_piece(call, i, None) for i in range(count)])
    bodies = [{**_head(expert, call), "choices": choices} for choices in events]
    if is_true((call.body.get("stream_options") or {}).get("include_usage")):
        bodies.append({**_head(expert, call), "choices": [], "usage": usage})
    return [*(b"data: " + json.dumps(body).encode() + b"\n\n" for body in bodies), b"data: [DONE]\n\n"]


def _head(expert: ExpertId, call: EngineCall) -> dict[str, Any]:
    chat = call.endpoint == "chat/completions"
    kind = ("chat.completion.chunk" if call.stream else "chat.completion") if chat else "text_completion"
    return {"id": f"{'chatcmpl' if chat else 'cmpl'}-fake", "object": kind, "created": 0, "model": expert}


def _whole(call: EngineCall, index: int, text: str) -> dict[str, Any]:
    if call.endpoint == "completions":
        return {"index": index, "text": text, "logprobs": None, "finish_reason": "stop"}
    message = {"role": "assistant", "content": text}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": "stop"}


def _piece(call: EngineCall, index: int, piece: str | None) -> dict[str, Any]:
    """One word of a stream, or its end when ``piece`` is None."""
    finish = "stop" if piece is None else None
    if call.endpoint == "completions":
        return {"index": index, "text": piece or "", "logprobs": None, "finish_reason": finish}
    delta = {} if piece is None else {"role": "assistant", "content": piece}
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
