"""``headrace metrics``: what workers measure, without a Prometheus."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request

import click

from headrace.connectors.embedded.state import read_state
from headrace.connectors.loopback import no_proxy_for_loopback
from headrace.pipeline.errors import ConfigError, UnavailableError
from headrace.pipeline.exit_codes import epilog
from headrace.pipeline.measured import Measured, measured

ANSWER_SECONDS = 5.0
MOST_BYTES = 64 * 1024 * 1024
"""Far more than any worker serves."""


@click.command(epilog=epilog("metrics"))
@click.argument("name", default="", required=False)
@click.option("--url", multiple=True, metavar="URL", help="A worker's address; default: those of the embedded stack.")
@click.option("--raw", is_flag=True, help="Print what the worker serves, as Prometheus reads it.")
def command(name: str, url: tuple[str, ...], raw: bool) -> None:
    """Print what workers measure; with NAME, the metrics whose names hold it.

    A histogram shows how many were observed, their mean, and the bucket bounds that half and 99 % of them are within.
    """
    silent: list[UnavailableError] = []
    for worker, address in _workers(url).items():
        try:
            text = _read(address)
            click.echo(text if raw else _table(worker, _measured(text, name, address)), nl=not raw)
        except UnavailableError as error:  # the others have something to say
            silent.append(error)
    if silent:
        raise UnavailableError("\n".join(map(str, silent)))


def _workers(urls: tuple[str, ...]) -> dict[str, str]:
    """Name and address of each."""
    if urls:
        return {url: _address(url) for url in urls}
    state = read_state()
    found = {each.name: each.endpoint for each in state.members if each.name.startswith("worker")} if state else {}
    if not found:
        raise ConfigError("no worker of the embedded stack runs: `headrace up` starts one, --url names another")
    return found


def _address(url: str) -> str:
    """Without ``/metrics``; with ``http://`` if nothing is said."""
    found = url.rstrip("/").removesuffix("/metrics")
    return found if "://" in found else f"http://{found}"


def _read(address: str) -> str:
    try:
        url = f"{address}/metrics"
        with no_proxy_for_loopback(url), urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as response:
            text: str = response.read(MOST_BYTES).decode()
            return text
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise UnavailableError(f"no worker answers at {address}: {str(reason).strip() or repr(reason)}") from error


def _measured(text: str, name: str, address: str) -> list[Measured]:
    try:
        return measured(text, name)
    except ValueError as error:
        raise UnavailableError(f"no worker answers at {address}, but something else: {error}") from error


def _table(worker: str, rows: list[Measured]) -> str:
    lines = [(_series(row), *_figures(row)) for row in rows]
    width = max((len(series) for series, *_ in lines), default=0)
    shown = [f"  {series:<{width}}  {'  '.join(figures)}".rstrip() for series, *figures in lines]
    return "\n".join((worker, *(shown or ["  nothing measured yet under that name"])))


def _series(row: Measured) -> str:
    labels = ",".join(f"{name}={value}" for name, value in row.labels)
    return f"{row.name}{{{labels}}}" if labels else row.name


def _figures(row: Measured) -> tuple[str, ...]:
    if row.count is None:
        return (f"{row.value:,.6g}",)
    return (
        f"count {row.count:,.0f}",
        f"mean {row.value:.3g}",
        f"p50 <= {row.p50:g}",
        f"p99 <= {row.p99:g}",
    )
