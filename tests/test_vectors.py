"""Vectors kept between runs: each text is computed once, whatever happens to the store."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from coe.routers.encoders import disk_cache as vectors
from coe.routers.encoders.disk_cache import encode_cached
from coe.routers.encoders.encoder import Vectors


class CountingEncoder:
    """Remembers what it was asked."""

    def __init__(self, identity: str = "counting") -> None:
        self.identity = identity
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.asked += texts
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32).reshape(len(texts), 2)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "coe" / "vectors" / "vectors.sqlite"


def test_a_text_is_encoded_once_ever() -> None:
    first, second = CountingEncoder(), CountingEncoder()
    assert np.array_equal(encode_cached(first, ["a", "bb", "a"]), encode_cached(second, ["a", "bb", "a"]))
    assert sorted(first.asked) == ["a", "bb"]
    assert second.asked == []
    encode_cached(second, ["a", "ccc"])
    assert second.asked == ["ccc"]


def test_vectors_of_another_encoder_are_not_used() -> None:
    encode_cached(CountingEncoder(), ["a"])
    other = CountingEncoder("other")
    encode_cached(other, ["a"])
    assert other.asked == ["a"]


@pytest.mark.parametrize("workers", [1, 2])
def test_many_texts_keep_their_order(workers: int) -> None:
    texts = ["x" * (number * 7919 % 1009) for number in range(600)]
    rows = encode_cached(CountingEncoder(), texts, workers=workers)
    assert rows[:, 0].tolist() == [len(text) for text in texts]


def test_no_texts_give_no_rows() -> None:
    assert encode_cached(CountingEncoder(), []).shape == (0, 2)


def test_text_with_a_lone_surrogate_is_kept() -> None:
    encode_cached(CountingEncoder(), ["\ud800"])
    again = CountingEncoder()
    assert encode_cached(again, ["\ud800"]).shape == (1, 2)
    assert again.asked == []


def test_interrupted_run_goes_on_where_it_was() -> None:
    class Interrupted(CountingEncoder):
        def encode(self, texts: Sequence[str]) -> Vectors:
            if self.asked:
                raise KeyboardInterrupt
            return super().encode(texts)

    texts = ["y" * number for number in range(300)]
    first, second = Interrupted(), CountingEncoder()
    with pytest.raises(KeyboardInterrupt):
        encode_cached(first, texts)
    encode_cached(second, texts)
    assert first.asked
    assert sorted([*first.asked, *second.asked]) == sorted(texts)


def test_damaged_store_is_made_again(store: Path) -> None:
    encode_cached(CountingEncoder(), ["a"])
    store.write_bytes(b"no database" * 1000)
    again, after = CountingEncoder(), CountingEncoder()
    assert encode_cached(again, ["a"]).shape == (1, 2)
    encode_cached(after, ["a"])
    assert again.asked == ["a"]
    assert after.asked == []


def test_store_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert encode_cached(CountingEncoder(), ["a"]).shape == (1, 2)


def test_store_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_KEPT_ROWS", 20)
    for number in range(30):
        encode_cached(CountingEncoder(), [f"text {number}"])
    again = CountingEncoder()
    encode_cached(again, [f"text {number}" for number in range(30)])
    assert sorted(again.asked) == sorted(f"text {number}" for number in range(10))


def test_concurrent_writers_lose_nothing() -> None:
    def write(number: int) -> None:
        encode_cached(CountingEncoder(), [f"{number} {other}" for other in range(20)])

    with ThreadPoolExecutor(4) as callers:
        list(callers.map(write, range(8)))
    again = CountingEncoder()
    encode_cached(again, [f"{number} {other}" for number in range(8) for other in range(20)])
    assert again.asked == []
