"""Small HTTP calls to a server on this machine: readiness checks, and Triton's model control."""

from __future__ import annotations

import http.client

from headrace.connectors.embedded.ports import LOOPBACK

_TIMEOUT_SECONDS = 2.0


def answers_ok(port: int, path: str) -> bool:
    """True if a GET is answered with status 200 now. Proxies in the environment play no part."""
    try:
        return call(port, "GET", path, _TIMEOUT_SECONDS)[0] == 200
    except OSError:
        return False


def call(port: int, method: str, path: str, timeout_seconds: float) -> tuple[int, bytes]:
    """Status and body of one answer; a POST sends an empty JSON object.

    Raises:
        OSError: if there is no answer, or none that is HTTP and whole; TimeoutError if none in time.
    """
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=timeout_seconds)
    try:
        connection.request(method, path, "{}" if method == "POST" else None)
        reply = connection.getresponse()
        return reply.status, reply.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"{method} {path}: no whole answer") from error
    finally:
        connection.close()
