"""The answer of POST /v1/route as pydantic models."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from coe.core.types import Occasion, Why


class RankedBody(BaseModel):
    expert: str
    probability: float
    steps_in: list[Occasion] = Field(
        description="When it may answer in the chosen expert's place (awake: the chosen one is not, and it is"
        " nearly as good; failure), or beside it (panel)."
    )
    expected_wait_s: float | None = Field(
        description="Wait for this expert if asked now, in seconds; null: it would be refused."
    )


class LeftOutBody(BaseModel):
    """A part of the request that does not say what is asked."""

    what: str = Field(description="Its kind: the tag of an agent's block, a tool result, a kind of media.")
    chars: int


class ReadBody(BaseModel):
    """What the router reads of a request."""

    task: str = Field(description="What the system prompt says is to be done.")
    turns: list[str] = Field(description="The user's messages before the last one.")
    last: str = Field(description="The last user message without what agents add.")
    follow_up: bool = Field(description="Whether it leans on the message before it.")
    left_out: list[LeftOutBody]


class RouteAnswer(BaseModel):
    object: Literal["coe.route"]
    generation: int
    router: str
    expert: str
    confidence: float
    margin: float | None
    reason: str
    why: Why = Field(description="The kind of reason for which the expert is chosen.")
    read: ReadBody
    experts: list[RankedBody] = Field(description="All experts, best first.")
