"""The demonstration questions through the HTTP API."""
