"""Everything that can go wrong, as a client sees it.

    CoeError                      status  type                    code
    ├── BadRequest                400     invalid_request_error   (given)
    │   ├── UnknownModel          404     invalid_request_error   model_not_found
    │   ├── PayloadTooLarge       413     invalid_request_error   payload_too_large
    │   └── BadHttp               (given) invalid_request_error   (given)   path, method or content type
    ├── Unauthorised              401     authentication_error    invalid_api_key
    ├── OverLimit                 429     rate_limit_error        rate_limit_exceeded | budget_exceeded
    ├── ServiceDown               503     server_error            state_unavailable
    ├── RoutingError              500     router_error            routing_failed
    ├── Overloaded                429     overloaded_error        queue_full | wait_not_promised
    ├── ExpertUnavailable         503     expert_error            expert_unavailable
    ├── ExpertTimeout             504     expert_error            expert_timeout
    ├── EngineError               502     expert_error            engine_failed
    ├── QuorumMissed              503     expert_error            quorum_missed
    ├── AggregationFailed         500     router_error            aggregation_failed
    ├── ExpertRefused             (own)   (own)                   (own)     an expert's own 4xx, passed on
    └── ConfigError               400     invalid_registry        invalid_registry   in the admin API only

``source`` says who failed: ``router`` (our side, before an expert was asked) or ``expert``.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

Source = Literal["router", "expert"]

LOG_FOLLOWS = " Last lines of its log:"
"""What follows in an error is for the log and for who runs the service."""
_INSIDE = (
    (re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^\s\"'<>`)\]]+"), "[address]"),
    (re.compile(r"\[[0-9a-fA-F:.]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*\](:\d+)?"), "[address]"),
    (re.compile(r"\b\d{1,3}(\.\d{1,3}){3}\b(:\d{1,5})?"), "[address]"),
    (re.compile(r"\b(localhost|([\w-]+\.)+(?!ya?ml|jsonl?|py)[a-zA-Z]{2,}):\d{1,5}\b"), "[address]"),
    (re.compile(r"(?<![\w/.:~-])~?(/[\w.@+%=-]+){2,}/?"), "[path]"),
)


def told(text: str) -> str:
    """``text``, of an engine or of the machine, as anybody may read it: without where things are inside
    (URLs, addresses, sockets, folders) and without lines of a log. The log has all of it."""
    text = text.partition(LOG_FOLLOWS)[0]
    for pattern, instead in _INSIDE:
        text = pattern.sub(instead, text)
    return text


class CoeError(Exception):
    """Base of all errors that are shown. ``hint`` says what to do about it."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    source: ClassVar[Source] = "router"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        hint: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.code, self.param, self.hint = message, code or self.default_code, param, hint
        self.retry_after_s = retry_after_s

    default_code: ClassVar[str] = "internal_error"

    @property
    def http_status(self) -> int:
        return self.status

    def envelope(self) -> dict[str, Any]:
        """OpenAI's error body. What others said is told without what is inside."""
        ours = self.source == "router" and self.http_status < 500
        return {
            "error": {
                "message": self.message if ours else told(self.message),
                "type": self.type,
                "code": self.code,
                "param": self.param,
                "hint": self.hint if ours or self.hint is None else told(self.hint),
                "source": self.source,
            }
        }


class BadRequest(CoeError):
    status, type, default_code = 400, "invalid_request_error", "invalid_request"


class UnknownModel(BadRequest):
    status, default_code = 404, "model_not_found"


class PayloadTooLarge(BadRequest):
    status, default_code = 413, "payload_too_large"


class BadHttp(BadRequest):
    """HTTP itself was used wrongly: 404 no such path, 405 wrong method, 415 not JSON."""

    def __init__(self, status: int, message: str, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self._status = status

    @property
    def http_status(self) -> int:
        return self._status


class Unauthorised(CoeError):
    status, type, default_code = 401, "authentication_error", "invalid_api_key"


class OverLimit(CoeError):
    status, type, default_code = 429, "rate_limit_error", "rate_limit_exceeded"


class ServiceDown(CoeError):
    """Something that the service itself needs cannot be reached, and it is told not to go on without."""

    status, type, default_code = 503, "server_error", "state_unavailable"


class RoutingError(CoeError):
    status, type, default_code = 500, "router_error", "routing_failed"


class Overloaded(CoeError):
    status, type, default_code = 429, "overloaded_error", "queue_full"


class ExpertUnavailable(CoeError):
    status, type, default_code, source = 503, "expert_error", "expert_unavailable", "expert"


class ExpertTimeout(CoeError):
    status, type, default_code, source = 504, "expert_error", "expert_timeout", "expert"


class EngineError(CoeError):
    status, type, default_code, source = 502, "expert_error", "engine_failed", "expert"
    answered = False
    """its server is there and said so itself (a 500 with an error in the API's form): it may be this request
    that it cannot do"""


class QuorumMissed(CoeError):
    """Several experts were asked, and too few of them answered; the message names each."""

    status, type, default_code, source = 503, "expert_error", "quorum_missed", "expert"


class AggregationFailed(CoeError):
    status, type, default_code = 500, "router_error", "aggregation_failed"


class ExpertRefused(CoeError):
    """The expert itself answered with an error about the request (for example a prompt too long)."""

    type, source = "invalid_request_error", "expert"

    def __init__(self, status: int, message: str, *, elsewhere: bool = False, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self._status = status
        self.elsewhere = elsewhere
        """not now, or not this expert: another one may take the same request"""

    @property
    def http_status(self) -> int:
        return self._status

    def envelope(self) -> dict[str, Any]:
        error = super().envelope()["error"]
        return {"error": {**error, "type": "rate_limit_error"} if self._status == 429 else error}


class ConfigError(CoeError):
    """experts.yaml cannot be used; the message carries file, line and what to write instead."""

    status, type, default_code = 400, "invalid_registry", "invalid_registry"
