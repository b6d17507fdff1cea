"""Fixtures that several test files share."""

from __future__ import annotations

import pytest

from tests.support.tiny_models import TinyFamily, build_tiny_family


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> TinyFamily:
    """Tiny random checkpoints of one architecture, a tied one, one of another shape, a LoRA adapter."""
    return build_tiny_family(tmp_path_factory.mktemp("models") / "tiny")
