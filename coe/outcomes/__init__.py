"""Recorded outcomes of experts on questions, and what is fitted on them."""
