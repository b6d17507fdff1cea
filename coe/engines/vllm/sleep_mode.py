"""One vLLM process for each expert, put to sleep and woken (``swap: sleep``; made for GPUs).

On a CPU vLLM answers the same endpoints and frees nothing: there it is the protocol only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from coe.core.errors import EngineError
from coe.core.files import off_the_loop
from coe.core.types import EngineAnswer, EngineCall, EngineStats, ExpertId, ExpertSpec
from coe.engines.address import Address
from coe.engines.base import Setting
from coe.engines.experts import Experts
from coe.engines.vllm.canary import Canaries
from coe.engines.vllm.checkpoint import ModelSource, resolve_model
from coe.engines.vllm.launch import VLLM, log_path, vllm_launch
from coe.engines.vllm.lifecycle import Lifecycle
from coe.engines.vllm.read_ahead import ReadAhead
from coe.engines.vllm.server import VllmServer
from coe.registry.hosts import VllmHost

WEIGHTS_DROPPED = 2
"""The sleep level that frees the weights also in RAM, so that waking reads them from disk again."""


@dataclass
class _Place:
    """One expert's process, started with ``source``. ``asleep`` is the level it sleeps at, ``None`` when
    awake or not running; ``proven`` is false while its weights are not known to be right."""

    life: Lifecycle
    source: ModelSource | None = None
    asleep: int | None = None
    proven: bool = False
    # Invariant: at most one transition of this process at a time.
    moving: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def awake(self) -> bool:
        return self.life.alive and self.asleep is None and self.proven


class SleepEngine:
    """Experts with a process each; the pool decides who is awake (:class:`coe.core.types.Engine`).

    A process is started when its expert is first wanted. Sleeping with ``host.sleep_level`` or the level
    given keeps it; one that failed a load or a canary is replaced by a new one.
    """

    options_type: ClassVar[type[VllmHost]] = VllmHost

    @classmethod
    def build(cls, name: str, options: VllmHost, setting: Setting) -> SleepEngine:  # noqa: ARG003
        return cls(options, setting.experts, setting.root)

    def __init__(
        self, host: VllmHost, experts: Sequence[ExpertSpec], root: Path, *, program: tuple[str, ...] = VLLM
    ) -> None:
        self.id = host.id
        self._host, self._root, self._program = host, root, program
        self._experts = Experts(host.id, experts)
        self._places = {expert.id: self._place(expert.id) for expert in experts}
        self._canaries = Canaries(tolerance=0.001 if host.device == "cpu" else 0.1)
        self._ahead = ReadAhead()
        self._open = False
        self._swaps = 0
        self._last_error: str | None = None

    async def start(self) -> None:
        self._open = True

    async def ensure_ready(self, expert: ExpertId) -> None:
        spec, place = self._experts[expert], self._places[expert]
        async with place.moving:
            if place.awake:
                return
            try:
                with place.life.moving():
                    await self._raise_up(spec, place)
            except (EngineError, TimeoutError) as error:
                cause = await place.life.cause(error)
                failure = self._experts.load_failed(expert, cause, self._host.start_timeout_s)
                self._last_error = failure.message
                await place.life.stop()
                place.life.failed(failure)
                raise failure from error
        self._swaps += 1

    async def sleep(self, expert: ExpertId, level: int = 1) -> None:
        """``level`` 1 keeps the weights in RAM, 2 drops them. One that sleeps at level 1 and is told 2 ends
        with its process; else one that sleeps stays as it is.
        The process of an expert that this host no longer has is stopped."""
        place = self._places[self._experts[expert].id]
        async with place.moving:
            if self._experts.leaving(expert):
                await self._end(place)
            elif place.awake:
                place.asleep = level  # before the call: one that is cut off may have worked
                proven, place.proven = place.proven, False  # who was not told so is not woken, but replaced
                with place.life.moving():
                    await place.life.server.sleep(level)
                place.proven = proven
            elif place.asleep is not None and place.asleep < level:
                await self._end(place)  # vLLM cannot go from one level to the other

    async def prefetch(self, expert: ExpertId) -> None:
        """The weight files come into the page cache, from which the expert's new process then reads them."""
        spec = self._experts[expert]
        await self._ahead.read(expert, await off_the_loop(self._source, spec))

    def release(self, expert: ExpertId) -> None:
        self._ahead.drop(expert)

    async def set_experts(self, experts: Sequence[ExpertSpec]) -> None:
        """Processes that nobody will wake again are stopped in passing."""
        self._experts.set_experts(experts)
        for expert in experts:
            self._places.setdefault(expert.id, self._place(expert.id))
        for expert_id, place in self._places.items():
            if self._experts.leaving(expert_id) and not place.awake and not place.moving.locked():
                await self._stop(place)

    async def ask(self, expert: ExpertId, call: EngineCall) -> EngineAnswer:
        return await self._awake(expert).ask(call, expert)

    def address(self, expert: ExpertId) -> Address:
        return self._awake(expert).address()

    async def stop(self) -> None:
        self._open = False
        await asyncio.gather(*(self._stop(place) for place in self._places.values()))

    def stats(self) -> EngineStats:
        awake = tuple(expert for expert, place in self._places.items() if place.awake)
        errors = [place.life.last_error for place in self._places.values() if place.life.last_error]
        return EngineStats(
            "ready" if self._open else "stopped",
            awake,
            self._swaps,
            errors[-1] if errors else self._last_error,
            reads_ahead=self._ahead.count,
        )

    def _place(self, expert: ExpertId) -> _Place:
        return _Place(Lifecycle(expert, self._host.silence_timeout_s))

    def _awake(self, expert: ExpertId) -> VllmServer:
        """A request to a sleeping vLLM hangs until it wakes: it must never be sent."""
        place = self._places.get(expert)
        if place is None or not place.awake:
            raise self._experts.not_ready(expert)
        return place.life.server

    async def _stop(self, place: _Place) -> None:
        async with place.moving:
            await self._end(place)

    async def _end(self, place: _Place) -> None:
        place.asleep, place.proven = None, False
        await place.life.stop()

    def _source(self, spec: ExpertSpec) -> ModelSource:
        return resolve_model(spec.model, self._root, elsewhere=self._host.url is not None)

    async def _raise_up(self, spec: ExpertSpec, place: _Place) -> None:
        """Cold or asleep to awake, then the canary."""
        source = await off_the_loop(self._source, spec)
        level, trusted = place.asleep, place.proven
        # Until the canary has answered: what is cut off on the way is started anew and not woken.
        place.proven = False
        if place.life.alive and trusted and place.source == source:
            async with asyncio.timeout(self._host.start_timeout_s):
                await self._wake(place, level)
        else:
            await place.life.boot(lambda: self._connect(spec, source), self._host.start_timeout_s)
            place.asleep, place.source = None, source
        if self._host.canary:
            await self._canaries.prove(source, place.life.server.fingerprint)
        place.proven = True
        place.life.healthy()

    async def _wake(self, place: _Place, level: int | None) -> None:
        # In this order: a process that sleeps has no memory to load weights into.
        await place.life.server.wake()
        if level == WEIGHTS_DROPPED:
            await place.life.server.reload_weights()
        place.asleep = None

    async def _connect(self, spec: ExpertSpec, source: ModelSource) -> VllmServer:
        if self._host.url is not None:
            server = await VllmServer.connect(self._host.url)
            await server.require_serving({spec.model, source.name})
            return server
        name = f"coe-{spec.id}"
        return await VllmServer.launch(
            name,
            lambda socket: vllm_launch(self._host, source, name=name, socket=socket, program=self._program),
            log_path(self._root, f"{self.id}-{spec.id}"),
        )
