from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from headrace.connectors.kafka.admin import admin_client, mapped, with_reason
from headrace.pipeline.errors import ConfigError, FatalError, HeadraceError, UnavailableError


def test_unknown_client_property_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match=r'^kafka\.client: No such configuration property: "foo\.bar"$'):
        admin_client("localhost:9092", {"foo.bar": 1})


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError._TIMED_OUT, UnavailableError),
        (KafkaError._RESOLVE, UnavailableError),
        (KafkaError.COORDINATOR_LOAD_IN_PROGRESS, UnavailableError),
        (KafkaError.NOT_CONTROLLER, UnavailableError),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, UnavailableError),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, FatalError),
        (KafkaError.INVALID_REPLICATION_FACTOR, FatalError),
    ],
)
def test_only_what_passes_is_waited_for(code: int, kind: type[HeadraceError]) -> None:
    error = mapped(KafkaException(KafkaError(code)), "broker:9092", "topic t could not be created")
    assert type(error) is kind
    assert "topic t could not be created" in str(error)


def test_broker_that_does_not_answer_is_told_with_the_clients_reason() -> None:
    client = admin_client("127.0.0.1:1")  # where nobody listens
    with pytest.raises(KafkaException) as caught:
        client.list_topics(timeout=0.2)
    error = mapped(caught.value, "127.0.0.1:1", "topics could not be listed")
    assert type(error) is UnavailableError
    assert "Connection refused" in str(error)


def test_refusal_goes_before_whatever_else_the_client_tells() -> None:
    error = KafkaException(KafkaError(KafkaError._TRANSPORT, "Failed to get metadata"))
    refused = KafkaError(KafkaError._AUTHENTICATION, "SASL authentication error: invalid credentials")
    gone = KafkaError(KafkaError._TRANSPORT, "Disconnected")
    down = KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down")
    told = mapped(with_reason(error, [refused, gone, down]), "broker:9092", "topics could not be listed")
    assert type(told) is FatalError
    assert str(told) == "topics could not be listed: SASL authentication error: invalid credentials"
    assert with_reason(error, [gone, down]).args[0].str() == "Disconnected"
    assert with_reason(error, [down]) is error
