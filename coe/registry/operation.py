"""The parts of experts.yaml about running it: the admin API, the history of the file, clients' feedback."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from coe.registry.base import Model


class AdminListener(Model):
    """Where the admin API listens: a port of its own, and a token without which it answers nothing."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8001
    """0 takes any free port"""
    token_env: str | None = None
    """environment variable that holds the token"""
    token_file: str | None = None
    """file that holds the token, relative to experts.yaml"""

    @model_validator(mode="after")
    def _one_token(self) -> AdminListener:
        if (self.token_env is None) == (self.token_file is None):
            raise ValueError("give either token_env (an environment variable) or token_file")
        return self


class History(Model):
    """The accepted versions of this file, kept to look at and to go back to."""

    folder: str = "var/generations"
    """relative to this file"""
    keep: Annotated[int, Field(ge=1)] = 50
    """how many"""


class Feedback(Model):
    """What clients say of answers (POST /v1/feedback), and how far it moves the routing."""

    enabled: bool = False
    file: str = "var/feedback.jsonl"
    """every vote, a line each; relative to this file"""
    max_bytes: Annotated[int, Field(ge=10_000)] = 10_000_000
    """a larger file is put aside as file.1, and the former file.1 is dropped"""
    remember: Annotated[int, Field(ge=1)] = 100_000
    """answers that can still be voted on; the oldest are forgotten first"""
    prior: Annotated[float, Field(gt=0)] = 20.0
    """votes that the routing before any vote is worth"""
    cap: Annotated[float, Field(gt=0)] = 100.0
    """votes of one expert and category that count; older ones fade"""
    bound: Annotated[float, Field(ge=0, le=10)] = 1.0
    """the largest change of an expert's log-odds"""
