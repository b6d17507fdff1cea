"""What an operator can see of a running service and do to it. Answers are plain JSON-like data.

:mod:`coe.service.admin_api` puts this on HTTP.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from coe.core.errors import BadRequest, ConfigError, EngineError, UnknownModel
from coe.core.files import folder_of, off_the_loop, path_in
from coe.core.status import Status
from coe.core.suggest import suggest
from coe.core.types import ExpertId, Options, Request
from coe.onboarding.onboarding import Onboarded, Onboarding
from coe.onboarding.protocol import Ask, Gate, Profiler
from coe.pipeline import Answer
from coe.pipeline.generation import Generations
from coe.registry.edit import Entry
from coe.registry.history import Accepted, difference
from coe.registry.schema import Expert
from coe.registry.service_settings import AdminListener
from coe.service.live_registry import LiveRegistry

MIN_TOKEN_CHARS = 16
PROBE_TOKENS = 512
"""Longest answer to one question of a profile."""


class Answering(Protocol):
    """The pipeline, as far as profiling needs it."""

    async def answer(self, request: Request) -> Answer: ...


class Admin:
    """All methods raise CoeError for what cannot be done."""

    def __init__(
        self,
        live: LiveRegistry,
        generations: Generations,
        status: Status,
        pipeline: Answering,
        gate: Gate,
        profiler: Profiler | None,
    ) -> None:
        self._live, self._generations, self._status = live, generations, status
        self._onboarding = Onboarding(live, gate, profiler, lambda expert: _asker(pipeline, expert))

    def status(self) -> dict[str, Any]:
        """The generation, what it runs, and what was refused."""
        current, ready = self._generations.current, self._status.readiness()
        experts = self.experts()
        return {
            "generation": current.number,
            "accepted_at": current.created,
            "reason": current.reason,
            "ready": ready.ready,
            "reasons": list(ready.reasons),
            "refused": dataclasses.asdict(self._live.refusal) if self._live.refusal else None,
            "needs_restart": list(self._live.needs_restart),
            "queued": sum(expert["queued"] for expert in experts),
            "running": sum(expert["running"] for expert in experts),
            "engines": {name: dataclasses.asdict(stats) for name, stats in self._status.engines().items()},
            "experts": experts,
        }

    def experts(self) -> list[dict[str, Any]]:
        """Those of experts.yaml, then those that are leaving."""
        registry, live = self._generations.current.registry, self._status.experts()
        present = [self._expert(expert) for expert in registry.experts]
        leaving = [
            {"id": expert, "state": state.state, "queued": state.queued, "running": state.running}
            for expert, state in live.items()
            if registry.expert(expert) is None
        ]
        return [*present, *leaving]

    def expert(self, expert_id: ExpertId) -> dict[str, Any]:
        """Its whole entry and its state. Raises UnknownModel."""
        registry = self._generations.current.registry
        expert = registry.expert(expert_id)
        if expert is None:
            choices = [each.id for each in registry.experts]
            raise UnknownModel(f'expert "{expert_id}" does not exist; {suggest(expert_id, choices)}')
        return {**self._expert(expert), "entry": expert.model_dump(mode="json", exclude_defaults=True)}

    async def add(self, entries: Sequence[Entry], shadow: bool, profile: bool) -> dict[str, Any]:
        listener = self._generations.current.registry.service.admin
        if listener is None or not listener.any_folder:
            for entry in entries:
                _require_inside(entry, folder_of(self._live.path))
        return self._done(await self._onboarding.add(entries, shadow, profile))

    async def remove(self, expert: ExpertId) -> dict[str, Any]:
        await self._onboarding.remove(expert)
        return self._done(())

    async def profile(self, expert: ExpertId) -> dict[str, Any]:
        return self._done((await self._onboarding.profile(expert),))

    async def reload(self) -> dict[str, Any]:
        await self._live.reload()
        return self._done(())

    async def history(self, compare: int | None = None) -> dict[str, Any]:
        """The accepted generations, oldest first; with ``compare`` what differs from that one to now."""
        return await off_the_loop(self._history, compare)

    async def rollback(self, number: int) -> dict[str, Any]:
        await self._live.rollback(number)
        return self._done(())

    def _history(self, compare: int | None) -> dict[str, Any]:
        history = self._live.history
        entries = history.entries()
        listed: dict[str, Any] = {
            "current": self._generations.current.number,
            "generations": [_accepted(entry) for entry in entries],
        }
        if compare is not None and entries:
            old, new = history.entry(compare), entries[-1]
            names = (f"generation {old.number}", f"generation {new.number}")
            listed["diff"] = difference(old.text, new.text, *names)
        return listed

    def _expert(self, expert: Expert) -> dict[str, Any]:
        live = self._status.experts().get(expert.id)
        return {
            "id": expert.id,
            "state": live.state if live else None,
            "queued": live.queued if live else 0,
            "running": live.running if live else 0,
            "host": expert.host,
            "model": expert.model,
            "skills": list(expert.skills),
            "card": expert.card,
            "shadow": expert.shadow,
        }

    def _done(self, joined: Sequence[Onboarded]) -> dict[str, Any]:
        return {
            "generation": self._generations.current.number,
            "experts": [dataclasses.asdict(each) for each in joined],
            "needs_restart": list(self._live.needs_restart),
        }


def _accepted(entry: Accepted) -> dict[str, Any]:
    return {"number": entry.number, "accepted_at": entry.at, "reason": entry.circumstances.reason}


def _asker(pipeline: Answering, expert: ExpertId) -> Ask:
    """Asks ``expert`` as a client with time would."""

    async def ask(question: str) -> str:
        body: Mapping[str, Any] = {
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": PROBE_TOKENS,
        }
        options = Options(deadline_class="batch")
        name = "probe-" + os.urandom(8).hex()
        answer = await pipeline.answer(Request(name, "chat/completions", expert, body, question, options))
        try:
            raw = b"".join([chunk async for chunk in answer.chunks()])
        finally:
            await answer.aclose()
        if (other := answer.receipt().expert) != expert:
            raise EngineError(f"{other} answered a probe question in place of {expert}", hint="Ask again.")
        try:
            return str(json.loads(raw)["choices"][0]["message"].get("content") or "")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise EngineError(
                f"{expert} gave no chat completion", hint="See the log of its engine."
            ) from None

    return ask


def read_token(listener: AdminListener, root: Path) -> str:
    """The admin token, from where experts.yaml says it is. Raises ConfigError without a usable one."""
    if listener.token_env is not None:
        token, where = os.environ.get(listener.token_env, ""), f"environment variable {listener.token_env}"
    else:
        file = path_in(root, str(listener.token_file))
        token, where = _file_text(file), f"file {file}"
    token = token.strip()
    if len(token) < MIN_TOKEN_CHARS:
        raise ConfigError(
            f"the admin API needs a token of at least {MIN_TOKEN_CHARS} characters in the {where}",
            hint="Make one with `openssl rand -hex 32`, or take service.admin out of experts.yaml.",
        )
    return token


def _file_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _require_inside(entry: Entry, root: Path) -> None:
    """Raises BadRequest for a folder outside ``root``: whoever has the token shall not read other places."""
    for field in ("model", "adapter"):
        named = str(entry.get(field) or "").removeprefix("hf:")
        if named.startswith("~") or not Path(os.path.normpath(root / named)).is_relative_to(root):
            raise BadRequest(
                f"{field} of {entry['id']} is outside the folder of experts.yaml",
                code="outside_folder",
                param=field,
                hint="Write it into experts.yaml by hand, or `any_folder: true` under service.admin there.",
            )
