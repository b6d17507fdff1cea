"""What a registry asks for between the API and the pipeline: access control, cache, record of prompts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coe.access.api_keys import KeysFile
from coe.access.limits import AccessControl
from coe.access.response_cache import Embed, ResponseCache, SimilarTexts
from coe.core.errors import ConfigError
from coe.observe.capture import Recorder, open_recorder
from coe.observe.otel import open_tracer
from coe.observe.tracing import Tracer
from coe.pipeline.feedback import FeedbackRecorder
from coe.registry.schema import Registry
from coe.registry.service_settings import State
from coe.state.memory import MemoryStore
from coe.state.redis_store import RedisStore
from coe.state.store import Store


@dataclass(frozen=True)
class Middlewares:
    """What stands between the API and the pipeline."""

    access_control: AccessControl
    cache: ResponseCache | None = None
    store: Store | None = None
    """to be closed at the end"""
    marks: FeedbackRecorder | None = None
    tracer: Tracer | None = None
    recorder: Recorder | None = None
    keys: KeysFile | None = None

    def start(self) -> None:
        """From now on edits of the keys file count. Needs the service's event loop; idempotent."""
        if self.keys is not None:
            self.keys.start(self.access_control.change_keys)

    async def close(self) -> None:
        if self.keys is not None:
            self.keys.close()
        if self.marks is not None:
            self.marks.close()
        if self.store is not None:
            await self.store.close()
        if self.recorder is not None:
            await asyncio.to_thread(self.recorder.close)
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.close)


def without_access() -> Middlewares:
    """Everybody may use the API, and nothing is cached or recorded."""
    return Middlewares(AccessControl(None, MemoryStore()))


def build_middlewares(
    registry: Registry,
    root: Path,
    embedder: Callable[[str, Path], Embed],
    marks: FeedbackRecorder | None = None,
) -> Middlewares:
    """Blocking: reads the keys file and may load an encoder. Raises ConfigError."""
    store = open_store(registry.state)
    access, settings = registry.access, registry.cache
    keys = KeysFile(root / Path(access.keys_file).expanduser()) if access.keys_file else None
    access_control = AccessControl(keys.ring if keys else None, store, access.when_down)
    cache = None
    if settings is not None:
        words = settings.similarity and SimilarTexts(embedder(settings.encoder, root), settings.similarity)
        cache = ResponseCache(store, settings.ttl_s, words or None)
    observe = registry.observe
    recorder = open_recorder(observe.capture, root)
    return Middlewares(access_control, cache, store, marks, open_tracer(observe.traces), recorder, keys)


def open_store(state: State) -> Store:
    """Redis where the registry names one. It need not be there yet. Raises ConfigError."""
    url = state.redis_url
    if state.redis_url_env is not None:
        url = os.environ.get(state.redis_url_env, "").strip() or url
        if url is None:
            raise ConfigError(
                f"the environment variable {state.redis_url_env} is not set",
                hint="Set it to the URL of Redis, or take state.redis_url_env out of experts.yaml.",
            )
    if url is None:
        return MemoryStore()
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ConfigError(
            "state.redis_url is not the URL of a Redis", hint="Write it like redis://127.0.0.1:6379/0."
        )
    return RedisStore(url, state.prefix)
