"""``python -m eval``: the same as ``coe eval``."""

from __future__ import annotations

from coe.cli.eval import main

if __name__ == "__main__":
    main(prog_name="python -m eval")
