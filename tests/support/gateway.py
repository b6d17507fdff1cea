"""A gateway on a socket with the real pool and a scripted engine in one slot, for tests of the API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import httpx

from coe.core.errors import EngineError
from coe.core.types import EngineAnswer, EngineCall
from coe.registry.schema import Registry
from coe.service.service import LocalService, build_service
from coe.testing.engines import FakeEngine, Script
from tests.support.serving import serving

if TYPE_CHECKING:
    from openai import AsyncOpenAI

ASK: list[Any] = [{"role": "user", "content": "What is 2+2?"}]
EXPERTS = ("sums", "words", "base")


@dataclass
class BrokenAnswer:
    """The first event of an answer, then an error, or an end without [DONE]."""

    answer: EngineAnswer
    error: EngineError | None
    status: int = 200

    async def chunks(self) -> AsyncIterator[bytes]:
        yield await anext(self.answer.chunks())
        if self.error is not None:
            raise self.error

    async def aclose(self) -> None:
        await self.answer.aclose()


class RecordingEngine(FakeEngine):
    """Keeps the bodies it was sent; refuses, or breaks its answers, where told to."""

    def __init__(self, script: Script | None = None) -> None:
        super().__init__("slot", script)
        self.bodies: list[Mapping[str, Any]] = []
        self.refusal: Exception | None = None
        self.breaks_with: EngineError | Literal["nothing"] | None = "nothing"

    async def ask(self, expert: str, call: EngineCall) -> EngineAnswer:
        self.bodies.append(call.body)
        if self.refusal is not None:
            raise self.refusal
        answer = await super().ask(expert, call)
        return answer if self.breaks_with == "nothing" else BrokenAnswer(answer, self.breaks_with)


@dataclass
class World:
    """A running service and the ways to it."""

    url: str
    client: AsyncOpenAI
    http: httpx.AsyncClient
    engine: RecordingEngine
    service: LocalService

    async def metrics(self) -> str:
        return (await self.http.get("/metrics")).text


def registry(**limits: Any) -> Registry:
    return Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot", "max_running": 2}], "min_residency_s": 0},
            "experts": [{"id": name, "host": "slot", "model": name, "skills": [name]} for name in EXPERTS],
            "routers": {
                "default": "static",
                "available": [{"name": "static", "kind": "static", "options": {"expert": "sums"}}],
            },
            "limits": limits,
        }
    )


@asynccontextmanager
async def world(script: Script | None = None, **limits: Any) -> AsyncIterator[World]:
    """Raises AssertionError at the end when the engine was misused."""
    from openai import AsyncOpenAI

    engine = RecordingEngine(script)
    service = build_service(registry(**limits), Path(), lambda *_: engine)
    async with (
        serving(service) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        httpx.AsyncClient(base_url=url) as http,
    ):
        yield World(url, client, http, engine, service)
    if engine.violations:
        raise AssertionError(engine.violations)
