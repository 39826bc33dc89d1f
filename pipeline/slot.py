"""The lock on a worker slot, within one machine.

A slot is a worker's stable identity towards Kafka (transactional ids, static group membership). Two live holders would
fence each other for ever, so the second must find out and end before it touches Kafka. An abstract Unix socket is the
lock: the kernel frees it the moment the holder dies, and no file is left behind. Holders on other machines are found
through the consumer group (``connectors.kafka.group``).

Where workers are the pods of a StatefulSet, the slot is the ordinal at the end of the host name: `slot_number`.
"""

from __future__ import annotations

import hashlib
import re
import socket
import struct

from headrace.pipeline.config_slot import HIGHEST_SLOT, SLOT_OF_HOST
from headrace.pipeline.errors import ConfigError, SlotTakenError


def slot_number(slot: int | str, host_name: str | None = None) -> int:
    """The number that ``worker.slot`` stands for: itself, or the ordinal at the end of the host name.

    Args:
        slot: a number, or the word ``hostname``.
        host_name: of this machine if None; what follows its first dot does not count.

    Raises:
        ConfigError: the host name does not end in an ordinal.
    """
    if slot != SLOT_OF_HOST:
        return int(slot)
    name = socket.gethostname() if host_name is None else host_name
    ordinal = re.search(r"-([0-9]+)$", name.split(".", 1)[0])
    if ordinal is None:
        raise ConfigError(
            f"worker.slot is {SLOT_OF_HOST}, but the host name {name!r} does not end in an ordinal, as "
            "headrace-worker-3 does: run the workers as a StatefulSet, or give each its number (--slot N)"
        )
    if (number := int(ordinal[1])) > HIGHEST_SLOT:
        raise ConfigError(f"the host name {name!r} ends in {number}, but the highest slot is {HIGHEST_SLOT}")
    return number


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
