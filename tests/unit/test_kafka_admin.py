from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from headrace.connectors.kafka.admin import admin_client, mapped
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
        (KafkaError.GROUP_AUTHORIZATION_FAILED, FatalError),
        (KafkaError.INVALID_REPLICATION_FACTOR, FatalError),
    ],
)
def test_only_what_passes_is_waited_for(code: int, kind: type[HeadraceError]) -> None:
    error = mapped(KafkaException(KafkaError(code)), "broker:9092", "topic t could not be created")
    assert type(error) is kind
    assert "topic t could not be created" in str(error)
