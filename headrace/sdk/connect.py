"""Where producers, consumers and clients find Kafka and the registry."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from pydantic import ValidationError

from headrace.connectors.discovery import discover
from headrace.connectors.registry import ConfluentRegistry
from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.config import Settings
from headrace.pipeline.errors import ConfigError, UnavailableError
from headrace.pipeline.ports import SchemaRegistry
from headrace.pipeline.settings_file import load_settings
from headrace.pipeline.settings_problems import describe
from headrace.pipeline.setup import COMPATIBILITY
from headrace.sdk.errors import check_known

Config = Settings | Path | str | None
"""Settings, a ``pipeline.yaml``, or None for what the command ``headrace`` finds."""


class Addresses(TypedDict, total=False):
    """Addresses that go before those of the settings.

    ``bootstrap_servers`` is ``host:port``, comma-separated; ``registry_url`` a base URL; ``client`` holds librdkafka
    properties for every Kafka client (security, for instance).
    """

    bootstrap_servers: str
    registry_url: str
    client: Mapping[str, str | int | float | bool]


def settings_of(config: Config, addresses: Addresses) -> Settings:
    """The settings in force.

    Without ``config`` they are those of ``HEADRACE_CONFIG``, of the environment and of the stack that ``headrace up``
    runs, as for the command; with a server's address given that stack is not looked for.

    Raises:
        ConfigError: with one line for each problem.
        StackError: the running stack's state file cannot be read.
        TypeError: for an argument that is none.
    """
    check_known(addresses, Addresses)
    if isinstance(config, Settings):
        settings = config
    else:
        file = config or os.environ.get("HEADRACE_CONFIG")
        elsewhere = "bootstrap_servers" in addresses or "registry_url" in addresses
        settings = load_settings(Path(file) if file else None, os.environ, {} if elsewhere else discover())
    return _with_addresses(settings, addresses) if addresses else settings


def _with_addresses(settings: Settings, addresses: Addresses) -> Settings:
    kafka, registry = settings.kafka.model_dump(), settings.registry.model_dump()
    if "bootstrap_servers" in addresses:
        kafka["bootstrap_servers"] = addresses["bootstrap_servers"]
    if "client" in addresses:
        kafka["client"] = {**kafka["client"], **addresses["client"]}
    if "registry_url" in addresses:
        registry["url"] = addresses["registry_url"]
    changed: dict[str, Any] = {**dict(settings), "kafka": kafka, "registry": registry}
    try:
        return Settings.model_validate(changed)
    except ValidationError as error:
        raise ConfigError("\n".join(describe(error, "arguments", {}))) from error


def open_registry(settings: Settings) -> ConfluentRegistry:
    """The settings' registry; asks it nothing yet."""
    return ConfluentRegistry.of(settings.registry)


def request_schema_id(registry: SchemaRegistry, topic: str) -> int:
    """Registers the request schema under the topic's subject, again if need be, and returns its id.

    Raises:
        UnavailableError: the registry does not answer.
        FatalError: it refuses the schema, or is no registry.
    """
    try:
        return registry.register(f"{topic}-value", schema_json(Contract.REQUEST), COMPATIBILITY)
    except UnavailableError as error:
        raise UnavailableError(f"{error}: `headrace up` starts one, registry.url says where it is") from error
