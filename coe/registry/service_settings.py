"""The parts of experts.yaml about running it: access, shared state, cache, feedback, what is recorded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from coe.registry.base import Model, Url


def _is_host_name(name: str) -> str:
    if not re.fullmatch(r"\*|[\w.-]+|\[?[0-9A-Fa-f:.]+\]?", name):
        raise ValueError(f"{name!r} is not the name of a host; write it without scheme, port and path")
    return name


HostNames = tuple[Annotated[str, AfterValidator(_is_host_name)], ...]


class AdminListener(Model):
    """Where the admin API listens: it has its own port, and answers only with its token."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8001
    """0 takes any free port"""
    allowed_hosts: HostNames = ()
    """names in the header Host of requests that are answered, beside those of this machine; none: any"""
    token_env: str | None = None
    """environment variable that holds the token"""
    token_file: str | None = None
    """file that holds the token, relative to experts.yaml"""
    any_folder: bool = False
    """whether experts added over HTTP may name models outside the folder of experts.yaml"""

    @model_validator(mode="after")
    def _one_token(self) -> AdminListener:
        if (self.token_env is None) == (self.token_file is None):
            raise ValueError("give either token_env (an environment variable) or token_file")
        return self


class FeedbackSettings(Model):
    """Clients' ratings of answers (POST /v1/feedback), and how much they move the routers."""

    file: str = "var/feedback.jsonl"
    """where ratings are stored, relative to this file"""
    cap: Annotated[float, Field(gt=0)] = 50.0
    """the most ratings that count for an expert in a category; older ones fade"""
    bound: Annotated[float, Field(ge=0)] = 1.0
    """the most log-odds by which ratings move a probability; 0: they are stored and change nothing"""


class History(Model):
    """The accepted versions of this file, for `coe registry history` and `rollback`."""

    folder: str = "var/generations"
    """relative to this file"""
    keep: Annotated[int, Field(ge=1)] = 50
    """how many of them"""


class Access(Model):
    """Who may use the API."""

    keys_file: str | None = None
    """file with the API keys and their limits, relative to experts.yaml; without it no key is needed"""
    when_down: Literal["open", "closed"] = "open"
    """while the shared state is down: `open` counts limits in each process, `closed` refuses requests"""
    usage_file: str = "var/usage.json"
    """where what keys have used this month is kept if there is no shared state, relative to experts.yaml"""


class CacheSettings(Model):
    """The response cache: answers to deterministic requests (temperature 0 or a seed, not streamed)."""

    ttl_s: Annotated[float, Field(gt=0)] = 3_600.0
    rephrased: bool = False
    """also answer a question put otherwise: politeness, spaces, a first capital, a last full stop"""

    @model_validator(mode="before")
    @classmethod
    def _no_likeness(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "similarity" in data:
            raise ValueError(
                "`similarity` is gone: embeddings cannot tell `3 feet to inches` from `3 inches to feet`, so"
                " it gave answers to other questions; write `rephrased: true`, or delete it (and `encoder`)"
            )
        return data


class State(Model):
    """The state that gateways share."""

    redis_url: Url | None = None
    """for example redis://redis:6379/0; none: each process has a state of its own"""
    redis_url_env: str | None = None
    """environment variable that holds the URL, for one with a password"""
    prefix: str = "coe:"
    """prefix of all keys in Redis; services that share a Redis need different ones"""
    share_registry: bool = False
    """an edit of this file at one `coe serve` becomes the file of all that share the state. Everyone who can
    write to that Redis then decides what all of them run"""

    @model_validator(mode="after")
    def _sound(self) -> State:
        if self.share_registry and not (self.redis_url or self.redis_url_env):
            raise ValueError("share_registry needs redis_url or redis_url_env")
        if self.redis_url and urlsplit(self.redis_url).password:
            raise ValueError("redis_url holds a password; put it into the environment variable redis_url_env")
        return self


Redacted = Literal["email", "key", "number"]


class CaptureSettings(Model):
    """A record of requests and answers, one JSON object per line. Redaction finds known forms only."""

    file: str = "var/prompts.jsonl"
    """relative to this file"""
    max_mb: Annotated[float, Field(gt=0)] = 100.0
    """size of a file; then a new one is begun"""
    keep: Annotated[int, Field(ge=0)] = 4
    """how many older files are kept"""
    redact: tuple[Redacted, ...] = ("email", "key", "number")
    """what is blanked; number: telephone, card and account numbers"""
    patterns: tuple[str, ...] = ()
    """further regular expressions whose matches are blanked"""

    @field_validator("patterns")
    @classmethod
    def _are_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return patterns


class Observe(Model):
    """What is recorded of requests beside metrics and logs. Off by default."""

    traces: Url | None = None
    """URL of an OTLP collector (HTTP), such as http://127.0.0.1:4318; none: as the environment variable
    OTEL_EXPORTER_OTLP_ENDPOINT says"""
    capture: CaptureSettings | None = None
    """record prompts and answers; default: never"""
