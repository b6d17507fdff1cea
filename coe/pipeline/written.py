"""The stream of an answer that an expert writes for an aggregator, without its own usage and end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from coe import completions


class WrittenStream:
    """Passes events on and keeps the usage back: the client's usage is that of all legs.

    ``done`` says whether ``[DONE]`` came; a stream that ends without it broke off.
    """

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.usage: Mapping[str, int] | None = None
        self.done = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        buffer = b""
        async for chunk in self._chunks:
            buffer += chunk
            *events, buffer = buffer.split(b"\n\n")
            for event in events:
                if not self.done and (passed := self._passed(event)):
                    yield passed + b"\n\n"

    def _passed(self, event: bytes) -> bytes:
        if event.strip() in (b"data: [DONE]", b"data:[DONE]"):
            self.done = True
            return b""
        if b'"usage"' not in event:
            return event
        payload = completions.parse_event(event)
        if payload is None:
            return event
        usage = completions.usage_of(payload)
        if not usage:
            return event
        self.usage = usage
        if not payload.get("choices"):
            return b""
        payload.pop("usage")
        return completions.event(payload).rstrip()
