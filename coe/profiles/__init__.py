"""Profiles: what is known of each expert, on disk in an open format, and how it is learned.

table.py, profile.py, store.py   the format: shared question tables, one file for each expert, folders of both
evidence.py                      the profiles of a registry's experts as what routers learn from
newcomer.py, probing.py          an expert nobody knows yet: its outcomes on all questions from a few answers
gate.py                          may it be routed to: routing with and without it, on questions kept out
"""
