"""Fixtures that several test files share, and the guard of markers: a test says which processes it starts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_models import TinyFamily, build_tiny_family

PROCESSES = {"vllm.entrypoints": "real_vllm", "redis-server": "redis", "gcs_server": "real_ray"}
"""A word of a command line -> the marker of tests that start it."""


class Guard:
    """Lets no process start that the running test is not marked for, so that ``make test-fast``, which leaves
    the marked ones out, starts none of them."""

    def __init__(self) -> None:
        self.markers: set[str] | None = None
        """of the running test; None: no test runs"""

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "subprocess.Popen" or self.markers is None:
            return
        command = " ".join(str(part) for part in arguments[1])
        missing = [
            marker for word, marker in PROCESSES.items() if word in command and marker not in self.markers
        ]
        if missing:
            raise AssertionError(f"mark this test with pytest.mark.{missing[0]}, since it starts: {command}")


GUARD = Guard()
sys.addaudithook(GUARD)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Fixtures of a wider scope start with the first test that needs them."""
    GUARD.markers = {mark.name for mark in item.iter_markers()}
    try:
        return (yield)
    finally:
        GUARD.markers = None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files that are left out as a whole need not be imported either: that alone takes seconds."""
    if collection_path.suffix != ".py" or not config.option.markexpr.startswith("not (slow"):
        return None
    text = collection_path.read_text(encoding="utf-8")
    return True if "\npytestmark = pytest.mark.slow" in text else None


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> TinyFamily:
    """Tiny random checkpoints of one architecture, a tied one, one of another shape, a LoRA adapter."""
    return build_tiny_family(tmp_path_factory.mktemp("models") / "tiny")
