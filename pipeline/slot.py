"""The lock on a worker slot, within one machine.

A slot is a worker's stable identity towards Kafka (transactional ids, static group membership). Two live holders would
fence each other for ever, so the second must find out and end before it touches Kafka. An abstract Unix socket is the
lock: the kernel frees it the moment the holder dies, and no file is left behind. Holders on other machines are found
through the consumer group (``connectors.kafka.group``).
"""

from __future__ import annotations

import hashlib
import socket
import struct

from headrace.pipeline.errors import SlotTakenError


class SlotLock:
    """Held from ``acquire`` until ``release`` or the end of the process.

    Args:
        scope: what the slot is unique in: the Kafka cluster and the consumer group.
        slot: its number.
    """

    def __init__(self, scope: str, slot: int) -> None:
        digest = hashlib.sha256(scope.encode()).hexdigest()[:32]
        self._address = f"\0headrace-slot-{digest}-{slot}"
        self._slot = slot
        self._socket: socket.socket | None = None

    def acquire(self) -> None:
        """Raises SlotTakenError if a live process of this machine holds the slot."""
        held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            held.bind(self._address)
            held.listen()
        except OSError:
            held.close()
            raise SlotTakenError(
                f"worker slot {self._slot} is held by {self._holder()} on this machine: "
                "stop that worker, or give this one another slot (--slot N)"
            ) from None
        self._socket = held

    def release(self) -> None:
        if self._socket:
            self._socket.close()
            self._socket = None

    def _holder(self) -> str:
        credentials = struct.Struct("3i")  # struct ucred: pid, uid, gid
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(1.0)
            try:
                client.connect(self._address)
                peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
            except OSError:
                return "another process"
        return f"process {credentials.unpack(peer)[0]}"
