"""``headrace worker``: one worker process, hosted by Faust."""

from __future__ import annotations

import click

from headrace.pipeline.cli.options import settings_option
from headrace.pipeline.config import Settings


@click.command()
@settings_option
@click.option("--slot", type=click.IntRange(0, 9999), help="This worker's slot; default worker.slot (0).")
@click.option("--http-port", type=click.IntRange(0, 65535), help="Port of /metrics, /livez, /readyz; 0: any free one.")
def command(settings: Settings, slot: int | None, http_port: int | None) -> None:
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
