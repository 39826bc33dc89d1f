"""Small HTTP calls to a server on this machine: readiness checks, and Triton's model control."""

from __future__ import annotations

import http.client

from headrace.connectors.embedded.ports import LOOPBACK

_TIMEOUT_SECONDS = 2.0


def answers_ok(port: int, path: str) -> bool:
    """True if a GET is answered with status 200 now. Proxies in the environment play no part."""
    try:
        return call(port, "GET", path, _TIMEOUT_SECONDS)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def call(port: int, method: str, path: str, timeout_seconds: float) -> tuple[int, bytes]:
    """Status and body of one answer; a POST sends an empty JSON object.

    Raises:
        OSError: if there is no answer, TimeoutError if none in time.
        http.client.HTTPException: if the answer is not HTTP, or breaks off.
    """
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=timeout_seconds)
    try:
        connection.request(method, path, "{}" if method == "POST" else None)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()
