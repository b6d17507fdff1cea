"""``python -m coe.cli``: the same as ``coe``."""

from coe.cli import main

main(prog_name="coe")
