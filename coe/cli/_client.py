"""A small blocking client of the service, on the standard library so that commands start quickly."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any, cast

from coe.cli._group import Failed

_QUICK_S = 10.0
_PATIENT_S = 900.0
"""Longer than the service's own limit on a request, which then gives the better error."""


class NoService(Failed):
    """Nothing listens at the address."""


@dataclass(frozen=True)
class ServiceClient:
    """Talks to one service. All methods block and raise :class:`Failed` with a message for people."""

    url: str
    token: str | None = None
    """sent as Authorization: Bearer"""

    def get(self, path: str) -> dict[str, Any]:
        return self._json(self._open(path, None, _QUICK_S))

    def delete(self, path: str) -> dict[str, Any]:
        return self._json(self._open(path, None, _PATIENT_S, method="DELETE"))

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._json(self._open(path, body, _PATIENT_S))

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a streamed answer, up to ``[DONE]``. Closing the iterator cancels the request."""
        with self._open(path, body, _PATIENT_S) as response:
            try:
                for line in response:
                    data = line.removeprefix(b"data:").strip()
                    if not line.startswith(b"data:") or not data:
                        continue
                    if data == b"[DONE]":
                        return
                    yield self._event(data)
            except (OSError, HTTPException) as error:
                raise Failed(
                    f"the answer from {self.url} broke off: {error or type(error).__name__}"
                ) from None
        raise Failed(f"the answer from {self.url} ended before it was complete")

    def _event(self, data: bytes) -> dict[str, Any]:
        event = self._parse(data)
        if "error" in event:
            raise _failed(event["error"])
        return event

    def _open(
        self, path: str, body: Mapping[str, Any] | None, timeout_s: float, method: str | None = None
    ) -> HTTPResponse:
        headers = {"content-type": "application/json"}
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token}"
        try:
            request = urllib.request.Request(
                self.url.rstrip("/") + path,
                data=None if body is None else json.dumps(body).encode(),
                headers=headers,
                method=method,
            )
            return cast(HTTPResponse, self._opener().open(request, timeout=timeout_s))
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from None
        except (urllib.error.URLError, OSError, HTTPException) as error:
            cause = getattr(error, "reason", None) or error
            reason = getattr(cause, "strerror", None) or cause or type(error).__name__
            raise NoService(
                f"no service answers at {self.url} ({reason})",
                "Start one with `coe serve`, or name its address with --url.",
            ) from None
        except ValueError as error:
            raise Failed(
                f"{self.url} is not an address: {error}", "Write it as http://127.0.0.1:8000."
            ) from None

    def _opener(self) -> urllib.request.OpenerDirector:
        if urllib.parse.urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1"):
            # A proxy of the environment cannot reach this machine's own ports.
            return urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return urllib.request.build_opener()

    def _refused(self, error: urllib.error.HTTPError) -> Failed:
        try:
            details = json.loads(error.read()).get("error")
        except (ValueError, AttributeError, OSError):
            details = None
        if isinstance(details, dict):
            return _failed(details)
        return Failed(f"{self.url} answered HTTP {error.code}", "Is a CoE service at this address?")

    def _json(self, response: HTTPResponse) -> dict[str, Any]:
        with response:
            return self._parse(response.read())

    def _parse(self, raw: bytes) -> dict[str, Any]:
        try:
            parsed = json.loads(raw)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            raise Failed(f"{self.url} answered no JSON object", "Is a CoE service at this address?")
        return parsed


def _failed(details: Mapping[str, Any]) -> Failed:
    who = {"router": "", "expert": "the expert failed: "}.get(str(details.get("source")), "")
    hint = details.get("hint")
    return Failed(f"{who}{details.get('message', 'unknown error')}", str(hint) if hint else None)
