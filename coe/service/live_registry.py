"""A running service follows experts.yaml: each valid edit becomes a generation, a bad one is refused.

:class:`LiveRegistry` is the one owner of the change from a generation to the next, whoever asks for it: the
watcher of the file, the admin API, a rollback.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from coe.core import files
from coe.core.errors import BadRequest, CoeError, ConfigError
from coe.core.files import off_the_loop, write_atomically
from coe.core.types import ExpertId
from coe.pipeline.generation import Generation, Generations
from coe.registry.changes import changes, needs_restart
from coe.registry.edit import Edit
from coe.registry.errors import Issue
from coe.registry.history import Circumstances, History
from coe.registry.load import hosts_of, without_host
from coe.registry.schema import Registry
from coe.registry.source import parse_source, read_text
from coe.scheduler.events import HostId
from coe.service.build_generation import GenerationBuilder
from coe.service.registry_file import log_warnings, parse_registry

log = logging.getLogger(__name__)

AS_IT_IS = Circumstances()
"""Experts stay where they are, and the reason of a generation is what changed."""

Faults = Callable[[Registry, Registry], Iterable[Issue]]
"""What keeps a service from going over from the first registry to the second. Blocking."""


@dataclass(frozen=True)
class RegistryFile:
    """experts.yaml as the service was started with it. ``adjust`` lays the command line over it."""

    path: Path
    text: str
    adjust: Callable[[Registry], Registry] = lambda registry: registry

    def registry(self, text: str | None = None, former: Mapping[ExpertId, HostId] | None = None) -> Registry:
        """Of ``text``, or of the file as it was; experts without a host stay where they were (``former``).
        Pure; raises RegistryError."""
        return self.adjust(parse_registry(self.text if text is None else text, self.path, former))


@dataclass(frozen=True)
class Refusal:
    """The last edit that was refused and not mended since. ``at``: Unix time in seconds."""

    at: float
    message: str
    hint: str | None


class Service(Protocol):
    """What follows the registry."""

    @property
    def generations(self) -> Generations: ...

    async def switch(self, generation: Generation) -> None:
        """Go over to ``generation`` and publish it. Raises ConfigError, with nothing changed."""
        ...


class LiveRegistry:
    """Changes of generation, one at a time. Use from one event loop."""

    def __init__(
        self,
        file: RegistryFile,
        service: Service,
        builder: GenerationBuilder,
        history: History,
        faults: Faults,
    ) -> None:
        self.path = file.path
        self.history = history
        self.refusal: Refusal | None = None
        self._file, self._service, self._builder, self._faults = file, service, builder, faults
        self._text = file.text
        self._on_change: list[Callable[[], None]] = []
        self._first = service.generations.current.registry
        # Invariant: the text, the file and the current generation change together.
        self._changing = asyncio.Lock()

    @property
    def text(self) -> str:
        """Of the current generation."""
        return self._text

    @property
    def number(self) -> int:
        """Of the current generation."""
        return self._service.generations.current.number

    def on_change(self, call: Callable[[], None]) -> None:
        """Have ``call`` called after each change."""
        self._on_change.append(call)

    @property
    def needs_restart(self) -> tuple[str, ...]:
        """Settings that were changed and that count only after a restart."""
        return needs_restart(self._first, self._service.generations.current.registry)

    async def run(self, watch: bool = True) -> None:
        """Keep the first generation in the history, then watch the file until cancelled."""
        await off_the_loop(log_warnings, self._text, self.path)
        await self._keep(self._service.generations.current, self._text)
        if watch:
            await files.watch(self.path, self._take_up, also=self._inputs)

    async def reload(self) -> Generation:
        """Take up the file and the profiles as they are now. Raises ConfigError, and then the present
        generation stays."""
        async with self._changing:
            try:
                text = await off_the_loop(read_text, self.path)
                registry = self._service.generations.current.registry
                if text != self._text or await off_the_loop(self._builder.is_outdated, registry):
                    await self._accept(text)
                self.refusal = None
            except ConfigError as error:
                self._refuse(error, str(self.path))
                raise
            return self._service.generations.current

    async def edit(self, change: Edit, number: int = 0, wanted: Circumstances = AS_IT_IS) -> Generation:
        """Change the file and the service together; the next generation, or ``number`` if that is later.
        Experts without a host stay where ``wanted`` does not name another. Raises CoeError, and then neither
        has changed."""
        async with self._changing:
            old = await off_the_loop(read_text, self.path)
            new = await off_the_loop(change, old)
            if new != old or old != self._text or self._moves(wanted):
                await self._accept(new, wanted, replaces=old, number=number)
                self.refusal = None
            return self._service.generations.current

    async def move(self, of: Generation, wanted: Circumstances) -> bool:
        """Experts for which the file names no host go to those that are ``wanted``: the next generation; the
        file stays as it is. False where ``of`` is not the current one any more. Raises CoeError, and then all
        stay."""
        async with self._changing:
            if self._service.generations.current is not of:
                return False
            await self._accept(self._text, wanted)
            return True

    async def without_host(self) -> frozenset[ExpertId]:
        """Experts of the current generation for which its text names no host."""
        return await off_the_loop(without_host, self._text, self.path)

    async def take_over(self, text: str, number: int) -> Generation:
        """:meth:`edit` to the text that other services serve under ``number``. What is refused shows."""
        try:
            return await self.edit(lambda _: text, number)
        except ConfigError as error:
            self._refuse(error, f"the shared registry {number}")
            raise

    def forget_refusal(self) -> None:
        """What was refused is wanted no more."""
        self.refusal = None

    async def check(self, change: Edit) -> Registry:
        """The registry that :meth:`edit` would give. Changes nothing; raises as it does."""
        old = self._service.generations.current.registry
        return await off_the_loop(lambda: self._valid(change(read_text(self.path)), old))

    async def rollback(self, number: int) -> Generation:
        """Make an earlier generation a new one: its text, and its experts where they were. Raises CoeError as
        :meth:`edit` does."""
        entry = await off_the_loop(self.history.entry, number)
        then = await off_the_loop(lambda: entry.circumstances)
        wanted = Circumstances(f"back to generation {number}", then.hosts)
        return await self.edit(lambda _: entry.text, wanted=wanted)

    def _inputs(self) -> object:
        return self._builder.inputs(self._service.generations.current.registry)

    async def _take_up(self) -> None:
        try:
            await self.reload()
        except ConfigError:
            pass  # It was logged, and shows in the status.
        except Exception:
            log.exception("taking up %s failed unexpectedly", self.path)

    def _moves(self, wanted: Circumstances) -> bool:
        """Whether an expert of the current generation is elsewhere."""
        present = hosts_of(self._service.generations.current.registry)
        return any(wanted.hosts.get(expert, host) != host for expert, host in present.items())

    async def _accept(
        self, text: str, wanted: Circumstances = AS_IT_IS, replaces: str | None = None, number: int = 0
    ) -> None:
        """``replaces``: the text that is in the file and gives way to ``text``."""
        old = self._service.generations.current
        generation = await off_the_loop(self._prepare, text, old, number, wanted)
        if replaces is not None:
            await off_the_loop(_replace, self.path, replaces, text)
        try:
            await self._service.switch(generation)
        except BaseException:
            if replaces is not None:
                with contextlib.suppress(BadRequest):  # somebody has edited it since: theirs stays
                    await off_the_loop(_replace, self.path, text, replaces)
            raise
        self._text = text
        log.info("generation %d: %s", generation.number, generation.reason)
        if self.needs_restart:
            log.warning("these changes take effect after a restart: %s", ", ".join(self.needs_restart))
        for call in self._on_change:
            call()
        await self._keep(generation, text)

    def _valid(self, text: str, old: Registry, wanted: Circumstances = AS_IT_IS) -> Registry:
        registry = self._file.registry(text, {**hosts_of(old), **wanted.hosts})
        parse_source(text, self.path).refuse(self._faults(old, registry))
        return registry

    def _prepare(self, text: str, old: Generation, number: int, wanted: Circumstances) -> Generation:
        registry = self._valid(text, old.registry, wanted)
        if text != self._text:
            log_warnings(text, self.path)
        number = max(number, old.number + 1)
        generation = self._builder.build(registry, number, _left(old, registry, number))
        same = text == self._text and not wanted.reason
        reason = (
            "profiles or files that routers read were changed" if same else changes(old.registry, registry)
        )
        return replace(generation, reason=wanted.reason or reason)

    async def _keep(self, generation: Generation, text: str) -> None:
        circumstances = Circumstances(generation.reason, hosts_of(generation.registry))
        try:
            await off_the_loop(self.history.add, generation.number, text, circumstances)
        except OSError as error:
            log.warning("generation %d could not be saved in the history: %s", generation.number, error)

    def _refuse(self, error: CoeError, what: str) -> None:
        number = self._service.generations.current.number
        log.warning(
            "%s was refused, generation %d keeps serving: %s (%s)", what, number, error.message, error.hint
        )
        self.refusal = Refusal(time.time(), error.message, error.hint)


def _replace(path: Path, old: str, new: str) -> None:
    if read_text(path) != old:
        raise BadRequest(
            f"{path} was changed by someone else at the same time",
            code="registry_changed",
            hint="Look at the file, then try again.",
        )
    if new == old:
        return
    try:
        write_atomically(path, new)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror or error}",
            code="registry_not_writable",
            hint="Let the service write that file and its folder (in a container mount the folder, not the "
            "file), or edit it where it comes from.",
        ) from error


def _left(old: Generation, new: Registry, number: int) -> dict[ExpertId, int]:
    """Experts that are gone, and since when."""
    gone = {expert.id: number for expert in old.registry.experts} | dict(old.left)
    return {expert: since for expert, since in gone.items() if new.expert(expert) is None}
