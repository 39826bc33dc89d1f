"""What a KafkaError of a transaction call means to us, decided once."""

from __future__ import annotations

import enum

from confluent_kafka import KafkaError


class Meaning(enum.Enum):
    """What to do about it."""

    RETRY = "retry"
    """The same call again: librdkafka resumes where it was."""
    ABORT = "abort"
    """Abort the transaction, then the same unit again in a new one."""
    STALE_GENERATION = "stale_generation"
    """The group metadata is of an older generation: abort, then again with fresh metadata while still the owner."""
    INDEFINITE = "indefinite"
    """The producer or the call's fate is lost: replace the producer, then read from the broker what happened."""
    MEMBER_FENCED = "member_fenced"
    """The group holds another for this member: a second process, or itself, as it joined anew."""
    TOO_LARGE = "too_large"
    """A record, or the batch that it was sent in, is larger than its topic takes: abort, then find out which."""
    FATAL = "fatal"
    """Not allowed, not supported or misconfigured: ends the process with the broker's own words."""


_STALE = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
    }
)
_FATAL = frozenset(
    {
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError.INVALID_TRANSACTION_TIMEOUT,
        KafkaError.OFFSET_METADATA_TOO_LARGE,
    }
)

PASSING = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._RESOLVE,
        KafkaError._WAIT_COORD,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.LISTENER_NOT_FOUND,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_CONTROLLER,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.THROTTLING_QUOTA_EXCEEDED,
        KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    }
)
"""Nobody is there to answer now: worth another try. ``retriable()`` says so of transactional calls alone; ``_`` marks
librdkafka's own, public codes."""

REFUSED = frozenset({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED})
"""A reader's client tells of these aside from its records only, and goes on trying for ever."""


def meaning_of(error: KafkaError) -> Meaning:
    """Classify an error raised by a transactional producer's call (librdkafka's "transactional producer" manual).

    A fenced *producer* is not a fenced *member*: the coordinator also bumps the epoch of a transaction that it timed
    out (after a pause of this process or the broker). So a producer is replaced, and only a member whose static
    identity was taken ends the process; of two holders of a slot one loses its membership and ends.
    """
    code = error.code()
    if code == KafkaError.FENCED_INSTANCE_ID:
        return Meaning.MEMBER_FENCED
    if code in _FATAL:
        return Meaning.FATAL
    if code in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE):
        return Meaning.TOO_LARGE
    if error.fatal():
        return Meaning.INDEFINITE
    if code in _STALE:
        return Meaning.STALE_GENERATION
    if error.txn_requires_abort():
        return Meaning.ABORT
    if error.retriable():
        return Meaning.RETRY
    return Meaning.INDEFINITE
