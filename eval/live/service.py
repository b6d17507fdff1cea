"""The service under test, over HTTP: any OpenAI-compatible one; routing previews and receipts from ours.

Refusals that pass (429, 502, 503, 504) are waited out as ``Retry-After`` says. A connection that fails ends
the run with :class:`ServiceGone`: the journal keeps what was answered, and the same command goes on.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from coe.core.errors import CoeError, ConfigError, ExpertUnavailable
from coe.core.openai import stand_in

_PASSING = (429, 502, 503, 504)
_LONGEST_WAIT_S = 60.0
_SWAPS = re.compile(rb"^coe_engine_swaps_total\{[^}]*\}\s+([0-9.e+]+)", re.MULTILINE)


class ServiceGone(ExpertUnavailable):
    """Nothing answers at the address any more."""


class Refused(CoeError):
    """The service refused one call for good."""


@dataclass(frozen=True)
class Address:
    """Where and how to ask. ``api_key_env`` names the environment variable that holds the key.

    ``private``: tell the service to keep nothing of what it is sent.
    """

    url: str
    api_key_env: str = "OPENAI_API_KEY"
    timeout_s: float = 600.0
    attempts: int = 5
    private: bool = False

    @property
    def base(self) -> str:
        """Without a trailing slash and without /v1."""
        return self.url.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1").rstrip("/")

    def headers(self) -> dict[str, str]:
        key = os.environ.get(self.api_key_env)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return headers | ({"cache-control": "no-store"} if self.private else {})


@dataclass(frozen=True)
class Reply:
    """One chat completion. ``expert``: who answered, the receipt's word before the body's ``model``."""

    output: str
    expert: str
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reason: str | None
    receipt: Mapping[str, Any] | None
    latency_ms: float


class Service:
    """An open connection to one service."""

    def __init__(self, address: Address, session: aiohttp.ClientSession) -> None:
        self._address, self._session = address, session

    async def chat(self, body: Mapping[str, Any]) -> Reply:
        """Ask once; wait out passing refusals. Raises ServiceGone or Refused."""
        started = time.monotonic()
        answer = await self._post("/v1/chat/completions", body)
        return _reply(answer, str(body["model"]), (time.monotonic() - started) * 1000)

    async def route(self, text: str, router: str | None) -> dict[str, float]:
        """The probability of every expert for ``text``, best first. Raises ServiceGone or Refused."""
        body = {"input": text} | ({"router": router} if router else {})
        try:
            answer = await self._post("/v1/route", body)
        except Refused as error:
            raise Refused(
                error.message, hint="Recruiting and grouping need our service, which ranks at /v1/route."
            ) from None
        return {row["expert"]: float(row["probability"]) for row in answer["experts"]}

    async def models(self) -> Sequence[str]:
        """The names that the service lists. Raises ServiceGone or ConfigError."""
        url = f"{self._address.base}/v1/models"
        try:
            async with self._session.get(url) as response:
                raw = await response.read()
                if response.status in (401, 403):
                    raise ConfigError(
                        f"{url} wants a key (HTTP {response.status})",
                        hint=f"Put it into the environment variable {self._address.api_key_env}.",
                    )
                return [str(model["id"]) for model in json.loads(raw)["data"]]
        except (aiohttp.ClientError, OSError) as error:
            raise self._gone(error) from None
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{url} lists no models: is an OpenAI-compatible API there?") from None

    async def swaps(self) -> float | None:
        """Experts moved in since the service started; None where it does not say."""
        try:
            async with self._session.get(f"{self._address.base}/metrics") as response:
                found = _SWAPS.findall(await response.read()) if response.status == 200 else []
        except (aiohttp.ClientError, OSError):
            return None
        return sum(float(value) for value in found) if found else None

    async def embed(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        """One vector a text, from /v1/embeddings. Raises ServiceGone or Refused."""
        answer = await self._post("/v1/embeddings", {"model": model, "input": list(texts)})
        return [row["embedding"] for row in sorted(answer["data"], key=lambda row: int(row["index"]))]

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        for attempt in range(1, self._address.attempts + 1):
            try:
                async with self._session.post(self._address.base + path, json=body) as response:
                    raw = await response.read()
            except TimeoutError:
                raise Refused(f"no answer within {self._address.timeout_s:g} s", code="timeout") from None
            except (aiohttp.ClientError, OSError) as error:
                raise self._gone(error) from None
            if response.status == 200:
                return _object(raw)
            if response.status not in _PASSING or attempt == self._address.attempts:
                raise Refused(f"HTTP {response.status}: {_message(raw)}", code=f"http_{response.status}")
            await asyncio.sleep(_wait_s(response.headers.get("retry-after"), attempt))
        raise AssertionError("the last attempt returns or raises")

    def _gone(self, error: Exception) -> ServiceGone:
        return ServiceGone(
            f"no service answers at {self._address.base} ({error or type(error).__name__})",
            hint="Start it, for ours with `coe serve`, and give the same command again: "
            "what was answered is kept.",
        )


@asynccontextmanager
async def connect(address: Address, concurrency: int) -> AsyncIterator[Service]:
    timeout = aiohttp.ClientTimeout(total=address.timeout_s)
    connector = aiohttp.TCPConnector(limit=concurrency + 2)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=connector, headers=address.headers()
    ) as session:
        yield Service(address, session)


def _reply(answer: Mapping[str, Any], model: str, latency_ms: float) -> Reply:
    try:
        choice = answer["choices"][0]
        output = choice["message"].get("content") or ""
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Refused("the answer is not a chat completion") from None
    if (other := stand_in(answer, model)) is not None:
        raise Refused(
            f"{other} answered in place of {model}, whose fallback it is", code="answered_by_fallback"
        )
    usage, receipt = answer.get("usage") or {}, answer.get("coe")
    return Reply(
        output=str(output),
        expert=str((receipt or {}).get("expert") or answer.get("model") or model),
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
        finish_reason=choice.get("finish_reason"),
        receipt=receipt,
        latency_ms=latency_ms,
    )


def _object(raw: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(raw)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise Refused("the answer is not a JSON object")
    return parsed


def _message(raw: bytes) -> str:
    try:
        error = json.loads(raw)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return raw[:200].decode("utf-8", "replace")


def _wait_s(retry_after: str | None, attempt: int) -> float:
    try:
        wait = float(retry_after or "")
    except ValueError:
        wait = 0.5 * 2**attempt
    return min(max(wait, 0.0), _LONGEST_WAIT_S)
