"""Helpers for tests of CoE and of third-party parts."""
