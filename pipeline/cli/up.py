"""``headrace up``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from headrace.connectors.embedded.checks import require_extras
from headrace.connectors.embedded.paths import state_dir
from headrace.connectors.embedded.process import rotate, tail
from headrace.connectors.embedded.state import Endpoints, StackState, read_state
from headrace.pipeline.cli.status import members_table, trouble_lines
from headrace.pipeline.errors import ConfigError, StackError

if TYPE_CHECKING:  # the clients are loaded when they are needed, not for --help
    from headrace.connectors.embedded.stack import Stack
    from headrace.connectors.embedded.supervisor import Plan

_DETACHED_READY_SECONDS = 300.0


@click.command()
@click.option("--detach", "-d", is_flag=True, help="Return when everything is ready; 'headrace down' stops it.")
@click.option("--workers", type=click.IntRange(0, 64), default=1, show_default=True, help="Workers to run.")
@click.option(
    "--config",
    "-c",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="HEADRACE_CONFIG",
    help="The workers' pipeline.yaml; default HEADRACE_CONFIG, or none.",
)
@click.option(
    "--placement",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where the models run.",
)
@click.option(
    "--extra",
    "extras",
    metavar="NAME",
    multiple=True,
    envvar="HEADRACE_EXTRAS",
    help="An optional model to serve as well: content_type, speech_to_text or all; downloaded the first time. "
    "May be given several times.",
)
@click.option(
    "--models",
    "-m",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    envvar="HEADRACE_MODELS",
    help="A model repository of your own, served beside the bundled models; changed models are loaded again. "
    "May be given several times.",
)
@click.option("--supervise", is_flag=True, hidden=True, help="Be the process that --detach leaves behind.")
def command(
    detach: bool,
    workers: int,
    config: Path | None,
    placement: str,
    extras: tuple[str, ...],
    models: tuple[Path, ...],
    supervise: bool,
) -> None:
    """Start the embedded stack: Kafka, schema registry, Triton, topics and workers.

    Runs until Ctrl-C, or, with --detach, until 'headrace down'. Data is kept for the next start.
    """
    require_extras()
    console = Console(highlight=False, soft_wrap=True)
    state = read_state()
    if state is not None:
        _say_running(console, _ready(state) if detach else state)
        return
    plan = _plan(workers, config, placement, extras, models)
    if detach:
        _detach(console, plan)
    else:
        _run(console, plan, supervise)


def _say_running(console: Console, state: StackState) -> None:
    console.print(f"the embedded stack runs already (pid {state.owner_pid}); 'headrace down' stops it")
    if state.ready:
        _announce(console, state)


def _ready(state: StackState) -> StackState:
    """The state of a stack that another process starts, once it is ready."""
    deadline = time.monotonic() + _DETACHED_READY_SECONDS
    now: StackState | None = state
    while now is not None and now.owner == state.owner:
        if now.ready:
            return now
        if time.monotonic() > deadline:
            raise StackError(f"the stack that process {state.owner_pid} starts is not ready: look at its output")
        time.sleep(0.1)
        now = read_state()
    raise StackError(f"process {state.owner_pid} began to start the stack and ended: start it again")


def _announce(console: Console, state: StackState) -> None:
    console.print(members_table(state))
    for line in trouble_lines(state):
        console.print(line, markup=False)
    if state.endpoints is not None:
        console.print(f"Triton also answers at http://{state.endpoints.triton_http}")
    console.print(f"logs and data in {state.data_dir}")


def _run(console: Console, plan: Plan, supervised: bool) -> None:
    from headrace.connectors.embedded.supervisor import run

    def announce(state: StackState) -> None:
        _announce(console, state)
        if not supervised:
            console.print("Ctrl-C stops it")

    def warn(line: str) -> None:
        console.print(line, markup=False)

    run(_stack(plan), plan, announce, warn)
    console.print("the embedded stack is stopped")


def _stack(plan: Plan) -> Stack:
    from headrace.connectors.embedded.stack import Stack
    from headrace.connectors.embedded.supervisor import data_dir

    return Stack(data_dir(), placement=plan.placement, extras=plan.extras, models=plan.models)


def _detach(console: Console, plan: Plan) -> None:
    _stack(plan).prepare()  # here, where its progress can be seen
    log_path = state_dir() / "up.log"
    rotate(log_path)
    arguments = ["up", "--supervise", "--workers", str(plan.workers), "--placement", plan.placement]
    if plan.config is not None:
        arguments += ["--config", str(plan.config.absolute())]
    for name in plan.extras:
        arguments += ["--extra", name]
    for folder in plan.models:
        arguments += ["--models", str(folder)]
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
        _end(supervisor, plan.stop_seconds)
        raise
    _announce(console, state)
    console.print("'headrace status' shows it, 'headrace down' stops it")


def _wait_ready(supervisor: subprocess.Popen[bytes], log_path: Path) -> StackState:
    deadline = time.monotonic() + _DETACHED_READY_SECONDS
    while time.monotonic() < deadline:
        state = read_state()
        if state is not None and state.ready and state.owner_pid == supervisor.pid:
            return state
        if (code := supervisor.poll()) is not None:
            kind = ConfigError if code == ConfigError.exit_code else StackError
            raise kind(f"the embedded stack did not start; {log_path} ends with:\n{tail(log_path)}")
        time.sleep(0.1)
    raise StackError(f"not ready in {_DETACHED_READY_SECONDS:.0f} s; {log_path} ends with:\n{tail(log_path)}")


def _end(supervisor: subprocess.Popen[bytes], stop_seconds: float) -> None:
    supervisor.send_signal(signal.SIGTERM)
    try:
        supervisor.wait(stop_seconds)
    except subprocess.TimeoutExpired:
        supervisor.kill()
        supervisor.wait()


def _plan(workers: int, config: Path | None, placement: str, extras: tuple[str, ...], models: tuple[Path, ...]) -> Plan:
    """Reads the settings, so that a broken file is told before anything starts. Raises ConfigError."""
    from headrace.connectors.embedded.extras import chosen
    from headrace.connectors.embedded.supervisor import Plan
    from headrace.connectors.embedded.user_models import check_repository
    from headrace.connectors.kafka.admin import ensure_topics
    from headrace.connectors.registry import ConfluentRegistry
    from headrace.pipeline.settings_file import load_settings
    from headrace.pipeline.setup import register_contracts, topic_specs

    names = chosen(extras)
    for folder in models:
        check_repository(folder)
    drain_seconds = load_settings(config, os.environ).worker.drain_timeout_seconds

    def set_up(endpoints: Endpoints) -> None:
        settings = load_settings(config, {**os.environ, **endpoints.environment()})
        ensure_topics(endpoints.bootstrap_servers, topic_specs(settings), settings.kafka.client)
        with ConfluentRegistry(endpoints.registry_url, settings.registry.timeout_seconds) as registry:
            register_contracts(registry, settings)

    repositories = tuple(dict.fromkeys(folder.absolute() for folder in models))
    return Plan(placement, workers, config, drain_seconds, set_up, names, repositories)
