"""Which expert belongs on which host."""
