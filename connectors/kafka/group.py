"""Who holds a worker slot on another machine: read from the consumer group."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Mapping

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from headrace.connectors.kafka.admin import admin_client, mapped
from headrace.pipeline.errors import SlotTakenError

log = logging.getLogger(__name__)

PROBE_SECONDS = 5.0
DESCRIBE_SECONDS = 15.0
"""Far above what a broker that answers needs: librdkafka aborts the process when an answer comes after the time-out
(its issue 4605), so nothing is described before the broker is known to be there."""
MARGIN_SECONDS = 2.0


def client_id(instance_id: str) -> str:
    """How a worker's consumer introduces itself: tells the machine, so that another can tell a twin from itself."""
    return f"{instance_id}@{socket.gethostname()}"


def wait_until_slot_is_free(
    bootstrap_servers: str,
    group_id: str,
    instance_id: str,
    session_timeout_seconds: float,
    client: Mapping[str, str | int | float | bool],
) -> None:
    """Return when no member of the group on *another* machine has this identity.

    A dead one is gone when its session times out; one that stays longer is alive. (On this machine ``slot.SlotLock``
    has made sure already.)

    Raises:
        SlotTakenError: another machine's worker is alive in this slot.
        UnavailableError: Kafka does not answer.
        FatalError: it does not let us look.
    """
    admin = admin_client(bootstrap_servers, client)
    deadline = time.monotonic() + session_timeout_seconds + MARGIN_SECONDS
    while twin := _twin(admin, bootstrap_servers, group_id, instance_id):
        if time.monotonic() > deadline:
            raise SlotTakenError(
                f"this worker's slot is held by {twin} in group {group_id}: "
                "stop that worker, or give this one another slot (--slot N)"
            )
        log.info("waiting for %s to leave the group or time out", twin)
        time.sleep(0.5)


def _twin(admin: AdminClient, bootstrap_servers: str, group_id: str, instance_id: str) -> str | None:
    try:
        admin.list_topics(timeout=PROBE_SECONDS)
        group = admin.describe_consumer_groups([group_id], request_timeout=DESCRIBE_SECONDS)[group_id].result()
    except KafkaException as exception:
        if exception.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return None
        raise mapped(exception, bootstrap_servers, f"group {group_id} could not be described") from exception
    for member in group.members:
        if member.group_instance_id == instance_id and member.client_id != client_id(instance_id):
            return f"{member.client_id} ({member.host})"
    return None
