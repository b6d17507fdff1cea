"""Experts that run elsewhere: behind an OpenAI-compatible URL, or at a provider through LiteLLM."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.parse import urlsplit

from coe.core import json_codec
from coe.core.addresses import is_metadata
from coe.core.errors import ConfigError, EngineError, ExpertRefused
from coe.core.files import off_the_loop, path_in
from coe.core.types import EngineAnswer, EngineCall, EngineStats, ExpertId, ExpertSpec
from coe.engines.base import Setting
from coe.engines.experts import Experts
from coe.engines.http import PRIVATE, HttpClient, Rename
from coe.engines.upstream import Upstream
from coe.registry.hosts import RemoteHost

CIRCUIT_OPEN = "circuit_open"
SILENT_S = 30.0
"""A call that got no answer in this time and was given up counts as a failure."""
FIFTHS = 5
"""What a failure counts."""


class Backend(Protocol):
    """A way to reach remote models. ``open`` and ``close`` are idempotent."""

    async def open(self) -> None: ...
    async def ask(self, model: str, call: EngineCall, shown: ExpertId) -> EngineAnswer: ...
    async def close(self) -> None: ...


class RemoteEngine:
    """Nothing to load: every expert is ready while the connection is set up (:class:`coe.core.types.Engine`).

    That its key or name is wrong shows at the first request, as EngineError: a probe would cost money.
    """

    options_type: ClassVar[type[RemoteHost]] = RemoteHost

    @classmethod
    def build(cls, name: str, options: RemoteHost, setting: Setting) -> RemoteEngine:  # noqa: ARG003
        return cls(options, setting.experts, setting.root)

    def __init__(self, host: RemoteHost, experts: Sequence[ExpertSpec], root: Path) -> None:
        self.id = host.id
        self._experts = Experts(host.id, experts)
        self._backend = _backend(host, root)
        self._host = host
        self._ids = tuple(expert.id for expert in experts)
        self._models: dict[ExpertId, str] = {}
        self._breakers: dict[ExpertId, Breaker] = {}
        self._open = False
        self._last_error: str | None = None

    async def start(self) -> None:
        try:
            await self._backend.open()
        except EngineError as error:
            self._last_error = error.message
            raise
        self._open, self._last_error = True, None

    async def ensure_ready(self, expert: ExpertId) -> None:
        if self._experts[expert]:  # raises for one that it does not have
            await self.start()

    async def sleep(self, expert: ExpertId, level: int = 1) -> None:
        """Nothing to free."""

    async def set_experts(self, experts: Sequence[ExpertSpec]) -> None:
        self._experts.set_experts(experts)
        self._ids, self._models = tuple(expert.id for expert in experts), {}

    async def ask(self, expert: ExpertId, call: EngineCall) -> EngineAnswer:
        if not self._open:
            raise self._experts.not_ready(expert)
        model = self._models.get(expert) or self._models.setdefault(expert, self._experts[expert].model)
        breaker = self._breakers.get(expert)
        if breaker is None:
            breaker = self._breakers[expert] = Breaker(expert, self._host.max_failures, self._host.pause_s)
        with breaker.guard(call.body):
            return await self._backend.ask(model, call, expert)

    async def stop(self) -> None:
        self._open = False
        await self._backend.close()

    def stats(self) -> EngineStats:
        if self._open:
            return EngineStats(
                "ready",
                self._ids,
                last_error=self._last_error,
                broken=tuple(name for name, breaker in self._breakers.items() if breaker.resting),
            )
        return EngineStats("failed" if self._last_error else "stopped", last_error=self._last_error)


class Breaker:
    """An expert that keeps failing is not asked for a while, so that nobody waits for it.

    Closed: all may pass. After ``failures`` in a row it opens: all are turned away at once. After ``pause_s``
    one may pass to probe; a success closes it, a failure opens it for another pause. Belongs to one event
    loop; ``clock`` in seconds.

    A server that answers 500 with an error of its own is there, and it may be the request that it cannot do
    (a grammar, say): nobody waits for it, and one client must not close it to all others. Such a failure
    counts a fifth, once for each different request; as a probe it lets the next one pass.
    """

    def __init__(
        self, name: str, failures: int, pause_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name, self._failures, self._pause_s, self._clock = name, failures, pause_s, clock
        self._in_a_row = self._fifths = 0
        self._seen: set[int] = set()
        """requests, by their hash, that were answered so since the last success"""
        self._open_until = -math.inf
        self._probing = False

    @property
    def open(self) -> bool:
        """Whether it turns callers away, all or all but one probe."""
        return self._fifths >= self._failures * FIFTHS

    @property
    def resting(self) -> bool:
        """Whether it turns all callers away now."""
        return self.open and (self._probing or self._open_until > self._clock())

    @contextmanager
    def guard(self, body: Mapping[str, Any] | None = None) -> Iterator[None]:
        """Around one call, of a request with ``body``. Raises EngineError (``circuit_open``) in place of a
        call that may not pass.

        An EngineError inside is a failure; an answer, or a refusal of the request itself, a success. A call
        that was cancelled says nothing, unless it had waited for SILENT_S: its server may never answer, and
        whoever gives up first would hide that.
        """
        began = self._clock()
        probe = self.open
        if probe:
            self._check()
            self._probing = True
        try:
            yield
        except EngineError as error:
            if not error.answered:
                self._failed()
            elif probe:
                self._fifths = self._failures * FIFTHS - 1
            elif (request := hash(json_codec.encode(body))) not in self._seen:
                self._seen.add(request)
                self._failed(fifths=1)
            raise
        except asyncio.CancelledError:
            if self._clock() - began >= SILENT_S:
                self._failed()
            raise
        except ExpertRefused as refusal:
            if refusal.http_status == 429:  # it asks to be left alone
                self._failed()
            else:
                self._succeeded()
            raise
        else:
            self._succeeded()
        finally:
            if probe:
                self._probing = False

    def _check(self) -> None:
        left = self._open_until - self._clock()
        if left > 0 or self._probing:
            raise EngineError(
                f"{self._name} failed {self._in_a_row} times in a row and is left alone for the moment",
                code=CIRCUIT_OPEN,
                hint="Look at its last errors in the log; it is tried again by itself.",
                retry_after_s=max(left, 1.0),
            )

    def _succeeded(self) -> None:
        self._in_a_row = self._fifths = 0
        self._seen.clear()

    def _failed(self, fifths: int = FIFTHS) -> None:
        self._in_a_row += 1
        self._fifths += fifths
        if self.open:
            self._open_until = self._clock() + self._pause_s


class UrlBackend:
    """An OpenAI-compatible server at ``host.url`` (as given to an OpenAI client: it ends in ``/v1``)."""

    def __init__(self, host: RemoteHost, root: Path) -> None:
        self._host, self._root = host, root
        self._url = api_url(str(host.url), host.link_local)
        self._client: HttpClient | None = None

    async def open(self) -> None:
        if self._client is None:
            key = await off_the_loop(read_key, self._host, self._root)
            self._client = HttpClient(
                Upstream(
                    self._host.id,
                    self._url,
                    api_key=key,
                    read_timeout_s=self._host.timeout_s,
                    guarded=not self._host.link_local,
                    ours=False,
                    hint=f"Check url, key and model names of the host {self._host.id} in experts.yaml.",
                )
            )

    async def ask(self, model: str, call: EngineCall, shown: ExpertId) -> EngineAnswer:
        if self._client is None:
            raise EngineError(f"{self._host.id} is not open.", code="engine_not_running")
        headers = {**call.trace, **PRIVATE} if call.private else call.trace
        return await self._client.ask(
            f"/{call.endpoint}", {**call.body, "model": model}, Rename(model, shown), headers
        )

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def api_url(url: str, link_local: bool = False) -> str:
    """``url`` checked: http or https, a host, no user or password, and not where clouds keep credentials
    unless ``link_local`` allows it; ``/v1`` is added to a bare host.

    Raises ConfigError. The URL comes from experts.yaml alone; nothing in a request can change it.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(
            f"{url!r} is not the URL of an API.", hint="Write it like https://api.example.com/v1"
        )
    if parts.username or parts.password:
        raise ConfigError(
            f"The URL of {parts.hostname} holds a password.", hint="Use api_key_env or api_key_file."
        )
    if not link_local and is_metadata(parts.hostname):
        raise ConfigError(
            f"{parts.hostname} is a link-local or metadata address.",
            hint="If an expert really is there, write link_local: true at its host.",
        )
    bare = url.rstrip("/")
    return bare if parts.path.strip("/") else f"{bare}/v1"


def read_key(host: RemoteHost, root: Path) -> str | None:
    """The API key, from where experts.yaml says it is. Raises EngineError when it is not there."""
    if host.api_key_env is not None:
        key = os.environ.get(host.api_key_env, "").strip()
        where, hint = f"environment variable {host.api_key_env}", "Set it before starting the service."
    elif host.api_key_file is not None:
        file = path_in(root, host.api_key_file)
        key = file.read_text().strip() if file.is_file() else ""
        where, hint = f"file {file}", "Write the key, and nothing else, into that file."
    else:
        return None
    if not key:
        raise EngineError(f"The API key of {host.id} is missing: {where}.", code="key_missing", hint=hint)
    return key


def _backend(host: RemoteHost, root: Path) -> Backend:
    if host.provider is None:
        return UrlBackend(host, root)
    from coe.engines.remote.litellm import LiteLlmBackend

    return LiteLlmBackend(host, root)
