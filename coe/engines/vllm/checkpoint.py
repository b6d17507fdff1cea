"""What can be known of a checkpoint before it is loaded, so that a bad one is refused by name.

In-place reload is only right for checkpoints of one architecture with untied embeddings: vLLM answers
200 to others and serves garbage. Everything is read from small files and safetensors headers.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coe.core.errors import EngineError
from coe.core.files import path_in

MAX_HEADER_BYTES = 100_000_000
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class ModelSource:
    """A folder on this machine, or a hub id (then ``folder`` is ``None``). ``name`` is what vLLM is given.

    ``version`` changes when the folder's weight files do: weights trained anew are other weights.
    """

    name: str
    folder: Path | None
    version: str = ""

    @classmethod
    def of(cls, folder: Path) -> ModelSource:
        stats = [file.stat() for file in sorted(folder.glob("*.safetensors"))]
        return cls(str(folder), folder, "-".join(f"{s.st_size}.{s.st_mtime_ns}" for s in stats))


def resolve_model(model: str, root: Path, elsewhere: bool = False) -> ModelSource:
    """Where ``model`` of experts.yaml is; ``root`` is the folder of experts.yaml.

    An existing folder is taken first. What is missing is a hub id only if written ``hf:org/name``, or
    ``org/name`` with no folder ``org`` and not below ``models/``; else the folder is missing: an error.
    For a server that is not ours (``elsewhere``) it is whatever that server calls it.
    """
    if model.startswith("hf:"):
        return ModelSource(_hub_id(model.removeprefix("hf:")), None)
    folder = Path(os.path.realpath(path_in(root, model)))
    if os.path.isdir(folder):
        return ModelSource.of(folder)
    if elsewhere:
        return ModelSource(model, None)
    owner = model.partition("/")[0]
    if HUB_ID.fullmatch(model) and owner != "models" and not os.path.exists(root / owner):
        return ModelSource(model, None)
    raise EngineError(
        f"The checkpoint folder {folder} does not exist.",
        code="checkpoint_missing",
        hint="Run `make experts` to prepare the CPU experts, or correct `model` in experts.yaml.",
    )


def _hub_id(name: str) -> str:
    """``org/name``. vLLM would take a folder of that name, from wherever the service runs, for the model."""
    if HUB_ID.fullmatch(name) is None or os.path.exists(name):
        raise EngineError(
            f"hf:{name} is not a model of a hub.",
            code="checkpoint_missing",
            hint="Write hf:org/name for a model of a hub, and the path alone for a folder.",
        )
    return name


def resolve_adapter(adapter: str, root: Path, max_rank: int) -> ModelSource:
    """The PEFT folder ``adapter``. Raises EngineError when it is missing, incomplete or of too high rank."""
    folder = Path(os.path.realpath(path_in(root, adapter)))
    if not os.path.isdir(folder):
        raise EngineError(
            f"The adapter folder {folder} does not exist.",
            code="checkpoint_missing",
            hint="Run `make experts` to prepare the CPU experts, or correct `adapter` in experts.yaml.",
        )
    rank = _json(folder, "adapter_config.json").get("r")
    _shapes(folder)
    if not isinstance(rank, int) or rank > max_rank:
        raise EngineError(
            f"The adapter {folder} has rank {rank}, but its host allows {max_rank}.",
            code="checkpoint_mismatch",
            hint="Raise max_rank of the host in experts.yaml.",
        )
    return ModelSource.of(folder)


@dataclass(frozen=True)
class Checkpoint:
    """The facts of a checkpoint folder that decide whether it may be swapped in."""

    folder: Path
    tied: bool
    shapes: Mapping[str, tuple[int, ...]]
    chat_template: str | None

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Raises EngineError when the folder is not a complete safetensors checkpoint."""
        config = _json(folder, "config.json")
        shapes = _shapes(folder)
        tied = bool(config.get("tie_word_embeddings")) or "lm_head.weight" not in shapes
        template = folder / "chat_template.jinja"
        return cls(folder, tied, shapes, template.read_text() if template.exists() else None)

    def require_swappable(self) -> None:
        """Raises EngineError for tied embeddings, which an in-place reload silently corrupts."""
        if self.tied:
            raise EngineError(
                f"{self.folder} has tied embeddings (tie_word_embeddings), which an in-place swap would"
                " corrupt.",
                code="checkpoint_tied",
                hint="Save it with its own lm_head.weight and tie_word_embeddings false, or give the expert"
                " a host of its own.",
            )

    def require_like(self, other: Checkpoint) -> None:
        """Raises EngineError unless ``self`` can take the place of ``other`` in a running process."""
        if self.shapes != other.shapes:
            name = next(iter(_differences(self.shapes, other.shapes)))
            raise EngineError(
                f"{self.folder} has another architecture than {other.folder}, which its slot was started"
                f" with (first difference: {name}).",
                code="checkpoint_mismatch",
                hint="Give experts of another architecture a host of their own in experts.yaml.",
            )
        if (
            None not in (self.chat_template, other.chat_template)
            and self.chat_template != other.chat_template
        ):
            raise EngineError(
                f"{self.folder} has another chat template than {other.folder}, which its slot was started"
                " with.",
                code="checkpoint_mismatch",
                hint="Give experts with another chat template a host of their own in experts.yaml.",
            )


def same_weights(one: Path, other: Path) -> bool:
    """Whether two folders hold the same weight files, compared byte by byte (slow: a last resort)."""
    import filecmp

    names = sorted(file.name for file in one.glob("*.safetensors"))
    if names != sorted(file.name for file in other.glob("*.safetensors")):
        return False
    return all(filecmp.cmp(one / name, other / name, shallow=False) for name in names)


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text())
    except (OSError, ValueError) as error:
        raise _broken(folder, f"{name} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise _broken(folder, f"{name} is not an object")
    return content


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise _broken(folder, "it holds no *.safetensors file")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes.update(_header(folder, file))
    return shapes


def _header(folder: Path, file: Path) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a safetensors file: 8 bytes of length, then JSON."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, MAX_HEADER_BYTES)))
        end = max(tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__")
        shapes = {name: tuple(t["shape"]) for name, t in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise _broken(folder, f"{file.name} is not a safetensors file ({error})") from error
    if file.stat().st_size < 8 + length + end:
        raise _broken(folder, f"{file.name} is cut short")
    return shapes


def _broken(folder: Path, reason: str) -> EngineError:
    return EngineError(
        f"The checkpoint {folder} cannot be used: {reason}.",
        code="checkpoint_broken",
        hint="Make the checkpoint again (for the CPU experts: delete the folder and run `make experts`).",
    )


def _differences(one: Mapping[str, tuple[int, ...]], other: Mapping[str, tuple[int, ...]]) -> list[str]:
    return [n for n in sorted({*one, *other}) if one.get(n) != other.get(n)]
