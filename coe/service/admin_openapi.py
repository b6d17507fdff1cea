"""/admin/openapi.json: the document of the admin API, for those who have its token."""

from __future__ import annotations

import functools
from typing import Any

from pydantic import BaseModel, Field

from coe.gateway.openapi import ErrorBody, document, operation
from coe.gateway.schemas import AddBody, RollbackBody


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


_ANSWERED = (AdminStatus, Experts, ExpertDetail, Done, HistoryBody, ErrorBody)


@functools.cache
def admin_document() -> dict[str, Any]:
    """As a JSON object. Do not change it: it is made once."""
    one = [_parameter("id", "path", {"type": "string"})]
    compare = [_parameter("compare", "query", {"type": "integer", "minimum": 1})]
    paths = {
        "/admin/status": {"get": operation("What runs, and what was refused", AdminStatus)},
        "/admin/experts": {
            "get": operation("List the experts", Experts),
            "post": operation("Add experts, all or none", Done, asked=AddBody),
        },
        "/admin/experts/{id}": {
            "get": operation("Show an expert", ExpertDetail, parameters=one),
            "delete": operation("Remove an expert, which drains", Done, parameters=one),
        },
        "/admin/experts/{id}/profile": {
            "post": operation("Ask an expert the probe questions", Done, parameters=one)
        },
        "/admin/registry/history": {
            "get": operation("Accepted generations", HistoryBody, parameters=compare)
        },
        "/admin/registry/rollback": {
            "post": operation("Make an earlier generation the next one", Done, asked=RollbackBody)
        },
        "/admin/reload": {"post": operation("Take up experts.yaml as it is now", Done)},
    }
    made = document("CoE admin", paths, (AddBody, RollbackBody), _ANSWERED)
    made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return {**made, "security": [{"token": []}]}


def _parameter(name: str, place: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}
