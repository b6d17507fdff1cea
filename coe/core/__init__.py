"""Types, errors and helpers that every layer may use; imports nothing of ours."""
