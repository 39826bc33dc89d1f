"""Replay of historical topics: which records, answered by which models, into a run of their own."""
