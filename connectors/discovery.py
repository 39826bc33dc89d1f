"""The settings in force: what the environment, a file and a running embedded stack say together."""

from __future__ import annotations

import os
from pathlib import Path

from headrace.connectors.embedded.state import running_endpoints
from headrace.pipeline.config import Settings
from headrace.pipeline.settings_file import load_settings


def settings_in_force(config_file: Path | None) -> Settings:
    """The settings from environment, file, running stack and defaults. Raises ConfigError, StackError."""
    return load_settings(config_file, os.environ, discover())


def discover() -> dict[str, dict[str, str]]:
    """Settings that point to the embedded stack that ``headrace up`` runs, none without one. Raises StackError."""
    endpoints = running_endpoints()
    if endpoints is None:
        return {}
    return {
        "kafka": {"bootstrap_servers": endpoints.bootstrap_servers},
        "registry": {"url": endpoints.registry_url},
        "triton": {"url": endpoints.triton_grpc},
    }
