"""What stands between the API and the pipeline: access, the response cache, and who observes completions."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from coe.access.api_keys import KeysFile
from coe.access.limits import AccessControl
from coe.access.response_cache import ResponseCache
from coe.core.errors import ConfigError
from coe.core.files import off_the_loop, path_in
from coe.gateway.completions import Completion, NoCache, Observer
from coe.gateway.metrics import Metrics
from coe.observe.capture import MAX_ANSWER_BYTES, CapturedExchange, Recorder, open_recorder
from coe.observe.otel import RequestTracer, open_tracer
from coe.pipeline.feedback import FeedbackRecorder, open_feedback
from coe.registry.schema import Registry
from coe.registry.service_settings import State
from coe.state.memory import MemoryStore
from coe.state.redis_store import RedisStore
from coe.state.store import Store


@dataclass(frozen=True)
class Middlewares:
    """What a registry asks for, opened. ``store`` is closed at the end."""

    access: AccessControl
    store: Store
    cache: ResponseCache | NoCache
    feedback: FeedbackRecorder
    observers: tuple[Observer, ...] = ()
    tracer: RequestTracer | None = None
    keys: KeysFile | None = None

    def show_in(self, metrics: Metrics) -> None:
        """Have the numbers of all parts shown."""
        access, cache = self.access, self.cache
        metrics.watch(
            "state_failures",
            "Failed calls of the shared state.",
            "user",
            lambda: {"limits": access.down, "cache": cache.down},
        )
        metrics.watch("cache_lookups", "Lookups of the response cache.", "result", lambda: cache.lookups)
        for observer in self.observers:
            observer.show_in(metrics)
        if (keys := self.keys) is not None:
            metrics.watch("keys_edits", "Edits of the keys file.", "result", lambda: keys.edits)
            metrics.watch_gauge("keys_stale", "1 while the keys file is refused.", lambda: float(keys.stale))

    def start(self) -> None:
        """From now on edits of the keys file count, and usage is saved. Needs the service's event loop;
        idempotent."""
        self.store.start()
        if self.keys is not None:
            self.keys.start(self.access.change_keys)

    async def close(self) -> None:
        if self.keys is not None:
            self.keys.close()
        for observer in self.observers:
            await off_the_loop(observer.close)
        await self.store.close()
        if self.tracer is not None:
            await off_the_loop(self.tracer.close)


class RatedAnswers(Observer):
    """Remembers answers, so that clients can rate them."""

    def __init__(self, feedback: FeedbackRecorder) -> None:
        self._feedback = feedback

    async def completed(self, done: Completion) -> None:
        if done.receipt is not None:
            self._feedback.counts.answered(done.receipt, done.exchange.completion)

    def close(self) -> None:
        self._feedback.close()


class Capture(Observer):
    """Records prompts and answers, where the client does not forbid it."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def begun(self, done: Completion) -> None:
        if self._recorder.wants(done.request):
            done.sent = done.exchange.record_sent(MAX_ANSWER_BYTES)

    async def completed(self, done: Completion) -> None:
        if done.sent is not None:
            self._recorder.take(
                CapturedExchange(done.request, done.caller.id, done.receipt, bytes(done.sent), done.failed)
            )

    def show_in(self, metrics: Metrics) -> None:
        recorder = self._recorder
        metrics.watch("records", "Requests in the record of prompts.", "result", lambda: recorder.results)

    def close(self) -> None:
        self._recorder.close()


class CacheFiller(Observer):
    """Stores answers that may be given again."""

    def __init__(self, cache: ResponseCache) -> None:
        self._cache = cache

    async def completed(self, done: Completion) -> None:
        if done.cache_key is not None and done.body is not None:
            await self._cache.put(done.cache_key, done.body)


def without_access() -> Middlewares:
    """Everybody may come, and nothing is stored."""
    store = MemoryStore()
    return Middlewares(AccessControl(None, store), store, NoCache(), open_feedback(None, Path()))


def build_middlewares(registry: Registry, root: Path, feedback: FeedbackRecorder) -> Middlewares:
    """Blocking: reads the keys file and what the keys have used. Raises ConfigError."""
    store = open_store(registry.state)
    access, observe = registry.access, registry.observe
    keys = KeysFile(path_in(root, access.keys_file)) if access.keys_file else None
    if keys is not None and isinstance(store, MemoryStore):
        store.keep_totals(path_in(root, access.usage_file))
    control = AccessControl(keys.ring if keys else None, store, access.when_down)
    cache: ResponseCache | NoCache = NoCache()
    observers: list[Observer] = [RatedAnswers(feedback)] if registry.feedback else []
    if observe.capture is not None:
        observers.append(Capture(open_recorder(observe.capture, root)))
    if (settings := registry.cache) is not None:
        cache = ResponseCache(store, settings.ttl_s, settings.rephrased)
        observers.append(CacheFiller(cache))
    return Middlewares(control, store, cache, feedback, tuple(observers), open_tracer(observe.traces), keys)


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
