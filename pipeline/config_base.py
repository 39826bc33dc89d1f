"""What every section of the settings is made of: names and the patterns that they must match."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

from headrace.pipeline.limits import MAX_VERSION_DIGITS

MAX_TOPIC_LENGTH = 249
TOPIC_PATTERN = rf"^[A-Za-z0-9._-]{{1,{MAX_TOPIC_LENGTH}}}$"
PREFIX_PATTERN = r"^[A-Za-z0-9._-]{1,240}$"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
VERSION_PATTERN = rf"^[0-9]{{0,{MAX_VERSION_DIGITS}}}$"
SERVERS_PATTERN = r"^[^\s,]+(\s*,\s*[^\s,]+)*$"
HTTP_PATTERN = r"^https?://[^\s/]+\S*$"
GRPC_PATTERN = r"^((dns:///)?[^\s/]+:[0-9]{1,5}|unix:\S+)$"
DELAY_PATTERN = r"^[1-9][0-9]{0,3}[smh]$"
MODULE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
PATTERN_HELP = {
    TOPIC_PATTERN: "1 to 249 letters, digits, '.', '_' or '-'",
    PREFIX_PATTERN: "1 to 240 letters, digits, '.', '_' or '-'",
    NAME_PATTERN: "1 to 100 letters, digits, '.', '_' or '-', the first a letter or digit",
    VERSION_PATTERN: f"a whole number of at most {MAX_VERSION_DIGITS} digits, or empty",
    SERVERS_PATTERN: "host:port, comma-separated",
    HTTP_PATTERN: "http:// or https:// and a host",
    GRPC_PATTERN: "host:port without http://, dns:///host:port or unix:path",
    DELAY_PATTERN: "a whole number and its unit, as in 5s, 10m or 1h",
    MODULE_PATTERN: "a dotted Python name, without .py",
}
"""What a pattern allows, in words, for error messages and docs/settings.md."""


def _no_dots_alone(topic: str) -> str:
    if topic in (".", ".."):
        raise ValueError(f"{topic!r} is not allowed: Kafka has no topic of that name")
    return topic


TopicName = Annotated[str, StringConstraints(pattern=TOPIC_PATTERN), AfterValidator(_no_dots_alone)]
TopicPrefix = Annotated[str, StringConstraints(pattern=PREFIX_PATTERN)]
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
ModuleName = Annotated[str, StringConstraints(pattern=MODULE_PATTERN)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
