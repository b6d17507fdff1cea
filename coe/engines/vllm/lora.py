"""LoRA adapters on one base model, loaded and dropped at run time by one vLLM process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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
from coe.engines.vllm.checkpoint import ModelSource, resolve_adapter, resolve_model
from coe.engines.vllm.launch import VLLM, log_path, vllm_launch
from coe.engines.vllm.lifecycle import Lifecycle
from coe.engines.vllm.server import VllmServer
from coe.registry.hosts import AdapterHost


class AdapterEngine:
    """Experts that are a base model plus a PEFT adapter, or the base alone (:class:`coe.core.types.Engine`).

    Several are awake together; loading one takes tens of milliseconds. An adapter's name in vLLM is its
    expert's id.
    """

    options_type: ClassVar[type[AdapterHost]] = AdapterHost

    @classmethod
    def build(cls, name: str, options: AdapterHost, setting: Setting) -> AdapterEngine:  # noqa: ARG003
        return cls(options, setting.experts, setting.root)

    def __init__(
        self, host: AdapterHost, experts: Sequence[ExpertSpec], root: Path, *, program: tuple[str, ...] = VLLM
    ) -> None:
        self.id = host.id
        self._host, self._root, self._program = host, root, program
        self._experts = Experts(host.id, experts)
        self._canaries = Canaries(tolerance=0.001 if host.device == "cpu" else 0.1)
        self._life = Lifecycle(host.id, host.silence_timeout_s)
        self._awake: dict[ExpertId, ExpertSpec] = {}  # as they were loaded: their entries may change
        self._doubtful: set[ExpertId] = set()  # a load or unload of these was cut off or failed
        self._swaps = 0
        # Invariant: at most one start, load, unload or stop at a time: they share one process.
        self._moving = asyncio.Lock()

    async def start(self) -> None:
        async with self._moving:
            await self._require_process()

    async def ensure_ready(self, expert: ExpertId) -> None:
        async with self._moving:
            spec = self._experts[expert]
            source = await off_the_loop(self._admit, spec)
            await self._require_process()
            if expert in self._awake:
                return
            try:
                async with asyncio.timeout(self._host.start_timeout_s):
                    with self._life.moving():
                        await self._load(spec, source)
            except (EngineError, TimeoutError) as error:
                cause = await self._life.cause(error)
                failure = self._experts.load_failed(expert, cause, self._host.start_timeout_s)
                if isinstance(error, TimeoutError) or error.code == SILENT:
                    await self._life.end_if_silent()
                self._life.failed(failure)
                raise failure from error
            self._awake[expert] = spec
            self._swaps += 1
            self._life.healthy()

    async def sleep(self, expert: ExpertId, level: int = 1) -> None:  # noqa: ARG002
        """Unloads the adapter; the base is never unloaded."""
        async with self._moving:
            # Before the unload: no request is passed to an adapter that leaves.
            spec = self._awake.pop(expert, None)
            if spec is not None and self._life.alive:
                await self._unload(spec)

    async def set_experts(self, experts: Sequence[ExpertSpec]) -> None:
        self._experts.set_experts(experts)

    async def ask(self, expert: ExpertId, call: EngineCall) -> EngineAnswer:
        spec = self._awake.get(expert)
        if spec is None:
            raise self._experts.not_ready(expert)
        return await self._life.server.ask(call, expert, self._model(spec))

    def address(self, expert: ExpertId) -> Address:
        if expert not in self._awake:
            raise self._experts.not_ready(expert)
        return self._life.server.address(self._model(self._experts[expert]))

    async def stop(self) -> None:
        async with self._moving:
            self._awake.clear()
            await self._life.stop()

    def stats(self) -> EngineStats:
        awake = tuple(self._awake) if self._life.alive else ()
        return EngineStats(self._life.state, awake, self._swaps, self._life.last_error)

    def _model(self, spec: ExpertSpec) -> str | None:
        """The model name to ask vLLM for: the adapter's, or ``None`` for the base."""
        return spec.id if spec.adapter else None

    def _admit(self, spec: ExpertSpec) -> ModelSource:
        """Where the expert's weights are. Raises EngineError when they do not belong on this host."""
        source, base = self._resolve(spec.model), self._resolve(self._host.base)
        if source != base:
            raise EngineError(
                f"{self.id}: {spec.id} has the model {spec.model}, but the base of its host is"
                f" {self._host.base}.",
                hint="Write the same folder as `model` of the expert and `base` of the host.",
            )
        if spec.adapter is None:
            return source
        return resolve_adapter(spec.adapter, self._root, self._host.max_rank)

    def _resolve(self, model: str) -> ModelSource:
        return resolve_model(model, self._root, elsewhere=self._host.url is not None)

    async def _require_process(self) -> None:
        if self._life.alive:
            return
        self._awake.clear()
        self._doubtful.clear()
        try:
            await self._life.boot(self._connect, self._host.start_timeout_s)
        except EngineError as error:
            self._life.failed(error)
            raise

    async def _connect(self) -> VllmServer:
        base = await off_the_loop(self._resolve, self._host.base)
        if self._host.url is not None:
            return await self._join(self._host.url)
        name = f"coe-{self.id}"
        return await VllmServer.launch(
            name,
            lambda socket: vllm_launch(self._host, base, name=name, socket=socket, program=self._program),
            log_path(self._root, self.id),
        )

    async def _join(self, url: str) -> VllmServer:
        """A server that runs already may hold adapters under our names: they count as doubtful."""
        server = await VllmServer.connect(url)
        held = {str(model["id"]) for model in await server.models()}
        self._doubtful = {spec.id for spec in self._experts if spec.adapter and spec.id in held}
        return server

    async def _load(self, spec: ExpertSpec, source: ModelSource) -> None:
        model = self._model(spec)
        if model is not None and source.folder is not None:
            if spec.id in self._doubtful:
                await self._forget(spec)
            # Before the call: one that is cut off may have worked.
            self._doubtful.add(spec.id)
            await self._life.server.load_adapter(model, source.folder)
        await self._canaries.prove(source, lambda prompt: self._life.server.fingerprint(prompt, model))
        self._doubtful.discard(spec.id)

    async def _unload(self, spec: ExpertSpec) -> None:
        if self._model(spec) is not None:
            self._doubtful.add(spec.id)
            await self._life.server.unload_adapter(spec.id)
            self._doubtful.discard(spec.id)

    async def _forget(self, spec: ExpertSpec) -> None:
        """Unload what may or may not be there."""
        held = {str(model["id"]) for model in await self._life.server.models()}
        if spec.id in held:
            await self._life.server.unload_adapter(spec.id)
