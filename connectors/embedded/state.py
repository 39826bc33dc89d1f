"""The state file of ``headrace up``: how other commands find the stack that runs. Imports nothing heavy."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from headrace.connectors.embedded.owners import is_alive
from headrace.connectors.embedded.paths import atomic_write, state_dir
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
    trouble: str = ""
    """Why it could not be started again, if so."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """One of the user's own models (``headrace up --models``)."""

    name: str
    folder: str
    serving: bool
    """It answers, though perhaps as it was before its last change."""
    trouble: str = ""
    """Why it could not be loaded as it is now, in Triton's words."""
    loading: bool = False
    """What is on disk now is not loaded yet, and was not refused either."""

    @property
    def current(self) -> bool:
        """It is served as its files are now."""
        return self.serving and not self.loading and not self.trouble


@dataclass(frozen=True, slots=True)
class StackState:
    """A stack and the process that owns it."""

    owner: str
    """Owner tag of the supervising process (see ``owners``)."""
    ready: bool
    endpoints: Endpoints | None
    data_dir: str
    members: tuple[Member, ...] = field(default=())
    stop_seconds: float = 90.0
    """The longest that stopping it takes."""
    models: tuple[ModelState, ...] = field(default=())

    @property
    def healthy(self) -> bool:
        """Started, every process of it runs, and the user's models are served as they are on disk."""
        running = all(member.state == "running" for member in self.members)
        return self.ready and running and all(model.current for model in self.models)

    @property
    def owner_pid(self) -> int:
        return int(self.owner.partition("-")[0])


def state_file() -> Path:
    return state_dir() / "stack.json"


def write_state(state: StackState) -> None:
    """Replace the state file in one step."""
    atomic_write(state_file(), json.dumps(asdict(state), indent=2) + "\n")


def read_state() -> StackState | None:
    """The state of the running stack; None if there is none, also if its owner died without removing the file.

    A file that cannot be opened is no stack of this user's: commands that only look for one do without.

    Raises:
        StackError: if the file is not one of ours.
    """
    try:
        path = state_file()
        raw = json.loads(path.read_text())
        endpoints = Endpoints(**raw.pop("endpoints")) if raw["endpoints"] else None
        members = tuple(Member(**member) for member in raw.pop("members"))
        models = tuple(ModelState(**model) for model in raw.pop("models", ()))
        raw.pop("endpoints", None)
        state = StackState(**raw, endpoints=endpoints, members=members, models=models)
        return state if is_alive(state.owner) else None
    except OSError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StackError(f"{path} cannot be read ({error}): run 'headrace down', or delete it") from error


def remove_state() -> None:
    state_file().unlink(missing_ok=True)


def running_endpoints() -> Endpoints | None:
    """Endpoints of the stack that ``headrace up`` runs, None if none is up and ready. Raises StackError."""
    state = read_state()
    return state.endpoints if state is not None and state.ready else None
