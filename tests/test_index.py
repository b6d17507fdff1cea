"""Nearest vectors: the exact index, the approximate one against it, and experts that come and go."""

from __future__ import annotations

import numpy as np
import pytest

from routers.encoder import Vectors
from routers.index import EXACT_UP_TO, ApproximateIndex, ExactIndex, Index, build_index


def clusters(count: int, seed: int = 0, width: int = 32) -> Vectors:
    """Unit vectors round 50 centres."""
    centres = np.random.default_rng(99).standard_normal((50, width))
    draw = np.random.default_rng(seed)
    rows = centres[draw.integers(50, size=count)] + 0.5 * draw.standard_normal((count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


ROWS = clusters(5000)


@pytest.fixture(params=[ExactIndex, ApproximateIndex])
def index(request: pytest.FixtureRequest) -> Index:
    return request.param(range(100, 5100), ROWS)  # type: ignore[no-any-return]


def test_a_row_is_nearest_to_itself(index: Index) -> None:
    found = index.nearest(ROWS[7], 3)
    assert found.ids[0] == 107
    assert found.similarities[0] == pytest.approx(1, abs=0.02)
    assert list(found.similarities) == sorted(found.similarities, reverse=True)


def test_rows_join_and_leave(index: Index) -> None:
    newcomer = clusters(1, seed=5)
    index.add([9000], newcomer)
    assert index.nearest(newcomer[0], 1).ids.tolist() == [9000]
    index.remove([9000, 107, 123456])
    assert index.nearest(newcomer[0], 1).ids.tolist() != [9000]
    assert 107 not in index.nearest(ROWS[7], 5).ids
    assert len(index) == 4999


def test_exact_index_ranks_by_cosine() -> None:
    query = clusters(1, seed=3)[0]
    cosines = ROWS @ query
    found = ExactIndex(range(len(ROWS)), ROWS).nearest(query, 10)
    assert found.ids.tolist() == np.argsort(-cosines)[:10].tolist()
    assert np.allclose(found.similarities, np.sort(cosines)[::-1][:10], atol=1e-5)


def test_approximate_index_agrees_with_the_exact_one() -> None:
    exact, approximate = ExactIndex(range(len(ROWS)), ROWS), ApproximateIndex(range(len(ROWS)), ROWS)
    queries = clusters(200, seed=4)
    same = [exact.nearest(query, 1).ids[0] == approximate.nearest(query, 1).ids[0] for query in queries]
    assert np.mean(same) >= 0.95


def test_more_neighbours_than_rows_gives_all() -> None:
    assert sorted(ExactIndex([3, 4], ROWS[:2]).nearest(ROWS[0], 10).ids.tolist()) == [3, 4]


def test_empty_index_finds_nothing() -> None:
    empty = ExactIndex([], ROWS[:0])
    assert empty.nearest(ROWS[0], 3).ids.size == 0
    empty.add([1], ROWS[:1])
    assert empty.nearest(ROWS[0], 3).ids.tolist() == [1]


def test_few_rows_are_searched_exactly_and_many_approximately() -> None:
    assert isinstance(build_index(range(5000), ROWS), ExactIndex)
    many = clusters(EXACT_UP_TO + 1, width=4)
    assert isinstance(build_index(range(len(many)), many), ApproximateIndex)
