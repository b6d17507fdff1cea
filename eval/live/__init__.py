"""Tasks asked of a running endpoint."""
