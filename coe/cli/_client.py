"""A small blocking client of the service."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coe.cli._group import Failed
from coe.cli._options import DEFAULT_REGISTRY, DEFAULT_URL

if TYPE_CHECKING:
    import httpx

    from coe.service.running import Running

_QUICK_S = 10.0
_PATIENT_S = 900.0
"""Longer than the service's own limit on a request, which then gives the better error."""


class NoService(Failed):
    """Nothing listens at the address."""


def running(registry: Path, option: str, url: str | None = None) -> Running | None:
    """The service that runs with ``registry`` on this machine; with ``url``, a value of ``option``, the one
    there. Raises Failed where there are several."""
    from coe.service.running import services_of

    urls = {(each.admin if option == "--admin" else each.url) or "": each for each in services_of(registry)}
    if url is not None:
        return urls.get(url.rstrip("/"))
    if len(urls) > 1:
        raise Failed(
            f"{len(urls)} services run with {registry}", f"Name one with {option}: {', '.join(urls)}"
        )
    return next(iter(urls.values()), None)


def service_client(url: str | None, ca: Path | None, registry: Path = DEFAULT_REGISTRY) -> ServiceClient:
    """The service at ``url``, else the one that runs with ``registry`` here, else the one at DEFAULT_URL."""
    found = running(registry, "--url", url)
    return ServiceClient(url or (found.url if found else DEFAULT_URL), trust=trust(ca, found))


def trust(ca: Path | None, found: Running | None) -> ssl.SSLContext | None:
    """By ``ca``, else the certificate of the service that was found here, else as this system trusts."""
    if ca is not None:
        return ca_trust(ca)
    return trusting(found.certificate) if found is not None and found.certificate is not None else None


def trusting(certificate: str) -> ssl.SSLContext:
    """Trusts this one certificate (PEM), by whatever name its server is reached, and no other."""
    context = ssl.create_default_context(cadata=certificate)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context


def ca_trust(ca: Path) -> ssl.SSLContext:
    """Trusts the certificates of the file ``ca`` alone. Raises Failed where it has none."""
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:  # SSLError is one
        raise Failed(
            f"--ca {ca} cannot be used: {error.strerror or error}", "Give a PEM file with certificates."
        ) from None


@dataclass(frozen=True)
class ServiceClient:
    """Talks to one service. All methods block and raise :class:`Failed` with a message for people."""

    url: str
    token: str | None = None
    """sent as Authorization: Bearer"""
    trust: ssl.SSLContext | None = None
    """None: as this system trusts"""

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
            verify = True if self.trust is None else self.trust
            with httpx.Client(timeout=timeout_s, trust_env=not local, verify=verify) as client:
                if self.token is not None and url.scheme == "http":
                    self._require_plain(client, url)
                headers = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
                with client.stream(method, url, json=body, headers=headers) as response:
                    if not response.is_success:
                        raise self._refused(response)
                    yield response
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise Failed(
                f"{self.url} is not an address: {error}", "Write it as http://127.0.0.1:8000."
            ) from None
        except httpx.HTTPError as error:
            raise self._unanswered(error) from None

    def _require_plain(self, client: httpx.Client, url: httpx.URL) -> None:
        """A token is not sent in clear to a port that speaks TLS: first it is asked something without one."""
        import httpx

        try:
            client.get(url.copy_with(path="/healthz", query=None), timeout=_QUICK_S)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.ReadTimeout) as error:
            raise Failed(
                f"{self.url} does not speak plain HTTP ({_reason(error)}), so the token was not sent to it",
                "If it speaks TLS, write https:// and name its certificate with --ca.",
            ) from None

    def _unanswered(self, error: httpx.HTTPError) -> Failed:
        import httpx

        causes = []
        cause: BaseException | None = error
        while cause is not None and cause not in causes:
            causes.append(cause)
            cause = cause.__cause__ or cause.__context__
        if any(isinstance(each, ssl.SSLError) for each in causes):
            return Failed(
                f"no safe connection to {self.url}: {_reason(error)}",
                "Name the certificate to trust with --ca; write http:// if the service has none.",
            )
        if not isinstance(error, httpx.ConnectError):
            hint = "Is a CoE service at this address, and does it speak https?"
            return Failed(f"what listens at {self.url} does not answer ({_reason(error)})", hint)
        return NoService(
            f"no service answers at {self.url} ({_reason(error)})",
            "Start one with `coe serve`, or name its address with --url.",
        )

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
