"""The slot: one vLLM process whose weights are replaced in place (``swap: in_place``)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from coe.engines.canary import PROMPT, Fingerprint, read_canary
from coe.engines.checkpoint import Checkpoint, ModelSource, resolve_model, same_weights
from coe.engines.launch import VLLM, vllm_launch
from coe.engines.server import VllmServer
from coe.errors import EngineError
from coe.registry.models import Expert, VllmHost
from coe.types import EngineAnswer, EngineCall, EngineStats, ExpertId

LOG = logging.getLogger(__name__)

FAILURES_BEFORE_RESTART = 2
"""Swaps that fail in a row before the process is replaced: vLLM may be in a state no reload mends."""


class InPlaceEngine:
    """Experts of one architecture that take turns in one vLLM process (:class:`coe.types.Engine`).

    The first expert comes with the process, the others by reload (well under 2 s for small models on
    a CPU). After a failed, cancelled or doubtful load the weights count as unknown: the next
    ``ensure_ready`` loads again, and restarts the process when it is gone or keeps failing.
    """

    def __init__(
        self, host: VllmHost, experts: Sequence[Expert], root: Path, *, program: tuple[str, ...] = VLLM
    ) -> None:
        self.id = host.id
        self._host, self._root, self._program = host, root, program
        self._experts = {expert.id: expert for expert in experts}
        self._swapping = len({expert.model for expert in experts}) > 1
        self._server: VllmServer | None = None
        self._watch: asyncio.Task[None] | None = None
        self._started_with: Checkpoint | None = None
        self._loaded: str | None = None  # the checkpoint that is in the process and was proven right
        self._awake: ExpertId | None = None
        self._seen: dict[str, Fingerprint] = {}
        self._failures = 0
        self._swaps = 0
        self._state = EngineStats("stopped").state
        self._last_error: str | None = None
        # Invariant: at most one start, swap or stop at a time. The pool is the only caller, but a call
        # that it gave up on may still be resuming generation when the next one comes.
        self._moving = asyncio.Lock()

    async def start(self) -> None:
        async with self._moving:
            if not self._alive:
                await self._boot(self._first_usable())

    async def ensure_ready(self, expert: ExpertId) -> None:
        async with self._moving:
            spec = self._spec(expert)
            source = self._admit(spec)
            if self._alive and self._failures >= FAILURES_BEFORE_RESTART and self._host.url is None:
                await self._shut("failed")
            if not self._alive:
                await self._boot(spec)
            elif self._loaded != source.name:
                await self._swap(spec, source)
            self._awake = expert

    async def sleep(self, expert: ExpertId, level: int = 1) -> None:  # noqa: ARG002
        """Nothing to free: the weights stay until others replace them, so waking costs nothing."""
        if self._awake == expert:
            self._awake = None

    async def ask(self, expert: ExpertId, call: EngineCall) -> EngineAnswer:
        if self._server is None or not self._alive or self._awake != expert:
            raise EngineError(f"{expert} is not ready on {self.id}.", code="expert_not_ready")
        return await self._server.ask(call, expert)

    async def stop(self) -> None:
        async with self._moving:
            await self._shut("stopped")

    def stats(self) -> EngineStats:
        awake = (self._awake,) if self._awake is not None and self._alive else ()
        state = "failed" if self._state == "ready" and not self._alive else self._state
        return EngineStats(state, awake, self._swaps, self._last_error)

    @property
    def _alive(self) -> bool:
        return self._server is not None and self._server.alive

    def _spec(self, expert: ExpertId) -> Expert:
        if expert not in self._experts:
            raise EngineError(f"{self.id} has no expert {expert!r}.", code="expert_unknown")
        return self._experts[expert]

    def _first_usable(self) -> Expert:
        """The first expert whose checkpoint is good: a bad one must not keep the others from starting."""
        first_error: EngineError | None = None
        for spec in self._experts.values():
            try:
                self._admit(spec)
                return spec
            except EngineError as error:
                LOG.warning("%s: %s", spec.id, error.message)
                first_error = first_error or error
        raise first_error or EngineError(f"{self.id} has no experts.")

    def _admit(self, spec: Expert) -> ModelSource:
        """Where the expert's checkpoint is. Raises EngineError when this slot must not load it."""
        source = resolve_model(spec.model, self._root)
        if source.folder is not None:
            checkpoint = Checkpoint.read(source.folder)
            if self._swapping:
                checkpoint.require_swappable()
            if self._alive and self._started_with is not None:
                checkpoint.require_like(self._started_with)
        return source

    async def _boot(self, spec: Expert) -> None:
        await self._shut("starting")
        source = resolve_model(spec.model, self._root)
        async with self._loading(spec, source):
            if self._host.url is not None:
                await self._join(spec, source, self._host.url)
            else:
                self._server = await self._launch(source)
                self._watch = asyncio.create_task(self._watch_process(self._server))
            self._started_with = Checkpoint.read(source.folder) if source.folder else None
            await self._prove(source)
        self._state = "ready"

    async def _launch(self, source: ModelSource) -> VllmServer:
        name = f"coe-{self.id}"
        LOG.info("%s: starting vLLM with %s", self.id, source.name)
        return await VllmServer.launch(
            name,
            lambda socket: vllm_launch(self._host, source, name=name, socket=socket, program=self._program),
            self._root / "var" / "log" / f"{self.id.replace('/', '_')}.log",
            self._host.start_timeout_s,
        )

    async def _join(self, spec: Expert, source: ModelSource, url: str) -> None:
        """Use the server at ``url``. Alone on it, the expert must be what it serves; else load it."""
        self._server = await VllmServer.connect(f"the server at {url}", url)
        served = await self._server.models()
        self._server.name = str(served[0]["id"])
        if self._swapping:
            # Whoever used the server before may have swapped; its model list would not say so.
            await self._server.swap_weights(source.name)
        elif not {spec.model, source.name} & {str(served[0].get(key)) for key in ("id", "root")}:
            raise EngineError(
                f"The server at {url} serves {self._server.name}, not {spec.model}.",
                hint="Correct `model` or `url` in experts.yaml.",
            )

    async def _swap(self, spec: Expert, source: ModelSource) -> None:
        server = self._server
        if server is None:
            raise EngineError(f"{self.id} is not started.")
        async with self._loading(spec, source):
            async with asyncio.timeout(self._host.start_timeout_s):
                await server.swap_weights(source.name)
            await self._prove(source)
        self._swaps += 1

    @asynccontextmanager
    async def _loading(self, spec: Expert, source: ModelSource) -> AsyncIterator[None]:
        """Until it ends well, no weights are trusted: also after a cancellation in the middle."""
        self._loaded = self._awake = None
        try:
            yield
        except (EngineError, TimeoutError) as error:
            self._failures += 1
            failure = self._explain(spec, error)
            self._last_error = failure.message
            if not self._alive:
                self._state = "failed"
            raise failure from error
        self._loaded, self._failures, self._last_error = source.name, 0, None

    def _explain(self, spec: Expert, error: EngineError | TimeoutError) -> EngineError:
        if isinstance(error, TimeoutError):
            return EngineError(
                f"{self.id}: loading {spec.id} took longer than {self._host.start_timeout_s:g} s.",
                hint="Raise start_timeout_s of the host in experts.yaml.",
            )
        return EngineError(f"{self.id}: {spec.id}: {error.message}", code=error.code, hint=error.hint)

    async def _prove(self, source: ModelSource) -> None:
        """The canary. Raises EngineError when the loaded weights are not those of ``source``."""
        if not self._host.canary or self._server is None:
            return
        recorded = read_canary(source.folder)
        if recorded is not None:
            seen = await self._server.fingerprint(recorded.fingerprint.prompt)
            require_close(source, seen, recorded.fingerprint, recorded.tolerance)
            return
        seen = await self._server.fingerprint(PROMPT)
        before = self._seen.get(source.name)
        if before is not None:
            require_close(source, seen, before, self._tolerance)
            return
        await self._require_new(source, seen)
        self._seen[source.name] = seen

    @property
    def _tolerance(self) -> float:
        """One process answers one prompt alike, up to the rounding of its dtype and kernels."""
        return 0.001 if self._host.device == "cpu" else 0.1

    async def _require_new(self, source: ModelSource, seen: Fingerprint) -> None:
        """A first answer equal to another checkpoint's to all digits: the reload had no effect."""
        twin = next((name for name, other in self._seen.items() if other == seen), None)
        if twin is None or source.folder is None:
            return
        if not await asyncio.to_thread(same_weights, source.folder, Path(twin)):
            raise EngineError(f"the process still answers with the weights of {twin}.", code="canary_failed")

    async def _watch_process(self, server: VllmServer) -> None:
        death = await server.died()
        if self._server is server:
            self._state, self._last_error = "failed", death.message
            self._loaded = self._awake = None
            LOG.error("%s: %s", self.id, death.message)

    async def _shut(self, state: str) -> None:
        watch, self._watch = self._watch, None
        server, self._server = self._server, None
        self._loaded = self._awake = None
        if watch is not None:
            watch.cancel()
        if server is not None:
            await server.stop()
        self._failures = 0
        self._state = "starting" if state == "starting" else "failed" if state == "failed" else "stopped"


def require_close(source: ModelSource, seen: Fingerprint, expected: Fingerprint, tolerance: float) -> None:
    distance = seen.distance(expected)
    if distance > tolerance:
        raise EngineError(
            f"the canary of {source.name} failed: its answer is {distance:.3g} away from the expected one"
            f" (allowed: {tolerance:g}).",
            code="canary_failed",
            hint="The next request loads them again. If it stays so, repair the checkpoint or its canary.json.",
        )
