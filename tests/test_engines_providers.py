"""What of a request reaches LiteLLM, and which LiteLLM is used at all. Nothing is sent."""

from __future__ import annotations

from typing import Any

import pytest

from coe.core.errors import EngineError, ExpertRefused
from coe.core.types import EngineCall
from coe.engines.remote.litellm import checked_arguments, import_litellm

CALL = EngineCall("chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "model": "coe"})


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8", "1.107.0"])
def test_known_bad_versions_of_litellm_are_not_imported(version: str) -> None:
    with pytest.raises(EngineError, match=version) as refused:
        import_litellm(version)
    assert refused.value.code == "litellm_refused"


@pytest.mark.parametrize(
    "name", ["api_base", "base_url", "api_key", "extra_headers", "fallbacks", "mock_response"]
)
def test_no_request_can_steer_litellm_elsewhere(name: str) -> None:
    with pytest.raises(ExpertRefused, match=name) as refused:
        checked_arguments(EngineCall("chat/completions", {**CALL.body, name: "x"}))
    assert refused.value.http_status == 400


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}},
        {"type": "image_url", "image_url": "http://x/y"},
        {"type": "file", "file": {"file_id": "http://169.254.169.254/latest/meta-data"}},
        {"type": "file", "file": {"file_data": "gs://bucket/name"}},
        {"type": "input_audio", "input_audio": {"data": "file:///etc/passwd"}},
    ],
)
def test_media_by_url_is_refused(part: dict[str, Any]) -> None:
    with pytest.raises(ExpertRefused, match="media by URL"):
        checked_arguments(saying([part]))


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
        [{"type": "text", "text": "https://example.org has it"}],
        [{"type": "file", "file": {"file_id": "file-abc123"}}],
        "https://example.org has it",
    ],
)
def test_media_as_data_and_words_are_accepted(content: Any) -> None:
    assert "messages" in checked_arguments(saying(content))


def saying(content: Any) -> EngineCall:
    return EngineCall("chat/completions", {"messages": [{"role": "user", "content": content}]})


@pytest.mark.parametrize(
    "tool", [{"type": "mcp", "server_url": "litellm_proxy/mcp/a"}, {"type": "x", "server_url": "http://x"}]
)
def test_tools_of_other_servers_are_refused_and_functions_accepted(tool: dict[str, Any]) -> None:
    function = {"type": "function", "function": {"name": "f", "parameters": {}}}
    assert checked_arguments(EngineCall("chat/completions", {**CALL.body, "tools": [function]}))["tools"]
    with pytest.raises(ExpertRefused, match="tools of other servers"):
        checked_arguments(EngineCall("chat/completions", {**CALL.body, "tools": [function, tool]}))
