from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import pytest

from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.registry import ConfluentRegistry
from headrace.pipeline.errors import FatalError, UnavailableError

SCHEMA = '{"type": "record", "name": "Mill", "fields": [{"name": "id", "type": "string"}]}'
BREAKING = '{"type": "record", "name": "Mill", "fields": [{"name": "id", "type": "int"}]}'
LEVEL = "FULL_TRANSITIVE"


@pytest.fixture
def registry(stack: Endpoints) -> Iterator[ConfluentRegistry]:
    with ConfluentRegistry(stack.registry_url) as connected:
        yield connected


class Answer(BaseHTTPRequestHandler):
    """Answers every request with one status and body, but the first ``busy`` ones with 503."""

    status: ClassVar[int]
    body: ClassVar[bytes]
    busy: ClassVar[int] = 0
    answers: ClassVar[tuple[int, bytes] | None] = None
    """If set, what all servers answer from now on."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = type(self)
        status, body = self.answers or (self.status, self.body)
        self.send_response(503 if kind.busy else status)
        kind.busy = max(0, kind.busy - 1)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = answer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    """Starts a server that is no registry; returns its address."""
    servers = []

    def start(status: int, body: bytes, busy: int = 0) -> str:
        handler = type("Handler", (Answer,), {"status": status, "body": body, "busy": busy})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_registered_schema_is_found_by_its_id(registry: ConfluentRegistry, names: Callable[[str], str]) -> None:
    schema_id = registry.register(names("value"), SCHEMA, LEVEL)
    assert registry.schema(schema_id) == SCHEMA


def test_registered_schema_is_found_by_another_client(
    registry: ConfluentRegistry, stack: Endpoints, names: Callable[[str], str]
) -> None:
    """Not from this client's cache: ids mean the same when registering and when asking."""
    schema_id = registry.register(names("value"), SCHEMA, LEVEL)
    with ConfluentRegistry(stack.registry_url) as other:
        assert other.schema(schema_id) == SCHEMA


def test_registering_again_gives_the_same_id(
    registry: ConfluentRegistry, stack: Endpoints, names: Callable[[str], str]
) -> None:
    with ConfluentRegistry(stack.registry_url) as other:
        assert registry.register(names("value"), SCHEMA, LEVEL) == other.register(names("value"), SCHEMA, LEVEL)


def test_registering_from_many_workers_at_once_gives_all_of_them_the_same_id(
    stack: Endpoints, names: Callable[[str], str]
) -> None:
    def register(_: int) -> int:
        with ConfluentRegistry(stack.registry_url) as own:
            return own.register(names("value"), SCHEMA, LEVEL)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(register, range(8)))) == 1


@pytest.mark.parametrize("schema_id", [0, 999_999, 2**31 - 1])
def test_unknown_id_is_none(registry: ConfluentRegistry, schema_id: int) -> None:
    assert registry.schema(schema_id) is None


def test_incompatible_schema_is_refused_with_subject_and_reason(
    registry: ConfluentRegistry, names: Callable[[str], str]
) -> None:
    registry.register(names("value"), SCHEMA, LEVEL)
    with pytest.raises(FatalError, match=r"(?i)incompatible") as caught:
        registry.register(names("value"), BREAKING, LEVEL)
    assert names("value") in str(caught.value)


def test_text_that_is_no_schema_is_refused(registry: ConfluentRegistry, names: Callable[[str], str]) -> None:
    with pytest.raises(FatalError, match="refuses the schema"):
        registry.register(names("value"), '{"type": "recrod"}', LEVEL)


def test_registry_that_is_down_is_unavailable() -> None:
    with PortReservation() as ports, ConfluentRegistry(f"http://127.0.0.1:{ports.take()}") as registry:
        with pytest.raises(UnavailableError, match="asked for schema 5"):
            registry.schema(5)
        with pytest.raises(UnavailableError, match="subject mill-value"):
            registry.register("mill-value", SCHEMA, LEVEL)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_registry_in_trouble_is_unavailable(answering: Callable[[int, bytes], str], status: int) -> None:
    with (
        ConfluentRegistry(answering(status, b"<html>busy</html>")) as registry,
        pytest.raises(UnavailableError, match=str(status)),
    ):
        registry.schema(5)


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b"not here"), (404, b'{"detail": "not here"}'), (401, b"{}"), (200, b"<html>"), (200, b"{}"), (200, b"[]")],
)
def test_address_of_something_else_is_fatal_and_says_where_to_look(
    answering: Callable[[int, bytes], str], status: int, body: bytes
) -> None:
    """Taken for a registry without that id, it would make every record poison."""
    with ConfluentRegistry(answering(status, body)) as registry, pytest.raises(FatalError, match=r"registry\.url|log"):
        registry.schema(5)


def test_unknown_id_is_believed_only_some_time_after_an_outage(
    answering: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apicurio answers so while it still loads: good records would become dead letters."""
    url = answering(404, b'{"error_code": 40403, "message": "No content with ID 5 was found."}', busy=1)
    with ConfluentRegistry(url) as registry:
        for expected in ("503", "so soon after an outage", "so soon after an outage"):
            with pytest.raises(UnavailableError, match=expected):
                registry.schema(5)
        monkeypatch.setattr("headrace.connectors.registry.SETTLING_SECONDS", 0.0)
        assert registry.schema(5) is None


def test_unknown_id_is_not_believed_while_what_was_registered_is_not_found_either(
    answering: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry was down and came back between two questions. What is deleted is not waited for without end."""
    with ConfluentRegistry(answering(200, b'{"id": 1, "compatibility": "FULL"}')) as registry:
        registry.register("mill-value", SCHEMA, "FULL")
        monkeypatch.setattr(Answer, "answers", (404, b'{"error_code": 40403, "message": "No content with ID 5."}'))
        for expected in ("mill-value is not found, which we registered", "so soon after an outage"):
            with pytest.raises(UnavailableError, match=expected):
                registry.schema(5)
        monkeypatch.setattr("headrace.connectors.registry.SETTLING_SECONDS", 0.0)
        with pytest.raises(UnavailableError, match="mill-value is not found"):
            registry.schema(5)
        monkeypatch.setattr("headrace.connectors.registry.LOADING_SECONDS", 0.0)
        assert registry.schema(5) is None


def test_unknown_id_is_believed_while_what_was_registered_is_found(
    registry: ConfluentRegistry, names: Callable[[str], str]
) -> None:
    registry.register(names("value"), SCHEMA, LEVEL)
    assert registry.schema(2_000_000_000) is None


@pytest.mark.parametrize("status", [400, 403, 422])
def test_id_that_is_refused_is_as_good_as_unknown(answering: Callable[[int, bytes], str], status: int) -> None:
    """A registry with permissions a subject, asked for another team's schema: the sender's fault, not the worker's."""
    body = b'{"error_code": %d, "message": "not for you"}' % status
    with ConfluentRegistry(answering(status, body)) as registry:
        assert registry.schema(5) is None


def test_registry_that_forbids_all_of_a_sudden_is_fatal(
    answering: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials that expired, say: every record of a new schema would become a dead letter."""
    with ConfluentRegistry(answering(200, b'{"id": 1, "compatibility": "FULL"}')) as registry:
        registry.register("mill-value", SCHEMA, "FULL")
        monkeypatch.setattr(Answer, "answers", (403, b'{"error_code": 40301, "message": "not for you any more"}'))
        with pytest.raises(FatalError, match="not for you any more"):
            registry.schema(5)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_refused_registration_is_fatal(answering: Callable[[int, bytes], str], status: int) -> None:
    with (
        ConfluentRegistry(answering(status, b'{"error_code": 1, "message": "not for you"}')) as registry,
        pytest.raises(FatalError, match="not for you"),
    ):
        registry.register("mill-value", SCHEMA, LEVEL)


def test_password_in_the_address_is_not_told() -> None:
    with PortReservation() as ports:
        url = f"http://user:secret@127.0.0.1:{ports.take()}"
        with ConfluentRegistry(url) as registry, pytest.raises(UnavailableError) as caught:
            registry.schema(5)
    assert "secret" not in str(caught.value)
