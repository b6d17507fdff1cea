"""Question tables: the rows that profiles speak of, each a question or a group of like questions (a pilot).

A folder with
    table.json            {"format": 1, "name", "source", "licence", "rows", "fingerprint"}
    rows.csv              row, category, split, questions (how many the row stands for)
    vectors-ENCODER.npy   (rows, d) int8, unit vectors x 127 / largest; one file for each encoder
    features.npz          wording of the rows by coe.routers.learning.features.text_features: (rows, f)
    sparse, int8 by a
                          scale; absent where it is not at hand
    keys.npy              (k, 32) uint8, SHA-256 of the normalised texts behind the rows, to find leaks
Question texts are not part of it: features are counts of hashed n-grams, many to a bucket.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coe.core.errors import ConfigError
from coe.core.files import readable
from coe.outcomes.splits import is_held_out
from coe.routers.encoders.encoder import Vectors

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

FORMAT = 1
_FEATURES = "features.npz"
_COLUMNS = ("row", "category", "split", "questions")


@dataclass(frozen=True)
class QuestionTable:
    """n rows. Raises ConfigError when it is made with a row of a held-out split, or rows that disagree."""

    name: str
    ids: tuple[str, ...]
    categories: tuple[str, ...]
    splits: tuple[str, ...]
    vectors: Mapping[str, Vectors]
    """encoder name -> (n, d) unit vectors"""
    questions: tuple[int, ...] = ()
    """how many each row stands for; empty: one"""
    keys: frozenset[str] = frozenset()
    """:func:`coe.outcomes.text_key.text_key` of every question behind the rows whose text was known"""
    features: csr_matrix | None = None
    """(n, f) :func:`coe.routers.learning.features.text_features` of the rows; means where rows are groups"""
    source: str = ""
    licence: str = ""
    fingerprint: str = field(default="")

    def __post_init__(self) -> None:
        for identity, split in zip(self.ids, self.splits, strict=True):
            if is_held_out(split):
                raise ConfigError(
                    f'the question table {self.name} holds {identity} of the split "{split}": '
                    "held-out questions never enter a profile",
                    hint="Make profiles from the training part only (for example --split dev).",
                )
        sizes = {len(self.ids), len(self.categories), *(len(rows) for rows in self.vectors.values())}
        if self.features is not None:
            sizes.add(self.features.shape[0])
        if len(sizes) != 1 or len(set(self.ids)) != len(self.ids):
            raise ConfigError(f"the question table {self.name} has rows missing or named twice")
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", _fingerprint(self.ids))

    def __len__(self) -> int:
        return len(self.ids)


def _fingerprint(ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def write_table(table: QuestionTable, folder: Path) -> None:
    """Write ``folder``, which may exist."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "format": FORMAT,
        "name": table.name,
        "source": table.source,
        "licence": table.licence,
        "rows": len(table),
        "fingerprint": table.fingerprint,
    }
    (folder / "table.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    sizes = table.questions or (1,) * len(table)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(zip(table.ids, table.categories, table.splits, sizes, strict=True))
    (folder / "rows.csv").write_text(text.getvalue(), encoding="utf-8")
    for encoder, rows in table.vectors.items():
        np.save(folder / f"vectors-{encoder}.npy", _quantised(rows))
    if table.features is not None:
        _write_features(table.features, folder / _FEATURES)
    if table.keys:
        packed = np.frombuffer(b"".join(bytes.fromhex(key) for key in sorted(table.keys)), dtype=np.uint8)
        np.save(folder / "keys.npy", packed.reshape(-1, 32))


def read_table(folder: Path) -> QuestionTable:
    """Raises ConfigError naming the file that cannot be used."""
    facts = _facts(folder / "table.json")
    rows = _rows(folder / "rows.csv")
    vectors = {
        path.stem.removeprefix("vectors-"): _unit(_array(path)) for path in folder.glob("vectors-*.npy")
    }
    keys = _array(folder / "keys.npy") if (folder / "keys.npy").is_file() else np.empty((0, 32), np.uint8)
    table = QuestionTable(
        name=str(facts.get("name", folder.name)),
        ids=tuple(row["row"] for row in rows),
        categories=tuple(row["category"] for row in rows),
        splits=tuple(row["split"] for row in rows),
        vectors=vectors,
        questions=tuple(int(row["questions"]) for row in rows),
        keys=frozenset(bytes(key).hex() for key in keys),
        features=_read_features(folder / _FEATURES),
        source=str(facts.get("source", "")),
        licence=str(facts.get("licence", "")),
    )
    if table.fingerprint != facts.get("fingerprint"):
        raise ConfigError(f"{folder}: rows.csv is not the one that table.json was written with")
    return table


def _quantised(vectors: Vectors) -> np.ndarray[Any, np.dtype[np.int8]]:
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    rows: np.ndarray[Any, np.dtype[np.int8]] = np.rint(vectors * (127 / np.maximum(largest, 1e-12))).astype(
        np.int8
    )
    return rows


def _unit(rows: np.ndarray[Any, Any]) -> Vectors:
    wide = rows.astype(np.float32)
    unit: Vectors = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return unit


def _write_features(features: csr_matrix, path: Path) -> None:
    scale = max(float(np.abs(features.data).max(initial=0.0)), 1e-12) / 127
    np.savez_compressed(
        path,
        data=np.rint(features.data / scale).astype(np.int8),
        indices=features.indices.astype(np.uint16),
        indptr=features.indptr.astype(np.int64),
        shape=np.asarray(features.shape),
        scale=np.asarray(scale, dtype=np.float32),
    )


def _read_features(path: Path) -> csr_matrix | None:
    """None where there is no such file."""
    if not path.is_file():
        return None
    from scipy.sparse import csr_matrix

    with readable(path), np.load(path, allow_pickle=False) as parts:
        values = parts["data"].astype(np.float32) * parts["scale"]
        rows, width = (int(size) for size in parts["shape"])
        return csr_matrix((values, parts["indices"].astype(np.int32), parts["indptr"]), (rows, width))


def _facts(path: Path) -> dict[str, Any]:
    with readable(path):
        facts = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ConfigError(f"{path} is not a question table of format {FORMAT}")
    return facts


def _rows(path: Path) -> list[dict[str, str]]:
    with readable(path), path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if any(None in row or any(row.get(name) is None for name in _COLUMNS) for row in rows):
        raise ConfigError(f"{path} must have the columns {', '.join(_COLUMNS)} in every line")
    if not all(row["questions"].isdigit() for row in rows):
        raise ConfigError(f"{path}: questions must be whole numbers")
    return rows


def _array(path: Path) -> np.ndarray[Any, Any]:
    with readable(path):
        array: np.ndarray[Any, Any] = np.load(path, allow_pickle=False)
    return array
