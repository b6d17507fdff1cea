"""Experts behind an HTTP API that we do not manage."""
