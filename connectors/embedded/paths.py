"""Where the embedded stack keeps what it downloads (cache) and what it stores (state)."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Downloads and what is built from them: ``HEADRACE_CACHE``, or headrace's folder in the XDG cache."""
    return _dir("HEADRACE_CACHE", "XDG_CACHE_HOME", ".cache")


def state_dir() -> Path:
    """Data and state file of ``headrace up``: ``HEADRACE_HOME``, or headrace's folder in the XDG state."""
    return _dir("HEADRACE_HOME", "XDG_STATE_HOME", ".local/state")


def _dir(own_variable: str, xdg_variable: str, fallback: str) -> Path:
    if own := os.environ.get(own_variable):
        return Path(own).expanduser().absolute()
    base = os.environ.get(xdg_variable)
    return (Path(base) if base else Path.home() / fallback).absolute() / "headrace"
