"""Do pieces of texts that must not be stored stand in files?"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

PIECE = 30
"""Characters. Shorter ones come up by chance."""
_STEP = 10
_PLAIN = re.compile(rf"[ !#-\[\]-~]{{{PIECE},}}")
"""What plain text, JSON, CSV and logs write alike: printable ASCII without quotes and backslashes."""


def pieces_of(texts: Iterable[str]) -> list[bytes]:
    """Pieces such that a copied stretch of PIECE + 10 plain characters of any text holds one."""
    found = {
        run[start : start + PIECE]
        for text in texts
        for run in _PLAIN.findall(text)
        for start in range(0, len(run) - PIECE + 1, _STEP)
    }
    return sorted(piece.encode() for piece in found)


def files_with(pieces: Sequence[bytes], places: Sequence[Path]) -> list[Path]:
    """The files at or below ``places`` that hold any of ``pieces``, by grep, which reads the pieces from a
    pipe: they never stand in a file. Raises OSError or CalledProcessError."""
    command = ["grep", "-rlaF", "-f", "-", "--", *map(str, places)]
    done = subprocess.run(
        command, input=b"\n".join(pieces), stdout=subprocess.PIPE, env={**os.environ, "LC_ALL": "C"}
    )
    if done.returncode > 1:  # 1: none found
        done.check_returncode()
    return sorted(Path(line) for line in done.stdout.decode().splitlines())
