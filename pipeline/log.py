"""Structured logs: one line an event, as text for people or JSON for machines, each with the worker's slot."""

from __future__ import annotations

import logging
import sys
import time

from pythonjsonlogger.json import JsonFormatter

from headrace.pipeline.errors import FatalError
from headrace.pipeline.secrets import masked

_QUIET = ("faust", "mode", "aiohttp.access", "asyncio", "httpx", "httpx2")


def configure_logging(log_format: str, level: str, slot: int | None = None) -> None:
    """Send all logs to stderr. ``log_format`` is ``text`` or ``json``."""
    handler = logging.StreamHandler(sys.stderr)
    formatter: logging.Formatter
    if log_format == "json":
        formatter = _MaskedJson(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            static_fields={} if slot is None else {"slot": slot},
        )
    else:
        who = "" if slot is None else f" slot={slot}"
        formatter = _MaskedText("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s" + who + ": %(message)s")
    formatter.converter = time.gmtime
    formatter.datefmt = "%Y-%m-%dT%H:%M:%S"
    handler.setFormatter(formatter)
    handler.addFilter(_not_a_known_crash)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


class _MaskedText(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


class _MaskedJson(JsonFormatter):
    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


def _not_a_known_crash(record: logging.LogRecord) -> bool:
    """A FatalError is told once, in a line of its own; Faust's tracebacks of it add nothing."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, FatalError) and not str(record.msg).startswith("[^Worker]: We experienced a crash")
