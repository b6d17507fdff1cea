"""The slot: one vLLM process whose weights are replaced in place (``swap: in_place``)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

from coe.core.errors import EngineError
from coe.core.files import off_the_loop
from coe.core.types import EngineAnswer, EngineCall, EngineStats, ExpertId, ExpertSpec
from coe.engines.address import Address
from coe.engines.base import Setting
from coe.engines.experts import Experts
from coe.engines.http import SILENT
from coe.engines.vllm.canary import Canaries
from coe.engines.vllm.checkpoint import Checkpoint, ModelSource, resolve_model
from coe.engines.vllm.launch import VLLM, log_path, vllm_launch
from coe.engines.vllm.lifecycle import Lifecycle
from coe.engines.vllm.read_ahead import ReadAhead
from coe.engines.vllm.server import VllmServer
from coe.registry.hosts import VllmHost

LOG = logging.getLogger(__name__)

FAILURES_BEFORE_RESTART = 2
"""Loads that fail in a row before the process is replaced: vLLM may be in a state no reload mends."""


class InPlaceEngine:
    """Experts of one architecture that take turns in one vLLM process (:class:`coe.core.types.Engine`).

    The first expert comes with the process, the others by reload (well under 2 s for small models on
    a CPU). After a failed, cancelled or doubtful load the weights count as unknown: the next
    ``ensure_ready`` loads again, into a new process if the old one is gone or keeps failing.
    """

    options_type: ClassVar[type[VllmHost]] = VllmHost

    @classmethod
    def build(cls, name: str, options: VllmHost, setting: Setting) -> InPlaceEngine:  # noqa: ARG003
        return cls(options, setting.experts, setting.root)

    def __init__(
        self, host: VllmHost, experts: Sequence[ExpertSpec], root: Path, *, program: tuple[str, ...] = VLLM
    ) -> None:
        self.id = host.id
        self._host, self._root, self._program = host, root, program
        self._experts = Experts(host.id, experts)
        self._canaries = Canaries(tolerance=0.001 if host.device == "cpu" else 0.1)
        self._life = Lifecycle(host.id, host.silence_timeout_s)
        self._ahead = ReadAhead()
        self._started_with: Checkpoint | None = None
        self._taken: set[Path] = set()  # folders whose weights the process has had and was proven right with
        self._loaded: ModelSource | None = None  # what is in the process and was proven right
        self._awake: ExpertId | None = None
        self._wanted: ExpertId | None = None
        self._doubtful: set[ExpertId] = set()  # with which the last new process was none to trust
        self._failures = 0
        self._suspect = False  # a load was given up on half-way: nobody knows what the process still does
        self._swaps = 0
        # Invariant: at most one start, swap or stop at a time. The pool is the only caller, but a call
        # that it gave up on may still be resuming generation when the next one comes.
        self._moving = asyncio.Lock()

    async def start(self) -> None:
        async with self._moving:
            if not self._life.alive:
                await self._boot(await self._first())

    async def ensure_ready(self, expert: ExpertId) -> None:
        async with self._moving:
            spec, self._wanted = self._experts[expert], expert
            source = await off_the_loop(self._admit, spec)
            if not self._life.alive or self._suspect:
                await self._boot(spec)
            elif self._loaded != source:
                await (self._boot(spec) if self._replaces(source) else self._swap(spec, source))
            # Last: from here on requests are passed on.
            self._awake = expert

    async def sleep(self, expert: ExpertId, level: int = 1) -> None:  # noqa: ARG002
        """Nothing to free: the weights stay until others replace them, so waking costs nothing."""
        if self._awake == expert:
            self._awake = None

    async def prefetch(self, expert: ExpertId) -> None:
        """The weight files come into the page cache, from which the swap then reads them."""
        spec = self._experts[expert]
        await self._ahead.read(expert, await off_the_loop(self._source, spec))

    def release(self, expert: ExpertId) -> None:
        self._ahead.drop(expert)

    async def set_experts(self, experts: Sequence[ExpertSpec]) -> None:
        self._experts.set_experts(experts)

    async def ask(self, expert: ExpertId, call: EngineCall) -> EngineAnswer:
        if self._awake != expert:
            raise self._experts.not_ready(expert)
        return await self._life.server.ask(call, expert)

    def address(self, expert: ExpertId) -> Address:
        if self._awake != expert:
            raise self._experts.not_ready(expert)
        return self._life.server.address()

    async def stop(self) -> None:
        async with self._moving:
            self._loaded = self._awake = None
            await self._life.stop()

    def stats(self) -> EngineStats:
        awake = (self._awake,) if self._awake is not None and self._life.alive else ()
        state, error = self._life.state, self._life.last_error
        return EngineStats(state, awake, self._swaps, error, reads_ahead=self._ahead.count)

    @property
    def _swapping(self) -> bool:
        return len({expert.model for expert in self._experts}) > 1

    def _replaces(self, source: ModelSource) -> bool:
        """Whether the host's only checkpoint is another one than the process was started with and has had
        since: then nothing says that they can take each other's place, and a new process is needed."""
        began = self._started_with
        known = (None, began.folder if began is not None else None, *self._taken)
        return not self._swapping and began is not None and source.folder not in known

    def _first_usable(self) -> ExpertSpec:
        """The expert wanted last or the first whose checkpoint is good, those last with which the last
        process did not come up: one bad checkpoint must not keep the others from starting."""
        errors: list[EngineError] = []
        for spec in sorted(self._experts.first(self._wanted), key=lambda spec: spec.id in self._doubtful):
            try:
                self._admit(spec)
                return spec
            except EngineError as error:
                LOG.warning("%s: %s", spec.id, error.message)
                errors.append(error)
        self._life.failed(errors[0])
        raise errors[0]

    async def _first(self) -> ExpertSpec:
        try:
            async with asyncio.timeout(self._host.start_timeout_s) as limit:
                return await off_the_loop(self._first_usable)
        except TimeoutError:
            if not limit.expired():
                raise
            failure = EngineError(
                f"{self.id}: the checkpoints could not be read within {self._host.start_timeout_s:g} s.",
                hint="Does the disk with the checkpoints answer?",
            )
            self._life.failed(failure)
            raise failure from None

    def _source(self, spec: ExpertSpec) -> ModelSource:
        return resolve_model(spec.model, self._root, elsewhere=self._host.url is not None)

    def _admit(self, spec: ExpertSpec) -> ModelSource:
        """Where the expert's checkpoint is. Raises EngineError when this slot must not load it."""
        source = self._source(spec)
        if source.folder is not None:
            checkpoint = Checkpoint.read(source.folder)
            if self._swapping:
                checkpoint.require_swappable()
            if self._life.alive and self._started_with is not None and not self._replaces(source):
                checkpoint.require_like(self._started_with)
        return source

    async def _boot(self, spec: ExpertSpec) -> None:
        self._loaded = self._awake = self._started_with = None
        source = await off_the_loop(self._source, spec)
        # Before the start: a checkpoint that takes the process down is tried last the next time.
        self._doubtful.add(spec.id)
        self._taken.clear()
        async with self._loading(spec, source):
            await self._life.boot(lambda: self._connect(spec, source), self._host.start_timeout_s)
            if source.folder is not None:
                self._started_with = await off_the_loop(Checkpoint.read, source.folder)
            await self._prove(source)
        self._doubtful.discard(spec.id)

    async def _connect(self, spec: ExpertSpec, source: ModelSource) -> VllmServer:
        if self._host.url is not None:
            return await self._join(spec, source, self._host.url)
        name = f"coe-{self.id}"
        return await VllmServer.launch(
            name,
            lambda socket: vllm_launch(self._host, source, name=name, socket=socket, program=self._program),
            log_path(self._root, self.id),
        )

    async def _join(self, spec: ExpertSpec, source: ModelSource, url: str) -> VllmServer:
        """The server at ``url``. Alone on it, the expert must be what it serves; else it is loaded."""
        server = await VllmServer.connect(url)
        try:
            if self._swapping:
                # Whoever used the server before may have swapped; its model list would not say so.
                await server.swap_weights(source.name)
            else:
                await server.require_serving({spec.model, source.name})
        except BaseException:
            await server.stop()
            raise
        return server

    async def _swap(self, spec: ExpertSpec, source: ModelSource) -> None:
        async with self._loading(spec, source), asyncio.timeout(self._host.start_timeout_s):
            await self._life.server.swap_weights(source.name)
            await self._prove(source)
        self._swaps += 1

    async def _prove(self, source: ModelSource) -> None:
        if self._host.canary:
            await self._canaries.prove(source, self._life.server.fingerprint)

    @asynccontextmanager
    async def _loading(self, spec: ExpertSpec, source: ModelSource) -> AsyncIterator[None]:
        """Until it ends well, no weights are trusted: also after a cancellation in the middle."""
        # Before the first tensor moves: requests are refused, and a cancellation leaves it suspect.
        self._loaded = self._awake = None
        suspect, self._suspect = self._suspect, True
        try:
            with self._life.moving():
                yield
        except (EngineError, TimeoutError) as error:
            # A process that was too slow, or that did not answer, is not asked a second time.
            silent = isinstance(error, TimeoutError) or error.code == SILENT
            self._suspect = suspect or silent
            self._failures += FAILURES_BEFORE_RESTART if silent else 1
            cause = await self._life.cause(error)
            failure = self._experts.load_failed(spec.id, cause, self._host.start_timeout_s)
            if self._failures >= FAILURES_BEFORE_RESTART:
                await self._life.stop()
                self._failures, self._suspect = 0, False
            self._life.failed(failure)
            raise failure from error
        self._loaded, self._failures, self._suspect = source, 0, False
        if source.folder is not None:
            self._taken.add(source.folder)
        self._life.healthy()
