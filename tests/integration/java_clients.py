"""Kafka's own Java console consumer, from the jars of the embedded broker: a client that owes headrace nothing."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from headrace.connectors.embedded.downloads import Downloads
from headrace.connectors.embedded.java import java_command
from headrace.connectors.embedded.paths import cache_dir
from headrace.connectors.embedded.progress import Progress

_CONSOLE_CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"
_BYTES = "org.apache.kafka.common.serialization.BytesDeserializer"  # prints \xNN for what is not printable ASCII
_SEPARATOR = "\x1f"
_PROCESS_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class JavaRecord:
    partition: int
    offset: int
    headers: str
    key: bytes
    value: bytes


def console_consumer(
    bootstrap_servers: str,
    topic: str,
    scratch: Path,
    *,
    max_records: int,
    idle_seconds: float = 10.0,
    isolation_level: str = "read_committed",
) -> list[JavaRecord]:
    """Reads a topic from its beginning until ``max_records`` came, or none for ``idle_seconds``."""
    classpath = ":".join(str(jar) for jar in Downloads(cache_dir(), Progress()).kafka_classpath())
    arguments = ["--bootstrap-server", bootstrap_servers, "--topic", topic, "--from-beginning"]
    arguments += ["--isolation-level", isolation_level, "--max-messages", str(max_records)]
    arguments += ["--timeout-ms", str(round(idle_seconds * 1000))]
    properties = {
        "print.partition": "true",
        "print.offset": "true",
        "print.headers": "true",
        "print.key": "true",
        "key.separator": _SEPARATOR,
        "key.deserializer": _BYTES,
        "value.deserializer": _BYTES,
    }
    for name, value in properties.items():
        arguments += ["--formatter-property", f"{name}={value}"]
    command = java_command(["-cp", classpath, _CONSOLE_CONSUMER, *arguments], 128, scratch)
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PROCESS_SECONDS)
    if done.returncode != 0:
        raise AssertionError(f"the Java console consumer failed:\n{done.stderr}")
    return [_parsed(line) for line in done.stdout.splitlines()]


def _parsed(line: str) -> JavaRecord:
    partition, offset, headers, key, value = line.split(_SEPARATOR)
    return JavaRecord(
        int(partition.removeprefix("Partition:")), int(offset.removeprefix("Offset:")), headers, _raw(key), _raw(value)
    )


def _raw(printed: str) -> bytes:
    """Undoes Java's ``Bytes.toString``, which escapes neither the backslash nor anything else printable."""
    return re.sub(rb"\\x([0-9A-F]{2})", lambda escape: bytes.fromhex(escape[1].decode()), printed.encode("latin-1"))
