"""Reading ahead: real files in the real page cache, and the pool that asks for it."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import sys
from pathlib import Path

import pytest

from coe.core.errors import EngineError
from coe.core.types import ReadsAhead
from coe.engines.vllm.checkpoint import ModelSource
from coe.engines.vllm.read_ahead import ReadAhead
from coe.scheduler.plan import ExpertPlan, HostPlan, PoolPlan
from tests.support.engine_hosts import sleepers, slot
from tests.support.pools import running_pool, take
from tests.support.tiny_models import TinyFamily
from tests.support.waiting import until

SIZE = 32 * mmap.PAGESIZE


def cached_pages(path: Path) -> int:
    """How many of the file's pages are in RAM, by mincore."""
    size = path.stat().st_size
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as view:
        pages = -(-size // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        anchor = ctypes.c_char.from_buffer(view)
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(anchor)), ctypes.c_size_t(size), found)
        del anchor
    if failed:
        pytest.skip("mincore does not work here")
    return sum(page & 1 for page in found)


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    """A checkpoint's weight file that is on disk and not in the page cache."""
    if not sys.platform.startswith("linux"):
        pytest.skip("page caches are looked at with Linux's mincore")
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(os.urandom(SIZE))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached_pages(path):
        pytest.skip("this file system keeps files in RAM")
    return ModelSource.of(tmp_path)


async def test_weights_that_are_read_ahead_are_in_ram_and_released_ones_are_not(source: ModelSource) -> None:
    assert source.folder is not None
    path, ahead = source.folder / "model.safetensors", ReadAhead()
    await ahead.read("a", source)
    assert cached_pages(path) == SIZE // mmap.PAGESIZE
    ahead.drop("a")
    assert cached_pages(path) == 0
    assert ahead.count == 1


async def test_dropping_what_was_not_read_touches_nothing(source: ModelSource) -> None:
    assert source.folder is not None
    path, ahead = source.folder / "model.safetensors", ReadAhead()
    path.read_bytes()
    ahead.drop("a")
    assert cached_pages(path) == SIZE // mmap.PAGESIZE


async def test_a_read_that_is_dropped_while_it_runs_has_failed(source: ModelSource) -> None:
    ahead = ReadAhead()
    reading = asyncio.create_task(ahead.read("a", source))
    await asyncio.sleep(0)  # the thread is ordered, its end not yet seen
    ahead.drop("a")
    with pytest.raises(EngineError, match="given up"):
        await reading
    assert ahead.count == 0


async def test_cancelling_an_older_read_leaves_the_newer_one_alone(source: ModelSource) -> None:
    reads = ReadAhead()
    older = asyncio.create_task(reads.read("a", source))
    await asyncio.sleep(0)
    newer = asyncio.create_task(reads.read("a", source))
    await asyncio.sleep(0)
    older.cancel()
    await asyncio.wait([older])
    await newer
    assert reads.count == 1


async def test_a_model_without_files_here_cannot_be_read_ahead() -> None:
    with pytest.raises(EngineError, match="org/name has no weight files here"):
        await ReadAhead().read("a", ModelSource("org/name", None))


async def test_the_pool_has_a_slot_read_the_next_expert_while_another_one_works(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    host = HostPlan("slot", max_running=1, ram_gb=1.0, reads_ahead=True)
    plan = PoolPlan((host,), tuple(ExpertPlan(e, ("slot",), 1.0, 1, weights_gb=0.1) for e in "ab"))
    engine = slot(tiny_family, tmp_path)
    assert isinstance(engine, ReadsAhead)
    async with running_pool(plan, {"slot": engine}, load_timeout_s=60.0) as pool:
        async with pool.lease("one", "a", timeout_s=60.0):
            waiting = asyncio.create_task(take(pool, "b"))
            await until(lambda: engine.stats().reads_ahead)
        assert await waiting == "ram"
    assert engine.stats().swaps == 1


async def test_an_engine_with_a_process_for_each_expert_reads_ahead_too(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    engine = sleepers(tiny_family, tmp_path)
    assert isinstance(engine, ReadsAhead)
    await engine.prefetch("b")
    engine.release("b")
    assert engine.stats().reads_ahead == 1
