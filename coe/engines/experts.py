"""The experts of one engine, and the errors about them in one voice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coe.errors import EngineError
from coe.registry.models import Expert
from coe.types import ExpertId


class Experts:
    """Looks up experts by id, in the order of experts.yaml."""

    def __init__(self, engine: str, experts: Sequence[Expert]) -> None:
        self._engine = engine
        self._by_id = {expert.id: expert for expert in experts}
        if not experts:
            raise ValueError(f"{engine} needs at least one expert")

    def __iter__(self) -> Iterator[Expert]:
        return iter(self._by_id.values())

    def __getitem__(self, expert: ExpertId) -> Expert:
        if expert not in self._by_id:
            raise EngineError(
                f"{self._engine} has no expert {expert!r}.",
                code="expert_unknown",
                hint=f"It has: {', '.join(self._by_id)}.",
            )
        return self._by_id[expert]

    def first(self, preferred: ExpertId | None) -> list[Expert]:
        """All of them, ``preferred`` before the others."""
        return sorted(self, key=lambda spec: spec.id != preferred)

    def not_ready(self, expert: ExpertId) -> EngineError:
        return EngineError(f"{expert} is not ready on {self._engine}.", code="expert_not_ready")

    def load_failed(
        self, expert: ExpertId, error: EngineError | TimeoutError, timeout_s: float
    ) -> EngineError:
        if isinstance(error, TimeoutError):
            return EngineError(
                f"{self._engine}: loading {expert} took longer than {timeout_s:g} s.",
                hint="Raise start_timeout_s of the host in experts.yaml.",
            )
        return EngineError(f"{self._engine}: {expert}: {error.message}", code=error.code, hint=error.hint)
