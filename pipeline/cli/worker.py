"""``headrace worker``: one worker process, hosted by Faust."""

from __future__ import annotations

from typing import Any

import click

from headrace.pipeline.cli.options import settings_option
from headrace.pipeline.config import Settings
from headrace.pipeline.config_slot import HIGHEST_SLOT, SLOT_OF_HOST


class SlotType(click.ParamType):
    """A worker slot: its number, or the word that takes it from the host name."""

    name = "slot"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == SLOT_OF_HOST:
            return SLOT_OF_HOST
        text = str(value)
        if not (text.isascii() and text.isdigit() and int(text) <= HIGHEST_SLOT):
            self.fail(f"{text!r} is neither a number from 0 to {HIGHEST_SLOT} nor {SLOT_OF_HOST}.", param, ctx)
        return int(text)


@click.command()
@settings_option
@click.option(
    "--slot",
    type=SlotType(),
    metavar=f"N|{SLOT_OF_HOST}",
    help=f"This worker's slot, 0 to {HIGHEST_SLOT}, or {SLOT_OF_HOST}: the ordinal at the end of the host name, as a "
    "StatefulSet's pods have it; default worker.slot (0).",
)
@click.option("--http-port", type=click.IntRange(0, 65535), help="Port of /metrics, /livez, /readyz; 0: any free one.")
def command(settings: Settings, slot: int | str | None, http_port: int | None) -> None:
    """Run one worker: consume requests, infer, commit results exactly once.

    SIGTERM and Ctrl-C drain what is in flight (worker.drain_timeout_seconds), commit it, leave the group and exit 0.
    A dependency that is down is waited for.

    \b
    Exit codes: 0 stopped, 1 failed (start it again), 2 wrong settings,
    3 the worker slot is taken.
    """  # noqa: D301 - \b is click's mark for a paragraph not to be rewrapped
    from headrace.pipeline.hosting import run_worker

    changes = {"slot": slot, "http_port": http_port}
    given = {name: value for name, value in changes.items() if value is not None}
    run_worker(settings.model_copy(update={"worker": settings.worker.model_copy(update=given)}))
