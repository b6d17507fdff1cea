"""Bodies of the admin API's requests and answers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class AdminBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class AddBody(AdminBody):
    """Body of POST /admin/experts: one of ``experts`` and ``yaml``."""

    experts: list[dict[str, Any]] | None = Field(None, description="Entries as in experts.yaml.")
    yaml: str | None = Field(None, description="The same as YAML text.")
    shadow: bool = Field(False, description="Admit as shadows, whatever the gate says.")
    profile: bool = Field(False, description="Ask the new experts the probe questions first.")


class RollbackBody(AdminBody):
    """Body of POST /admin/registry/rollback."""

    generation: int = Field(ge=1)


class Refused(BaseModel):
    """The last edit of experts.yaml that was refused and not mended since."""

    at: float = Field(description="Unix time in seconds.")
    message: str
    hint: str | None


class ExpertBody(BaseModel):
    """An expert, and what it does at the moment. One that is leaving has its state and requests only."""

    id: str
    state: str | None
    queued: int
    running: int
    host: str | None = None
    model: str | None = None
    skills: list[str] | None = None
    card: str | None = None
    shadow: bool | None = None


class ExpertDetail(ExpertBody):
    entry: dict[str, Any] = Field(description="As in experts.yaml, without what is as by default.")


class Experts(BaseModel):
    experts: list[ExpertBody]


class AdminStatus(BaseModel):
    generation: int
    accepted_at: int = Field(description="Unix time in seconds.")
    reason: str = Field(description="What this generation changed; empty: the service began with it.")
    ready: bool
    reasons: list[str]
    refused: Refused | None
    needs_restart: list[str] = Field(description="Settings that were changed and count after a restart.")
    queued: int
    running: int
    engines: dict[str, dict[str, Any]]
    experts: list[ExpertBody]


class Done(BaseModel):
    """What a change came to."""

    generation: int
    experts: list[dict[str, Any]] = Field(description="Of those that joined: admitted, shadow, why.")
    needs_restart: list[str]


class AcceptedGeneration(BaseModel):
    number: int
    accepted_at: float = Field(description="Unix time in seconds.")
    reason: str = Field(description="What it changed, as far as known.")


class HistoryBody(BaseModel):
    current: int
    generations: list[AcceptedGeneration] = Field(description="Oldest first.")
    diff: str | None = Field(None, description="With compare: unified, from that one to the newest.")
