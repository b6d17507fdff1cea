"""Pages of the documentation whose code blocks are files."""

from __future__ import annotations

import re
from pathlib import Path


def files_of(page: Path) -> dict[str, str]:
    """The code blocks that begin with a file's name in a comment, by that name."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w+\n(# (\w+\.\w+)\n.*?)^```", text, re.MULTILINE | re.DOTALL)
    return {name: block for block, name in blocks}
