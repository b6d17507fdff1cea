"""Answers stored for requests that come again: exactly the same ones, and ones that mean the same.

Off by default. Stored per tenant, generation, endpoint and parameters, so that nobody sees another's answers,
and none made by experts that have changed since.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from cachetools import FIFOCache

from coe.core.types import Request
from coe.state.store import Store, StoreDown

log = logging.getLogger(__name__)

Embed = Callable[[str], npt.NDArray[np.float32]]
"""A unit vector for a text. Blocking; thread-safe."""


class Versioned(Protocol):
    """What answers depend on beside the request."""

    @property
    def identity(self) -> str: ...


@dataclass(frozen=True)
class CacheKey:
    """Under what an answer to a request is stored. ``scope``: all but the last user message."""

    exact: str
    scope: str
    text: str


class SimilarTexts:
    """Texts of one process with their embeddings, nearest first. Bounded; thread-safe.

    Only this process's own requests are compared: vectors are not shared through the store.
    """

    def __init__(self, embed: Embed, threshold: float, size: int = 2_000) -> None:
        self._embed, self._threshold = embed, threshold
        self._known: FIFOCache[str, tuple[str, npt.NDArray[np.float32]]] = FIFOCache(size)
        self._one_at_a_time = threading.Lock()

    def find(self, key: CacheKey) -> str | None:
        """The exact key of the most similar text in the same scope, if it is similar enough."""
        vector = self._embed(key.text)
        with self._one_at_a_time:
            same = [(exact, v) for exact, (scope, v) in self._known.items() if scope == key.scope]
        if not same:
            return None
        cosines = np.stack([v for _, v in same]) @ vector
        best = int(np.argmax(cosines))
        return same[best][0] if cosines[best] >= self._threshold else None

    def add(self, key: CacheKey) -> None:
        vector = self._embed(key.text)
        with self._one_at_a_time:
            self._known[key.exact] = (key.scope, vector)


class ResponseCache:
    """The response cache. A store that is down costs the hit, never the answer."""

    def __init__(self, store: Store, ttl_s: float, similar: SimilarTexts | None = None) -> None:
        self._store, self._ttl_s, self._similar = store, ttl_s, similar
        self.lookups = {"hit": 0, "similar": 0, "miss": 0}
        self.down = 0
        """calls of the store that failed"""

    def key(self, request: Request, tenant: str, version: Versioned) -> CacheKey | None:
        return cache_key(request, tenant, version.identity)

    async def find(self, key: CacheKey | None) -> bytes | None:
        """A body to give instead of asking anybody."""
        if key is None:
            return None
        found = await self._get(key.exact)
        if found is not None:
            self.lookups["hit"] += 1
            return found
        if self._similar is not None:
            other = await asyncio.to_thread(self._similar.find, key)
            found = await self._get(other) if other is not None else None
            if found is not None:
                self.lookups["similar"] += 1
                return found
        self.lookups["miss"] += 1
        return None

    async def put(self, key: CacheKey, body: bytes) -> None:
        try:
            await self._store.put(key.exact, body, self._ttl_s)
        except StoreDown as error:
            self._lost(error)
            return
        if self._similar is not None:
            await asyncio.to_thread(self._similar.add, key)

    async def _get(self, key: str) -> bytes | None:
        try:
            return await self._store.get(key)
        except StoreDown as error:
            self._lost(error)
            return None

    def _lost(self, error: StoreDown) -> None:
        self.down += 1
        log.warning("response cache: %s", error)


def cache_key(request: Request, tenant: str, generation: str) -> CacheKey | None:
    """``generation``: its identity. None for what must not be stored: private requests, streams, and answers
    that are meant to differ (n, temperature)."""
    body = request.body
    temperature = body.get("temperature")
    fixed = temperature == 0 or body.get("seed") is not None
    if request.private or request.stream or not fixed or body.get("n") not in (None, 1):
        return None
    common = [tenant, generation, request.endpoint, request.model, vars(request.options)]
    scope = [*common, _without_text(body, request.text)]
    return CacheKey(_hash([*common, body]), _hash(scope), request.text)


def _without_text(value: Any, text: str) -> Any:
    """A body with the routed text blanked: requests alike in this differ in nothing but their words."""
    if isinstance(value, str):
        return "" if value.strip() == text else value
    if isinstance(value, Mapping):
        return {name: _without_text(inner, text) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_text(inner, text) for inner in value]
    return value


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
