"""A service that follows an experts.yaml in a folder, on fake engines, for tests of changes while it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from coe.registry.hosts import Host
from coe.registry.schema import Expert
from coe.service.live_registry import LiveRegistry, RegistryFile
from coe.service.service import LocalService, build_service
from coe.testing.engines import FakeEngine, Script
from tests.support.serving import serving

TEXT = """\
# the pool of a test
pool:
  min_residency_s: 0
  hosts:
    - id: slot
      max_running: 4
experts:
  - id: sums        # comes first
    host: slot
    model: org/sums
    skills: [sums]
  - id: words
    host: slot
    model: org/words
routers:
  default: random
"""


@dataclass
class LiveWorld:
    """A running service, its file, the fake engines that were built so far, and a client."""

    file: Path
    service: LocalService
    live: LiveRegistry
    http: httpx.AsyncClient
    engines: dict[str, FakeEngine] = field(default_factory=dict)

    def write(self, old: str, new: str) -> None:
        """An edit by hand. Raises ValueError when ``old`` is not there."""
        text = self.file.read_text(encoding="utf-8")
        if old not in text:
            raise ValueError(f"{old!r} is not in the file")
        self.file.write_text(text.replace(old, new), encoding="utf-8")

    async def ask(self, model: str = "coe") -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "2+2?"}]}
        return await self.http.post("/v1/chat/completions", json=body, timeout=30)

    @property
    def generation(self) -> int:
        return self.service.generations.current.number


@asynccontextmanager
async def live_world(
    folder: Path, script: Script | None = None, text: str = TEXT
) -> AsyncIterator[LiveWorld]:
    """Raises AssertionError at the end when an engine was misused."""
    file = folder / "experts.yaml"
    file.write_text(text, encoding="utf-8")
    engines: dict[str, FakeEngine] = {}

    def build(host: Host, experts: Sequence[Expert], root: Path) -> FakeEngine:
        engines[host.id] = FakeEngine(host.id, script)
        return engines[host.id]

    start = RegistryFile(file, text)
    service = build_service(start.registry(), folder, build, start)
    if service.live is None:
        raise RuntimeError("the service does not follow its file")
    async with serving(service) as url, httpx.AsyncClient(base_url=url) as http:
        yield LiveWorld(file, service, service.live, http, engines)
    violations = [violation for engine in engines.values() for violation in engine.violations]
    if violations:
        raise AssertionError(violations)
