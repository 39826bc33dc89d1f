"""A process that does another one's jobs (see ``processes``).

Run: ``python -m headrace.pipeline.cli.child SOCKET_FD PARENT_PID``.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from multiprocessing.connection import Connection

from headrace.connectors.video.child import die_with_parent
from headrace.pipeline.errors import HeadraceError
from headrace.pipeline.interpreter import look_for_garbage_seldom

ADVANCED, DONE, FAILED = "advanced", "done", "failed"


def main(arguments: list[str]) -> int:
    end = socket.socket(fileno=int(arguments[0]))
    die_with_parent(int(arguments[1]), end)
    connection = Connection(os.dup(end.fileno()))
    look_for_garbage_seldom()
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return 0
        try:
            done = job(lambda count: connection.send((ADVANCED, count)))
        except (HeadraceError, OSError) as error:
            connection.send((FAILED, error))
        except Exception:  # noqa: BLE001 - told in full: its own traceback does not travel
            connection.send((FAILED, RuntimeError(traceback.format_exc())))
        else:
            connection.send((DONE, done))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
