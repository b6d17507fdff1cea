"""Figures for people: Markdown tables, and self-contained HTML pages with plots."""
