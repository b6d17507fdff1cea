"""Logs, traces and captured prompts."""
