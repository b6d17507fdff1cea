"""The check of a machine with GPUs: its protocol on the stand-in for vLLM."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest

from benchmarks.gpu_check import NOT_ON_CPU, Machine, check_machine
from tests.support.engine_hosts import FAKE
from tests.support.tiny_models import TinyFamily


def readings(*mb: float) -> Callable[[], float]:
    """GPU memory in use, one reading after another, again and again."""
    found = cycle(mb)
    return lambda: next(found)


@pytest.mark.slow
async def test_on_a_cpu_everything_is_tried_and_the_report_says_what_was_not_checked(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    machine = Machine("cpu", "none", None)
    report = await check_machine(machine, (str(tiny_family.a), str(tiny_family.b)), tmp_path, FAKE)
    assert report["ok"], report
    assert report["not_checked"] == list(NOT_ON_CPU)
    assert report["measured"]["swaps under load"] >= 2
    assert {f"expert-{n}: wake from level {level}" for n in (1, 2) for level in (1, 2)} <= set(
        report["measured"]
    )
    assert [each["id"] for each in report["registry"]["experts"]] == ["expert-1", "expert-2"]


@pytest.mark.slow
@pytest.mark.parametrize(("readings_mb", "ok"), [((9_000.0, 2_000.0), True), ((9_000.0, 9_000.0), False)])
async def test_on_a_gpu_sleeping_must_free_memory(
    tiny_family: TinyFamily, tmp_path: Path, readings_mb: tuple[float, float], ok: bool
) -> None:
    machine = Machine("gpu", "H100", readings(*readings_mb))
    report = await check_machine(machine, (str(tiny_family.a), str(tiny_family.b)), tmp_path, FAKE)
    assert report["ok"] is ok
    assert report["not_checked"] == []
    assert report["measured"]["expert-1: MB freed by level 1"] == readings_mb[0] - readings_mb[1]
    assert any("freed no GPU memory" in failure for failure in report["failed"]) is not ok


async def test_a_model_that_cannot_be_loaded_is_reported(tmp_path: Path) -> None:
    models = (str(tmp_path / "none"), str(tmp_path / "neither"))
    report = await check_machine(Machine("cpu", "none", None), models, tmp_path, FAKE)
    assert not report["ok"]
    assert "expert-1: cold start" in report["failed"][0]
