"""Answers stored for requests that come again: exactly the same ones, or also the same ones put otherwise.

Off by default. Stored per tenant, generation, endpoint and parameters, so that nobody sees another's answers,
and none made by experts that have changed since.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any, Protocol

from coe.access.same_question import same_question
from coe.core.types import Request, number
from coe.state.store import Store, StoreDown

log = logging.getLogger(__name__)


class Versioned(Protocol):
    """What answers depend on beside the request."""

    @property
    def identity(self) -> str: ...


class ResponseCache:
    """The response cache. A store that is down costs the hit, never the answer."""

    def __init__(self, store: Store, ttl_s: float, rephrased: bool = False) -> None:
        self._store, self._ttl_s, self._rephrased = store, ttl_s, rephrased
        self.lookups = {"hit": 0, "miss": 0}
        self.down = 0
        """calls of the store that failed"""

    def key(self, request: Request, tenant: str, version: Versioned) -> str | None:
        return cache_key(request, tenant, version.identity, self._rephrased)

    async def find(self, key: str | None) -> bytes | None:
        """A body to give instead of asking anybody."""
        if key is None:
            return None
        found = await self._get(key)
        self.lookups["miss" if found is None else "hit"] += 1
        return found

    async def put(self, key: str, body: bytes) -> None:
        try:
            await self._store.put(key, body, self._ttl_s)
        except StoreDown as error:
            self._lost(error)

    async def _get(self, key: str) -> bytes | None:
        try:
            return await self._store.get(key)
        except StoreDown as error:
            self._lost(error)
            return None

    def _lost(self, error: StoreDown) -> None:
        self.down += 1
        log.warning("response cache: %s", error)


def cache_key(request: Request, tenant: str, generation: str, rephrased: bool = False) -> str | None:
    """Under what an answer is stored. ``generation``: its identity. ``rephrased``: equal keys for what is the
    :func:`~coe.access.same_question.same_question`. None for what must not be stored: private requests,
    streams, and answers that are meant to differ (n, temperature)."""
    body = request.body
    fixed = number(body.get("temperature")) == 0 or body.get("seed") is not None
    if request.private or request.stream or not fixed or number(body.get("n")) not in (None, 1):
        return None
    common = [tenant, generation, request.endpoint, request.model, vars(request.options)]
    if rephrased:
        return _hash([*common, _without_text(body, request.text), same_question(request.text)])
    return _hash([*common, body])


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
