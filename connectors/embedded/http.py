"""One small GET to a server on this machine, for readiness checks."""

from __future__ import annotations

import http.client

from headrace.connectors.embedded.ports import LOOPBACK

_TIMEOUT_SECONDS = 2.0


def answers_ok(port: int, path: str) -> bool:
    """True if a GET is answered with status 200 now. Proxies in the environment play no part."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
