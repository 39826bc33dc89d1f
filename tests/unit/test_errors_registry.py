"""What each answer of a registry becomes is what docs/errors.md says: the real client, told each answer over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import NamedTuple

import pytest

from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.registry import ConfluentRegistry
from headrace.pipeline.envelope import RequestDecoder
from headrace.pipeline.errors import HeadraceError
from tests.docs.error_table import SECTIONS, Row, told
from tests.unit.error_examples import NO_SCHEMA, framed

ROWS = SECTIONS["The schema registry"]
LEVEL = "FULL"
FINE = b'{"id": 1, "compatibility": "FULL", "compatibilityLevel": "FULL"}'
NOT_FOUND = b'{"error_code": 40403, "message": "No content with that id was found."}'
REFUSED = b'{"error_code": 1, "message": "not for you"}'


class Answer(NamedTuple):
    status: int
    body: bytes = REFUSED
    headers: tuple[tuple[str, str], ...] = ()


Script = Callable[[str, str], Answer]
"""Method and path → the answer."""


@contextmanager
def answering(script: Script) -> Iterator[str]:
    """The address of a server."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = script(self.command, self.path)
            self.send_response(answer.status)
            for name, value in (*answer.headers, ("Content-Length", str(len(answer.body)))):
                self.send_header(name, value)
            with suppress(ConnectionError):  # the client may wait no longer
                self.end_headers()
                self.wfile.write(answer.body)

        do_GET = do_PUT = do_POST = answer

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asked(registry: ConfluentRegistry) -> HeadraceError:
    """What comes of a record whose schema is asked for: the worker tells the decoder what it was answered."""
    try:
        schema = registry.schema(NO_SCHEMA)
    except HeadraceError as error:
        return error
    decoder = RequestDecoder()
    decoder.add_schema(NO_SCHEMA, schema)
    with pytest.raises(HeadraceError) as caught:
        decoder.decode(framed(NO_SCHEMA))
    return caught.value


def registered(registry: ConfluentRegistry) -> HeadraceError:
    """What comes of a schema that is offered."""
    with pytest.raises(HeadraceError) as caught:
        registry.register("mill-value", '"int"', LEVEL)
    return caught.value


def always(*answers: Answer) -> list[tuple[Script, Callable[[ConfluentRegistry], HeadraceError]]]:
    """Each of these, whatever is asked for."""
    return [(lambda method, path, answer=answer: answer, asked) for answer in answers]  # type: ignore[misc]  # a default


def after(*answers: Answer) -> Script:
    """These in turn, and the last for ever."""
    left = list(answers)
    return lambda method, path: left.pop(0) if len(left) > 1 else left[0]


def forbidden_of_a_sudden(registry: ConfluentRegistry) -> HeadraceError:
    """Not one id alone, but what is our own, too."""
    assert registry.register("mill-value", '"int"', LEVEL) == 1
    return asked(registry)


def twice(registry: ConfluentRegistry) -> HeadraceError:
    asked(registry)
    return asked(registry)


def levels(method: str, path: str) -> Answer:
    """Another worker was quicker, and wants another level."""
    return Answer(409) if method == "PUT" else Answer(200, FINE.replace(b"FULL", b"NONE"))


def incompatible(status: int) -> Script:
    return lambda method, path: Answer(status) if method == "POST" else Answer(200, FINE)


CASES: dict[str, list[tuple[Script, Callable[[ConfluentRegistry], HeadraceError]]]] = {
    "not now": always(*map(Answer, (408, 425, 429, 500, 502, 503, 504, 599))),
    "unknown id": always(Answer(404, NOT_FOUND)),
    "unknown id, so soon": [(after(Answer(503), Answer(404, NOT_FOUND)), twice)],
    "refused id": always(Answer(400), Answer(403), Answer(422)),
    "refused": [
        *always(Answer(401), Answer(409), Answer(418), Answer(301)),
        (after(Answer(200, FINE), Answer(200, FINE), Answer(403)), forbidden_of_a_sudden),
        *((script, registered) for script, _ in always(Answer(400), Answer(401), Answer(403))),
    ],
    "no registry": always(
        Answer(404, b"not here"),
        Answer(404, b'{"detail": "not here"}'),
        *(Answer(200, body) for body in (b"<html>", b"{}", b"[]", b"")),
        Answer(200, b"no gzip", (("Content-Encoding", "gzip"),)),
    ),
    "incompatible": [(incompatible(409), registered), (incompatible(422), registered)],
    "at once with another": [(levels, registered)],
}


def cases() -> list[object]:
    return [
        pytest.param(row, *case, id=f"{row.name}-{number}")
        for row in ROWS
        for number, case in enumerate(CASES.get(row.name, ()))
    ]


@pytest.mark.parametrize(("row", "script", "ask"), cases())
def test_answer_becomes_what_its_row_says(
    row: Row, script: Script, ask: Callable[[ConfluentRegistry], HeadraceError]
) -> None:
    with answering(script) as url, ConfluentRegistry(url) as registry:
        told(row, ask(registry))


def test_no_answer_becomes_what_its_row_says() -> None:
    (row,) = (row for row in ROWS if row.name == "no answer")
    with PortReservation() as ports, ConfluentRegistry(f"http://127.0.0.1:{ports.take()}") as registry:
        told(row, asked(registry))
        told(row, registered(registry))
    let_go = Event()

    def late(method: str, path: str) -> Answer:
        let_go.wait(30)
        return Answer(200, FINE)

    with answering(late) as url, ConfluentRegistry(url, timeout_seconds=0.1) as registry:
        told(row, asked(registry))
        let_go.set()


def test_every_row_is_made_to_happen() -> None:
    assert [row.name for row in ROWS] == ["no answer", *CASES]


def test_statuses_of_each_row_are_those_that_are_tried() -> None:
    """What the page lists is what is asserted above, `500` standing for all above it."""
    for row in ROWS:
        if row.name in ("not now", "refused id"):
            tried = {str(script("GET", "/").status) for script, _ in CASES[row.name]}
            assert set(row.words) == {status for status in tried if int(status) <= 500}
