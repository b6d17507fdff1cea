"""Bad input, over raw HTTP: each a clear error in the envelope, never a traceback, never a hang."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from coe.core.types import ByTopP, Options, Request
from coe.gateway.http import joined_headers
from coe.gateway.metrics import Metrics
from coe.gateway.requests import directives, parse_completion, routing_text
from coe.gateway.schemas import ChatBody, CoeOptions
from coe.registry.schema import Limits, Registry
from coe.service.service import build_service
from coe.testing.engines import FakeEngine
from tests.support.serving import serving

MESSAGES = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"


def _one_expert(**limits: Any) -> Registry:
    return Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot"}]},
            "experts": [{"id": "sums", "host": "slot", "model": "m"}],
            "routers": {"default": "random"},
            "limits": limits,
        }
    )


@asynccontextmanager
async def service(**limits: Any) -> AsyncIterator[httpx.AsyncClient]:
    bound = build_service(_one_expert(**limits), Path(), lambda *_: FakeEngine("slot"))
    async with serving(bound) as url, httpx.AsyncClient(base_url=url) as client:
        yield client


def parsed(endpoint: Any = "chat/completions", headers: Any = None, **fields: Any) -> Request:
    body: dict[str, Any] = {"model": "coe", **fields}
    if endpoint == "chat/completions":
        body.setdefault("messages", MESSAGES)
    return parse_completion(endpoint, json.dumps(body).encode(), headers or {}, Limits(), "req-1")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the body is empty"),
        (b"{'model': 1}", "line 1, column 2"),
        (b'{"model": "coe",\n "messages": [}', "line 2, column 15"),
        (b'{"model": "\xff"}', "not UTF-8 at byte 11"),
        (b"[]", "must be a JSON object, not an empty list"),
        (b'"x"', "must be a JSON object"),
        (b'{"temperature": NaN}', "NaN is not a JSON number"),
        (b'{"n": ' + b"1" * 5000 + b"}", "digits"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
async def test_malformed_bodies_are_told_where(raw: bytes, message: str) -> None:
    async with service() as client:
        response = await client.post(CHAT, content=raw, headers={"content-type": "application/json"})
    error = response.json()["error"]
    assert response.status_code == 400
    assert message in error["message"]
    assert error["source"] == "router"
    assert error["hint"]
    assert response.headers["x-coe-request-id"].startswith("req-")


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"model": None}, "model", "model must be text, not null"),
        ({"messages": "hi"}, "messages", 'messages must be a list, not "hi"'),
        ({"messages": []}, "messages", "messages must not be empty"),
        ({"messages": ["hi"]}, "messages[0]", 'messages[0] must be an object, not "hi"'),
        ({"messages": [{"content": "hi"}]}, "messages[0].role", "messages[0].role is missing"),
        ({"messages": [{"role": 5, "content": "x"}]}, "messages[0].role", "must be text, not 5"),
        ({"messages": [{"role": "", "content": "x"}]}, "messages[0].role", "must not be empty"),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "messages[0].content",
            "messages[0].content must be text or a list of content parts, not 5",
        ),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]", "must be an object"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            "is missing",
        ),
        ({"temperature": 2.1}, "temperature", "temperature must be at most 2"),
        ({"temperature": -0.1}, "temperature", "at least 0"),
        ({"temperature": "hot"}, "temperature", 'must be a number, not "hot"'),
        ({"temperature": "2.5"}, "temperature", 'at most 2, not "2.5"'),
        ({"temperature": True}, "temperature", "must be a number, not true"),
        ({"temperature": "nan"}, "temperature", "a finite number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens must be at least 1, not 0"),
        ({"max_tokens": -5}, "max_tokens", "at least 1"),
        ({"max_tokens": 1.5}, "max_tokens", "a whole number, not 1.5"),
        ({"max_tokens": True}, "max_tokens", "a whole number, not true"),
        ({"max_tokens": "1.5"}, "max_tokens", 'a whole number, not "1.5"'),
        ({"max_tokens": "many"}, "max_tokens", 'a whole number, not "many"'),
        ({"seed": "1" * 5000}, "seed", "a whole number"),
        ({"logit_bias": {"5": "much"}}, "logit_bias.5", "a number"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "at least 1"),
        ({"n": 0}, "n", "n must be at least 1"),
        ({"n": 17}, "n", "n must be at most 16"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"stream_options": 1}, "stream_options", "an object"),
        ({"stop": 5}, "stop", "stop must be text or a list of texts, not 5"),
        ({"stop": [1]}, "stop", "list of texts"),
        ({"seed": "x"}, "seed", "a whole number"),
        ({"tools": {}}, "tools", "a list"),
        ({"tools": ["x"]}, "tools[0]", "an object"),
        ({"tool_choice": 3}, "tool_choice", "an object that names a tool"),
        ({"response_format": "json"}, "response_format", "an object"),
        ({"logprobs": 3}, "logprobs", "true or false"),
        ({"coe": "fast"}, "coe", 'coe must be an object, not "fast"'),
        ({"coe": {"patience": 3}}, "coe.patience", 'did you mean "patience_s"?'),
        ({"coe": {"zzz": 3}}, "coe.zzz", "coe.zzz is not a known field"),
        ({"coe": {"deadline_class": "soon"}}, "coe.deadline_class", "'interactive'"),
        ({"coe": {"experts": 0}}, "coe.experts", "at least 1"),
        ({"coe": {"experts": 1.5}}, "coe.experts", "coe.experts must be a whole number, not 1.5"),
        ({"coe": {"experts": "top-p:2"}}, "coe.experts", 'as "top-p:0.6", not "top-p:2"'),
        ({"coe": {"quality": 1.5}}, "coe.quality", "at most 1"),
        ({"coe": {"patience_s": 0}}, "coe.patience_s", "greater than 0"),
    ],
)
async def test_a_wrong_field_is_named(fields: dict[str, Any], param: str, message: str) -> None:
    async with service() as client:
        response = await client.post(CHAT, json={"model": "coe", "messages": MESSAGES, **fields})
    error = response.json()["error"]
    assert response.status_code == 400
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert message in error["message"]


@pytest.mark.parametrize("prompt", [None, 5, [], [[]], ["a", 1], {"a": 1}])
async def test_a_prompt_of_a_wrong_type_is_named(prompt: Any) -> None:
    async with service() as client:
        response = await client.post("/v1/completions", json={"model": "coe", "prompt": prompt})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"


async def test_fields_left_out_are_named() -> None:
    async with service() as client:
        no_model = (await client.post(CHAT, json={"messages": MESSAGES})).json()["error"]
        no_prompt = (await client.post("/v1/completions", json={"model": "coe"})).json()["error"]
    assert (no_model["param"], no_model["code"]) == ("model", "missing_field")
    assert (no_prompt["param"], no_prompt["code"]) == ("prompt", "missing_field")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": "x", "messages": MESSAGES}, "input"),
        ({"input": 3}, "input"),
        ({"inptu": "x"}, "inptu"),
        ({"input": "x", "router": "randm"}, "coe.router"),
    ],
)
async def test_a_wrong_dry_run_is_refused(body: dict[str, Any], param: str) -> None:
    async with service() as client:
        response = await client.post("/v1/route", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_other_content_types_are_refused_with_the_right_one() -> None:
    async with service() as client:
        form = await client.post(CHAT, data={"model": "coe"})
        zipped = await client.post(
            CHAT, content=b"x", headers={"content-type": "application/json", "content-encoding": "gzip"}
        )
        spelled = await client.post(
            CHAT,
            content=json.dumps({"model": "sums", "messages": MESSAGES}),
            headers={"content-type": "Application/JSON; charset=utf-8"},
        )
    assert form.status_code == 415
    assert "application/json" in form.json()["error"]["hint"]
    assert zipped.status_code == 415
    assert spelled.status_code == 200


async def test_a_large_body_is_refused_by_its_length_and_while_it_is_read() -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 1000

    json_type = {"content-type": "application/json"}
    async with service(max_body_bytes=10_000) as client:
        declared = await client.post(CHAT, content=b"x" * 20_000, headers=json_type)
        undeclared = await client.post(CHAT, content=endless(), headers=json_type)
        after = await client.get("/healthz")
    for response in (declared, undeclared):
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "payload_too_large"
    assert after.status_code == 200


async def test_too_long_a_prompt_and_too_many_messages_are_refused() -> None:
    async with service(max_prompt_chars=10, max_messages=3) as client:
        long = await client.post(
            CHAT, json={"model": "coe", "messages": [{"role": "user", "content": "x" * 11}]}
        )
        spread = await client.post(
            CHAT, json={"model": "coe", "messages": [{"role": "user", "content": "x" * 6}] * 2}
        )
        prompt = await client.post("/v1/completions", json={"model": "coe", "prompt": ["x" * 6] * 2})
        many = await client.post(CHAT, json={"model": "coe", "messages": MESSAGES * 4})
    codes = [response.json()["error"]["code"] for response in (long, spread, prompt, many)]
    assert codes == ["prompt_too_long", "prompt_too_long", "prompt_too_long", "too_many_messages"]


async def test_unknown_paths_and_methods_answer_in_the_envelope() -> None:
    async with service() as client:
        path = await client.get("/v1/chat")
        slash = await client.post("/v1/chat/completions/", json={})
        method = await client.get(CHAT)
        head = await client.head("/healthz")
    assert (path.status_code, path.json()["error"]["code"]) == (404, "not_found")
    assert slash.status_code == 404
    assert (method.status_code, method.headers["allow"]) == (405, "POST")
    assert head.status_code == 200
    assert all(r.headers["x-coe-request-id"] for r in (path, method, head))


async def test_a_deadline_class_in_the_header_is_checked() -> None:
    async with service() as client:
        response = await client.post(
            CHAT, json={"model": "coe", "messages": MESSAGES}, headers={"x-coe-deadline-class": "interactiv"}
        )
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "x-coe-deadline-class")
    assert "interactive" in error["hint"]


async def test_a_client_that_leaves_in_the_middle_of_its_body_harms_nobody() -> None:
    async with service() as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        writer.write((head + "Content-Length: 100\r\n\r\n{").encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert await reader.read() == b""
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("header", "private"),
    [(b"no-store", True), (b"max-age=0, NO-STORE", True), (b"no-cache", False), (b"x-no-store=1", False)],
)
def test_a_request_with_no_store_is_private(header: bytes, private: bool) -> None:
    assert parsed(headers={b"cache-control": header}).private is private
    assert not parsed().private


def test_the_header_s_deadline_class_counts_where_the_body_has_none() -> None:
    header = {b"x-coe-deadline-class": b"batch"}
    assert parsed().options.deadline_class == "standard"
    assert parsed(headers=header).options.deadline_class == "batch"
    assert parsed(headers=header, coe={"router": "r"}).options.deadline_class == "batch"
    assert (
        parsed(headers=header, coe={"deadline_class": "interactive"}).options.deadline_class == "interactive"
    )


def test_the_extension_becomes_options_and_leaves_the_body() -> None:
    request = parsed(
        coe={"router": "r", "experts": 2, "aggregate": "a", "quality": 1, "cost": 0.5, "patience_s": 3}
    )
    assert request.options == Options("r", 2, "a", 1, 0.5, 3, "standard")
    assert "coe" not in request.body


@pytest.mark.parametrize(("text", "p"), [("top-p:0.6", 0.6), ("top-p:.05", 0.05), ("top-p:1", 1.0)])
def test_the_number_of_experts_may_be_by_top_p(text: str, p: float) -> None:
    assert parsed(coe={"experts": text}).options.experts == ByTopP(p)


def test_the_extension_has_a_field_for_every_option() -> None:
    assert set(CoeOptions.model_fields) == set(Options.__dataclass_fields__)


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"role": "user", "content": " hi "}], "hi"),
        ([{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}], "one"),
        ([{"role": "user", "content": "one"}, {"role": "user", "content": "two"}], "two"),
        ([{"role": "user", "content": "one"}, {"role": "user", "content": ""}], "one"),
        ([{"role": "system", "content": "be brief"}], "be brief"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            "a\nb",
        ),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], ""),
        ([{"role": "assistant", "tool_calls": []}], ""),
    ],
)
def test_routers_see_the_last_user_message(messages: list[Any], text: str) -> None:
    checked = ChatBody.model_validate({"model": "coe", "messages": messages})
    assert routing_text(checked.messages) == text


def test_text_that_utf8_cannot_write_is_replaced_for_routers_only() -> None:
    request = parsed(messages=[{"role": "user", "content": "a\ud800b"}])
    assert request.text == "a?b"
    assert request.body["messages"][0]["content"] == "a\ud800b"


@pytest.mark.parametrize(
    ("prompt", "text"), [("2+2=", "2+2="), (["a", "b"], "a\nb"), ([1, 2], ""), ([[1], [2]], "")]
)
def test_the_text_of_a_prompt(prompt: Any, text: str) -> None:
    assert parsed("completions", prompt=prompt).text == text


def test_the_api_page_names_every_path_option_and_metric() -> None:
    page = (Path(__file__).parent.parent / "docs" / "reference" / "api.md").read_text()
    status = build_service(_one_expert(), Path(), lambda *_: FakeEngine("slot"))
    paths = {operation.path for operation in status.gateway.operations}
    shown = Metrics(status).render().decode().splitlines()
    metrics = {line.split()[2] for line in shown if line.startswith("# TYPE") and "_created" not in line}
    named = {*(f"`{option}`" for option in CoeOptions.model_fields), *metrics}
    assert {word for word in (*paths, *named) if word not in page} == set()


@pytest.mark.parametrize(
    ("lines", "private"),
    [
        (["no-store", "max-age=0"], True),
        (["max-age=0", "no-store"], True),
        (["no-cache, no-store", "max-age=0", "private"], True),
        (["no-cache", "max-age=0"], False),
    ],
)
def test_a_private_request_stays_so_whatever_lines_a_proxy_adds(lines: list[str], private: bool) -> None:
    headers = joined_headers([(b"cache-control", line.encode()) for line in lines])
    assert ("no-store" in directives(headers[b"cache-control"])) == private


def test_two_lines_of_what_may_be_said_once_are_neither() -> None:
    headers = joined_headers([(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b"), (b"x", b"1")])
    assert headers == {b"authorization": b"Bearer a, Bearer b", b"x": b"1"}
