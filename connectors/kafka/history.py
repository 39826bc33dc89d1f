"""A topic's past: what is retained, and what was there at a time."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from concurrent.futures import TimeoutError as TooLateError

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]  # it re-exports this without saying so

from headrace.connectors.kafka.admin import REQUEST_SECONDS, admin_client, listed_topics, mapped
from headrace.pipeline.errors import FatalError, UnavailableError
from headrace.pipeline.replay.ranges import Retained

_PASSING = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError._NOENT,
    }
)
"""Said while a partition's leader changes."""


class KafkaTopicHistory:
    """Implements ``ranges.TopicHistory``. Only looks: joins no group, commits nothing."""

    def __init__(
        self, bootstrap_servers: str, topic: str, client_config: Mapping[str, str | int | float | bool]
    ) -> None:
        self._where = bootstrap_servers
        self._topic = topic
        self._client = admin_client(bootstrap_servers, client_config)

    def retained(self) -> Mapping[int, Retained]:
        starts = self.starts()
        ends = self._offsets(OffsetSpec.latest())  # type: ignore[no-untyped-call]  # the client declares no types there
        return {partition: Retained(start, max(start, ends[partition])) for partition, start in starts.items()}

    def starts(self) -> Mapping[int, int]:
        """The oldest offset of each partition. Raises as ``retained``."""
        return self._offsets(OffsetSpec.earliest())  # type: ignore[no-untyped-call]

    def offsets_at(self, epoch_ms: int) -> Mapping[int, int | None]:
        found = self._offsets(OffsetSpec.for_timestamp(epoch_ms))
        return {partition: offset if offset >= 0 else None for partition, offset in found.items()}

    def written(self) -> Mapping[int, int]:
        """Where each partition ends, what is not committed included. Raises as ``retained``."""
        return self._offsets(OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)  # type: ignore[no-untyped-call]

    @functools.cached_property
    def partitions(self) -> tuple[int, ...]:
        """Of the topic, when it was first asked. Raises as ``retained``."""
        known = listed_topics(self._client, self._where).get(self._topic)
        if known is None or known.error is not None or not known.partitions:
            raise FatalError(f"topic {self._topic} does not exist at {self._where}")
        return tuple(sorted(known.partitions))

    def _offsets(self, spec: OffsetSpec, isolation: IsolationLevel = IsolationLevel.READ_COMMITTED) -> dict[int, int]:
        asked = {TopicPartition(self._topic, partition): spec for partition in self.partitions}
        futures = self._client.list_offsets(asked, isolation_level=isolation, request_timeout=REQUEST_SECONDS)
        try:
            return {place.partition: future.result(REQUEST_SECONDS + 1).offset for place, future in futures.items()}
        except TooLateError as error:
            raise UnavailableError(f"Kafka at {self._where} does not answer: offsets of {self._topic}") from error
        except KafkaException as error:
            if error.args[0].code() in _PASSING:
                raise UnavailableError(f"{self._topic}: {error.args[0].str()}") from error
            raise mapped(error, self._where, f"offsets of {self._topic} could not be read") from error
