"""Whose answers a profile holds: the model, its adapter and, where the files are at hand, what is in them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from coe.profiles.profile import Weights
from coe.registry.schema import Expert

_SAMPLES, _SAMPLE_BYTES = 64, 512
"""Of a file of weights this much is read: training changes nearly every number, and a whole one takes
minutes."""


def weights_of(expert: Expert, root: Path) -> Weights:
    """Blocking: it reads some kilobytes of a model in a folder. ``root``: the folder of experts.yaml."""
    folders = [root / Path(name.removeprefix("hf:")).expanduser() for name in _names(expert)]
    return Weights(model=expert.model.removeprefix("hf:"), adapter=expert.adapter, files=_digest(folders))


def are_of(weights: Weights | None, now: Weights) -> bool:
    """Whether what answered then is what serves ``now``. Nothing speaks against a profile that does not say
    what it was made of. Equal files are the same weights in another folder."""
    if weights is None or weights == now:
        return True
    if weights.files and now.files:
        return weights.files == now.files
    return (weights.model, weights.adapter) == (now.model, now.adapter)


def _names(expert: Expert) -> tuple[str, ...]:
    return (expert.model,) if expert.adapter is None else (expert.model, expert.adapter)


def _digest(folders: list[Path]) -> str | None:
    """None where a folder is not here."""
    found = hashlib.sha256()
    try:
        for folder in folders:
            files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
            if not files:
                return None
            for file in files:
                _read(file, found)
    except OSError:
        return None
    return found.hexdigest()[:32]


def _read(path: Path, into: hashlib._Hash) -> None:
    size = path.stat().st_size
    into.update(f"{path.name}\0{size}\0".encode())
    with path.open("rb") as file:
        for number in range(_SAMPLES):
            file.seek(number * max(size - _SAMPLE_BYTES, 0) // (_SAMPLES - 1))
            into.update(file.read(_SAMPLE_BYTES))
