"""How experts join and leave a registry, whether a service runs it
(:class:`coe.service.live_registry.LiveRegistry`) or not (:class:`coe.onboarding.file_editor.FileEditor`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from coe.core.errors import BadRequest
from coe.core.files import off_the_loop
from coe.core.types import ExpertId
from coe.onboarding.protocol import Ask, Gate, Profiler, ProfileReport
from coe.registry.edit import Edit, Entry, add_experts, remove_expert, set_shadow
from coe.registry.schema import Registry


class Editor(Protocol):
    """Where experts.yaml is changed."""

    @property
    def path(self) -> Path: ...

    async def check(self, change: Edit) -> Registry:
        """The registry that ``change`` would give. Changes nothing; raises CoeError as ``edit`` does."""
        ...

    async def edit(self, change: Edit) -> object:
        """Change the file. Raises CoeError, and then nothing has changed."""
        ...


@dataclass(frozen=True)
class Onboarded:
    """How an expert was admitted. ``reasons``: sentences for people."""

    expert: ExpertId
    shadow: bool
    reasons: tuple[str, ...] = ()
    profile: ProfileReport | None = None


class Onboarding:
    """Validate, profile, gate, admit. ``profiler`` and ``ask`` are None where experts cannot be asked."""

    def __init__(
        self,
        editor: Editor,
        gate: Gate,
        profiler: Profiler | None = None,
        ask: Callable[[ExpertId], Ask] | None = None,
    ) -> None:
        self._editor, self._gate, self._profiler, self._ask = editor, gate, profiler, ask

    async def add(
        self, entries: Sequence[Entry], shadow: bool = False, profile: bool = False
    ) -> tuple[Onboarded, ...]:
        """Admit new experts, all or none: as shadows where ``shadow`` says so or the gate says no.

        With ``profile`` they join as shadows first, so that they can be asked. Raises CoeError.
        """
        path = self._editor.path
        ids = [str(entry["id"]) for entry in entries]
        registry = await self._editor.check(lambda text: add_experts(text, path, entries))
        reports: dict[ExpertId, ProfileReport] = {}
        if profile:
            self._require_profiler(registry)
            hidden = [{**entry, "shadow": True} for entry in entries]
            await self._editor.edit(lambda text: add_experts(text, path, hidden))
            for expert in ids:
                reports[expert] = await self._profile(registry, expert)
        shadows = {entry["id"] for entry in entries if shadow or entry.get("shadow") is True}
        joined = [await self._judge(registry, i, i in shadows, reports.get(i)) for i in ids]
        admitted = [_admitted(entry, each) for entry, each in zip(entries, joined, strict=True)]
        await self._editor.edit(
            lambda text: _shown(text, path, joined) if profile else add_experts(text, path, admitted)
        )
        return tuple(joined)

    async def remove(self, expert: ExpertId) -> None:
        await self._editor.edit(lambda text: remove_expert(text, self._editor.path, expert))

    async def profile(self, expert: ExpertId) -> Onboarded:
        """Profile an expert that is here. A shadow is then judged by the gate, and routed to if it passes."""
        path = self._editor.path
        registry = await self._editor.check(lambda text: set_shadow(text, path, expert, False))
        self._require_profiler(registry)
        report = await self._profile(registry, expert)
        joined = await self._judge(registry, expert, False, report)
        await self._editor.edit(lambda text: _shown(text, path, [joined]))
        return joined

    def _require_profiler(self, registry: Registry) -> None:
        if self._profiler is None or self._ask is None:
            raise BadRequest(
                "experts cannot be profiled here",
                code="no_profiler",
                hint="Leave `profile` out, and build the profile from outcomes with `coe experts profile`.",
            )
        self._profiler.require(registry)

    async def _profile(self, registry: Registry, expert: ExpertId) -> ProfileReport:
        if self._profiler is None or self._ask is None:
            raise ValueError("no profiler")
        return await self._profiler.profile(registry, expert, self._ask(expert))

    async def _judge(
        self, registry: Registry, expert: ExpertId, shadow: bool, profile: ProfileReport | None
    ) -> Onboarded:
        if shadow:
            return Onboarded(expert, True, (f"{expert} was added as a shadow, as requested",), profile)
        report = await off_the_loop(self._gate.check, registry, expert)
        return Onboarded(expert, not report.admit, report.reasons, profile)


def _admitted(entry: Entry, joined: Onboarded) -> Entry:
    return {**entry, "shadow": True} if joined.shadow else entry


def _shown(text: str, path: Path, joined: Sequence[Onboarded]) -> str:
    for each in joined:
        text = set_shadow(text, path, each.expert, each.shadow)
    return text
