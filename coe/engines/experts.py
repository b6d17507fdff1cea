"""The experts of one engine, and the errors about them in one voice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coe.core.errors import EngineError
from coe.core.types import ExpertId, ExpertSpec


class Experts:
    """Looks up experts by id. Iterates over the present ones, in the order of experts.yaml.

    Former ones stay known, as they were, for what they still have to do: a name and two paths each.
    """

    def __init__(self, engine: str, experts: Sequence[ExpertSpec]) -> None:
        self._engine = engine
        self._by_id = {expert.id: expert for expert in experts}
        self._former: dict[ExpertId, ExpertSpec] = {}
        if not experts:
            raise ValueError(f"{engine} needs at least one expert")

    def __iter__(self) -> Iterator[ExpertSpec]:
        return iter(self._by_id.values())

    def __getitem__(self, expert: ExpertId) -> ExpertSpec:
        spec = self._by_id.get(expert) or self._former.get(expert)
        if spec is None:
            raise EngineError(
                f"{self._engine} has no expert {expert!r}.",
                code="expert_unknown",
                hint=f"It has: {', '.join(self._by_id)}.",
            )
        return spec

    def set_experts(self, experts: Sequence[ExpertSpec]) -> None:
        self._former |= self._by_id
        self._by_id = {expert.id: expert for expert in experts}

    def leaving(self, expert: ExpertId) -> bool:
        return expert in self._former and expert not in self._by_id

    def first(self, preferred: ExpertId | None) -> list[ExpertSpec]:
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
