"""Which names in the header Host are answered: pages of other sites reach no service without keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from coe.cluster.gateway_replica import GatewayReplica
from coe.cluster.settings import Deployed
from coe.registry.schema import Registry, Service
from coe.registry.service_settings import AdminListener
from coe.service.http_server import HostGuard, host_names
from coe.service.service import build_service
from coe.testing.engines import FakeEngine
from tests.support.serving import serving_app
from tests.test_bounds import talk


def registry(**service: Any) -> Registry:
    return Registry.model_validate(
        {
            "service": service,
            "pool": {"hosts": [{"id": "slot"}]},
            "experts": [{"id": "sums", "host": "slot", "model": "m"}],
            "routers": {"default": "random"},
        }
    )


async def asked(
    names: frozenset[str] | None, *heads: bytes, version: bytes = b"1.1"
) -> list[tuple[int, Any]]:
    """Status and body of a GET of /healthz with each of ``heads``."""
    app = HostGuard(build_service(registry(), Path(), lambda *_: FakeEngine("slot")).app, names)
    answers = []
    async with serving_app(app) as url:
        for head in heads:
            sent = b"GET /healthz HTTP/" + version + b"\r\n" + head + b"connection: close\r\n\r\n"
            said, _, body = (await talk(url, sent)).partition(b"\r\n\r\n")
            assert b"x-coe-request-id" in said
            answers.append((int(said.split()[1]), json.loads(body)))
    return answers


def said(*hosts: bytes) -> list[bytes]:
    return [b"Host: " + host + b"\r\n" for host in hosts]


KEYLESS = host_names(Service(), needs_key=False)


async def test_a_service_without_keys_on_this_machine_answers_to_its_own_names_alone() -> None:
    own = [b"localhost", b"LOCALHOST:8000", b"localhost.", b"127.0.0.1:8000", b"[::1]:8000", b"[::1]"]
    others = [
        b"evil.example",
        b"evil.example:8000",
        b"localhost.evil.example",
        b"10.0.0.1",
        b"127.0.0.1.nip.io",
    ]
    assert {status for status, _ in await asked(KEYLESS, *said(*own))} == {200}
    for status, body in await asked(KEYLESS, *said(*others)):
        assert (status, body["error"]["code"]) == (403, "host_not_allowed")
        assert "allowed_hosts" in body["error"]["hint"]


@pytest.mark.parametrize("names", [KEYLESS, None])
async def test_a_request_has_one_host(names: frozenset[str] | None) -> None:
    heads = [
        b"",
        b"Host: localhost\r\nHost: localhost\r\n",
        b"Host: localhost\r\nhost: evil.example\r\n",
        *said(
            b"", b"a b", b"http://localhost", b"user@localhost", b"localhost:x", b"localhost, evil.example"
        ),
    ]
    for status, body in await asked(names, *heads):
        assert (status, body["error"]["code"]) == (400, "bad_host")


async def test_http_1_0_knows_no_host() -> None:
    assert await asked(KEYLESS, b"", version=b"1.0") == [(200, {"status": "ok"})]
    assert [status for status, _ in await asked(KEYLESS, *said(b"evil.example"), version=b"1.0")] == [403]


@pytest.mark.parametrize(
    ("listener", "needs_key", "name", "answered"),
    [
        (Service(), True, b"anything.example", 200),
        (Service(host="0.0.0.0"), False, b"anything.example", 200),
        (Service(host="127.0.0.2"), False, b"127.0.0.2:1", 200),
        (Service(host="127.0.0.2"), False, b"anything.example", 403),
        (Service(host="::1"), False, b"anything.example", 403),
        (Service(host="localhost"), False, b"anything.example", 403),
        (Service(allowed_hosts=("coe.example",)), False, b"COE.example:443", 200),
        (Service(allowed_hosts=("coe.example",)), False, b"localhost", 200),
        (Service(allowed_hosts=("coe.example",)), True, b"other.example", 403),
        (Service(allowed_hosts=("*",)), False, b"other.example", 200),
        (Service(host="0.0.0.0", allowed_hosts=("coe.example",)), False, b"other.example", 403),
        (Service(host="0.0.0.0", allowed_hosts=("coe.example",)), False, b"10.1.2.3:8000", 200),
        (AdminListener(token_env="T"), True, b"anything.example", 200),
        (AdminListener(token_env="T", allowed_hosts=("admin.example",)), True, b"anything.example", 403),
        (AdminListener(token_env="T", allowed_hosts=("admin.example",)), True, b"admin.example", 200),
    ],
)
async def test_which_names_a_listener_answers_to(
    listener: Service | AdminListener, needs_key: bool, name: bytes, answered: int
) -> None:
    assert [status for status, _ in await asked(host_names(listener, needs_key), *said(name))] == [answered]


@pytest.mark.parametrize("name", ["https://coe.example", "coe.example:443", "coe.example/v1", ""])
def test_a_name_of_a_host_is_no_url(name: str) -> None:
    with pytest.raises(ValidationError, match="without scheme, port and path"):
        Service(allowed_hosts=(name,))


@pytest.mark.parametrize(("host", "answered"), [("127.0.0.1", 403), ("0.0.0.0", 200)])
async def test_gateways_of_a_cluster_answer_to_the_names_of_where_serve_listens(
    tmp_path: Path, host: str, answered: int
) -> None:
    class NoOwners:
        async def owners(self) -> dict[str, Any]:
            return {}

        def miss(self, host: str) -> None: ...

    deployed = Deployed.of(registry(), "/", 1).listening_on(host).parsed()
    replica = GatewayReplica("gateway-1", "here", NoOwners(), 1, deployed, tmp_path)
    async with serving_app(replica.app) as url, httpx.AsyncClient(base_url=url) as http:
        statuses = [
            (await http.get("/healthz", headers={"Host": name})).status_code
            for name in ("coe.example", "localhost")
        ]
    assert statuses == [answered, 200]
