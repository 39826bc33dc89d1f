"""Options that several commands share."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from headrace.pipeline.config import Settings
from headrace.pipeline.settings_file import load_settings

Result = TypeVar("Result")


def settings_option(function: Callable[..., Result]) -> Callable[..., Result]:
    """Give a command ``-c/--config FILE`` (or ``HEADRACE_CONFIG``) and call it with ``settings``, a `Settings`.

    A running embedded stack is found by itself. A wrong setting raises ConfigError, which ends the command with
    exit code 2.
    """

    @click.option(
        "-c",
        "--config",
        "config_file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        envvar="HEADRACE_CONFIG",
        help="Settings file (pipeline.yaml); default HEADRACE_CONFIG, or none.",
    )
    @functools.wraps(function)
    def command(*args: Any, config_file: Path | None, **kwargs: Any) -> Result:
        return function(*args, settings=settings_in_force(config_file), **kwargs)

    return command


def settings_in_force(config_file: Path | None) -> Settings:
    """The settings from environment, file, running stack and defaults. Raises ConfigError, StackError."""
    return load_settings(config_file, os.environ, discover())


def discover() -> dict[str, dict[str, str]]:
    """Settings that point to the embedded stack that ``headrace up`` runs; empty if there is none."""
    from headrace.connectors.embedded.state import running_endpoints  # not needed by --help

    endpoints = running_endpoints()
    if endpoints is None:
        return {}
    return {
        "kafka": {"bootstrap_servers": endpoints.bootstrap_servers},
        "registry": {"url": endpoints.registry_url},
        "triton": {"url": endpoints.triton_grpc},
    }
