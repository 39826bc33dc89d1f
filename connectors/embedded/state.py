"""The state file of ``headrace up``: how other commands find the stack that runs. Imports nothing heavy."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from headrace.connectors.embedded.owners import is_alive
from headrace.connectors.embedded.paths import state_dir
from headrace.pipeline.errors import StackError


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a stack's servers answer."""

    bootstrap_servers: str
    """Kafka, ``host:port``."""
    registry_url: str
    """Base URL of the Confluent-compatible API."""
    triton_grpc: str
    """``host:port``."""
    triton_http: str
    """``host:port``."""
    triton_metrics_url: str

    def environment(self) -> dict[str, str]:
        """Environment variables that point headrace's settings at these servers."""
        return {
            "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "HEADRACE_REGISTRY__URL": self.registry_url,
            "HEADRACE_TRITON__URL": self.triton_grpc,
        }


@dataclass(frozen=True, slots=True)
class Member:
    """One process of the stack, as it was when the state was written."""

    name: str
    pid: int
    state: str
    """``running``, ``restarting`` or ``failed``."""
    endpoint: str
    log: str


@dataclass(frozen=True, slots=True)
class StackState:
    """A stack and the process that owns it."""

    owner: str
    """Owner tag of the supervising process (see ``owners``)."""
    ready: bool
    endpoints: Endpoints | None
    data_dir: str
    members: tuple[Member, ...] = field(default=())

    @property
    def owner_pid(self) -> int:
        return int(self.owner.partition("-")[0])


def state_file() -> Path:
    return state_dir() / "stack.json"


def write_state(state: StackState) -> None:
    """Replace the state file in one step."""
    path = state_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{state.owner}")
    scratch.write_text(json.dumps(asdict(state), indent=2) + "\n")
    scratch.replace(path)


def read_state() -> StackState | None:
    """The state of the running stack; None if there is none, also if its owner died without removing the file.

    Raises:
        StackError: if the file is not one of ours.
    """
    path = state_file()
    try:
        raw = json.loads(path.read_text())
        endpoints = Endpoints(**raw.pop("endpoints")) if raw["endpoints"] else None
        members = tuple(Member(**member) for member in raw.pop("members"))
        raw.pop("endpoints", None)
        state = StackState(**raw, endpoints=endpoints, members=members)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StackError(f"{path} cannot be read ({error}): run 'headrace down', or delete it") from error
    return state if is_alive(state.owner) else None


def remove_state() -> None:
    state_file().unlink(missing_ok=True)


def running_endpoints() -> Endpoints | None:
    """Endpoints of the stack that ``headrace up`` runs, None if none is up and ready. Raises StackError."""
    state = read_state()
    return state.endpoints if state is not None and state.ready else None
