"""A small blocking client of the service."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coe.cli._group import Failed

if TYPE_CHECKING:
    import httpx

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
        return self._json("GET", path, None, _QUICK_S)

    def delete(self, path: str) -> dict[str, Any]:
        return self._json("DELETE", path, None, _PATIENT_S)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._json("POST", path, body, _PATIENT_S)

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a streamed answer, up to ``[DONE]``. Closing the iterator cancels the request."""
        import httpx

        with self._answer("POST", path, body, _PATIENT_S) as response:
            try:
                for line in response.iter_lines():
                    field, _, data = line.partition(":")
                    if field != "data" or not data.strip():
                        continue
                    if data.strip() == "[DONE]":
                        return
                    event = self._parse(data)
                    if "error" in event:
                        raise _failed(event["error"])
                    yield event
            except httpx.HTTPError as error:
                raise Failed(f"the answer from {self.url} broke off: {_reason(error)}") from None
        raise Failed(f"the answer from {self.url} ended before it was complete")

    def _json(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float
    ) -> dict[str, Any]:
        with self._answer(method, path, body, timeout_s) as response:
            return self._parse(response.read())

    @contextmanager
    def _answer(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float
    ) -> Iterator[httpx.Response]:
        import httpx  # takes longer to import than all else of a command

        try:
            url = httpx.URL(self.url.rstrip("/") + path)
            # A proxy of the environment cannot reach this machine's own ports.
            local = url.host in ("127.0.0.1", "localhost", "::1")
            headers = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
            with (
                httpx.Client(timeout=timeout_s, trust_env=not local, headers=headers) as client,
                client.stream(method, url, json=body) as response,
            ):
                if not response.is_success:
                    raise self._refused(response)
                yield response
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise Failed(
                f"{self.url} is not an address: {error}", "Write it as http://127.0.0.1:8000."
            ) from None
        except httpx.HTTPError as error:
            raise NoService(
                f"no service answers at {self.url} ({_reason(error)})",
                "Start one with `coe serve`, or name its address with --url.",
            ) from None

    def _refused(self, response: httpx.Response) -> Failed:
        details = (_object(response.read()) or {}).get("error")
        if isinstance(details, dict):
            return _failed(details)
        return Failed(f"{self.url} answered HTTP {response.status_code}", "Is a CoE service at this address?")

    def _parse(self, raw: bytes | str) -> dict[str, Any]:
        found = _object(raw)
        if found is None:
            raise Failed(f"{self.url} answered no JSON object", "Is a CoE service at this address?")
        return found


def _object(raw: bytes | str) -> dict[str, Any] | None:
    try:
        found = json.loads(raw)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _failed(details: Mapping[str, Any]) -> Failed:
    who = {"router": "", "expert": "the expert failed: "}.get(str(details.get("source")), "")
    hint = details.get("hint")
    return Failed(f"{who}{details.get('message', 'unknown error')}", str(hint) if hint else None)
