from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from headrace.connectors.kafka.errors import Meaning, meaning_of

RETRIABLE = {"fatal": False, "retriable": True, "txn_requires_abort": False}
ABORTABLE = {"fatal": False, "retriable": False, "txn_requires_abort": True}
FATAL = {"fatal": True, "retriable": False, "txn_requires_abort": False}
PLAIN = {"fatal": False, "retriable": False, "txn_requires_abort": False}


@pytest.mark.parametrize(
    ("code", "flags", "meaning"),
    [
        (KafkaError._TIMED_OUT, RETRIABLE, Meaning.RETRY),
        (KafkaError.CONCURRENT_TRANSACTIONS, RETRIABLE, Meaning.RETRY),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, ABORTABLE, Meaning.ABORT),
        (KafkaError._TIMED_OUT, ABORTABLE, Meaning.ABORT),
        (KafkaError._TIMED_OUT, PLAIN, Meaning.INDEFINITE),
        (KafkaError._STATE, PLAIN, Meaning.INDEFINITE),
        (KafkaError._FENCED, FATAL, Meaning.INDEFINITE),
        (KafkaError.INVALID_PRODUCER_EPOCH, FATAL, Meaning.INDEFINITE),
        (KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, FATAL, Meaning.INDEFINITE),
        (KafkaError.ILLEGAL_GENERATION, ABORTABLE, Meaning.STALE_GENERATION),
        (KafkaError.UNKNOWN_MEMBER_ID, ABORTABLE, Meaning.STALE_GENERATION),
        (KafkaError.REBALANCE_IN_PROGRESS, ABORTABLE, Meaning.STALE_GENERATION),
        (KafkaError.STALE_MEMBER_EPOCH, ABORTABLE, Meaning.STALE_GENERATION),
        (KafkaError.FENCED_MEMBER_EPOCH, ABORTABLE, Meaning.STALE_GENERATION),
        (KafkaError.ILLEGAL_GENERATION, FATAL, Meaning.INDEFINITE),
        (KafkaError.FENCED_INSTANCE_ID, ABORTABLE, Meaning.MEMBER_FENCED),
        (KafkaError.FENCED_INSTANCE_ID, FATAL, Meaning.MEMBER_FENCED),
        (KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, FATAL, Meaning.FATAL),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, ABORTABLE, Meaning.FATAL),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, ABORTABLE, Meaning.FATAL),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, FATAL, Meaning.FATAL),
        (KafkaError.SASL_AUTHENTICATION_FAILED, RETRIABLE, Meaning.FATAL),
        (KafkaError._AUTHENTICATION, RETRIABLE, Meaning.FATAL),
        (KafkaError.UNSUPPORTED_VERSION, PLAIN, Meaning.FATAL),
        (KafkaError.INVALID_TRANSACTION_TIMEOUT, FATAL, Meaning.FATAL),
        (KafkaError.OFFSET_METADATA_TOO_LARGE, ABORTABLE, Meaning.FATAL),
        (KafkaError.MSG_SIZE_TOO_LARGE, PLAIN, Meaning.TOO_LARGE),
        (KafkaError._UNSUPPORTED_FEATURE, FATAL, Meaning.FATAL),
    ],
)
def test_error_means(code: int, flags: dict[str, bool], meaning: Meaning) -> None:
    assert meaning_of(KafkaError(code, "why", **flags)) is meaning


def test_error_that_may_be_retried_but_needs_an_abort_is_aborted() -> None:
    """To repeat the call in a transaction that can only be aborted would fail for ever."""
    assert meaning_of(KafkaError(KafkaError._TIMED_OUT, "why", False, True, True)) is Meaning.ABORT
