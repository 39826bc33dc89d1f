"""A client that finds no broker any more, although they answer others.

A broker that shuts down as the last one lists no brokers, and librdkafka forgets those that are not listed. It should
begin again with those that it was configured with, but sometimes never does (its issue 5301).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException

from headrace.connectors.kafka.admin import is_ready
from headrace.pipeline.errors import FatalError

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
CHECKS = 3
"""So many in a row: a client that is well finds a broker again within seconds of its return."""
BROKER_SECONDS = 1.0
"""How long a client may look for a broker that it can ask."""


class Client(Protocol):
    """A producer or a consumer."""

    def list_topics(self, *, timeout: float) -> Any: ...


def has_a_broker(client: Client, see: Callable[[Collection[str]], None] | None = None) -> bool:
    """Whether there is a broker that it can ask something. Takes up to a second if there is none.

    Args:
        client: that is to ask.
        see: is called with the topics that a broker lists.
    """
    try:
        found = client.list_topics(timeout=BROKER_SECONDS)
    except KafkaException as exception:
        return bool(exception.args[0].code() != KafkaError._TRANSPORT)
    if see is not None:
        see(found.topics)
    return True


class LostBrokers:
    """Finds it out. To be used by the client's own thread.

    Args:
        answers: whether a new client finds a broker; takes a second or two.
        clock: in seconds, never going back.
    """

    def __init__(self, answers: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._answers = answers
        self._clock = clock
        self._next_at: float | None = None
        self._missed = 0

    def note(self, error: KafkaError) -> None:
        """What the client tells of by itself. Else nobody is asked: to ask the last one that shuts down is how they are
        lost.
        """
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self._next_at is None:
            self._next_at = self._clock() + CHECK_SECONDS
            self._missed = 0

    def by(self, client: Client) -> bool:
        """Whether this client has lost them for good: then only a new one can go on."""
        if self._next_at is None or self._clock() < self._next_at:
            return False
        if has_a_broker(client):
            self._next_at = None
            return False
        self._next_at = self._clock() + CHECK_SECONDS
        self._missed = self._missed + 1 if self._answers() else 0
        return self._missed >= CHECKS


def lost_brokers(
    bootstrap_servers: str, client_config: Mapping[str, str | int | float | bool] | None = None
) -> LostBrokers:
    """For a client of these brokers, which a new one is made to ask.

    Args:
        bootstrap_servers: of the client.
        client_config: further librdkafka properties that it has.
    """
    return LostBrokers(partial(is_ready, bootstrap_servers, client_config))


def warn_of_new_client() -> None:
    """Of whoever goes on with a new one by itself."""
    log.warning("the Kafka client finds no broker any more, although they answer: going on with a new one")


def lost_brokers_error(bootstrap_servers: str) -> FatalError:
    """Of a reader, which does not go on with a new client by itself."""
    return FatalError(
        f"the Kafka client finds no broker at {bootstrap_servers} any more, although they answer: start again"
    )
