"""Records written beside results and dead letters, by ``also_to`` or user code: checked here, before they are owed.

A record that Kafka would refuse inside the transaction would hold up all others: so topic, kind, size and partition
are checked while it can still become a dead letter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.pipeline.config import Settings
from headrace.pipeline.config_output import ValueKind
from headrace.pipeline.envelope import encode_request, encode_result
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.records import Headers, InferenceRequest, InferenceResult, OutputRecord
from headrace.pipeline.setup import HEADERS_ALLOWANCE_BYTES, ContractIds, emitted_kinds

Value = InferenceRequest | InferenceResult | Mapping[str, Any] | Sequence[Any] | bytes | str | None


class Emitter:
    """Makes output records for the topics that the settings name for it.

    Args:
        ids: of the contracts' schemas.
        partitions: of each of these topics.
    """

    def __init__(self, settings: Settings, ids: ContractIds, partitions: Mapping[str, int]) -> None:
        self._kinds = emitted_kinds(settings)
        self._limit = settings.topics.max_message_bytes - HEADERS_ALLOWANCE_BYTES
        self._ids = ids
        self._partitions = partitions

    def record(
        self, topic: str, value: Value, key: bytes | None = None, headers: Headers = (), partition: int | None = None
    ) -> OutputRecord:
        """A record for a topic.

        Raises:
            ValueError: the topic is not in ``topics.emitted``, has no such partition, or does not take such a value.
        """
        kind = self._kinds.get(topic)
        if kind is None:
            known = ", ".join(self._kinds) or "none"
            raise ValueError(f"topic {topic} is not one to emit to: add it to topics.emitted (there: {known})")
        if partition is not None and not 0 <= partition < self._partitions[topic]:
            raise ValueError(f"{topic} has partitions 0 to {self._partitions[topic] - 1}, not {partition}")
        data = self._encoded(topic, kind, value)
        headers_bytes = sum(len(name.encode()) + len(content or b"") for name, content in headers)
        if headers_bytes > HEADERS_ALLOWANCE_BYTES // 2:
            raise ValueError(
                f"{headers_bytes} bytes of headers are more than the {HEADERS_ALLOWANCE_BYTES // 2} allowed"
            )
        size = len(data or b"") + len(key or b"")
        if size > self._limit:
            raise ValueError(
                f"the record for {topic} has {size} bytes, more than {self._limit}: write less, or raise "
                "topics.max_message_bytes"
            )
        return OutputRecord(topic, key, data, headers, partition)

    def _encoded(self, topic: str, kind: ValueKind, value: Value) -> bytes | None:
        try:
            if kind is ValueKind.REQUEST and isinstance(value, InferenceRequest):
                return encode_request(value, self._ids.request)
            if kind is ValueKind.RESULT and isinstance(value, InferenceResult):
                return encode_result(value, self._ids.result)
        except PoisonError as error:
            raise ValueError(f"the {kind} for {topic} is not valid: {error.message}") from error
        if kind is ValueKind.JSON and not isinstance(value, bytes | InferenceRequest | InferenceResult):
            return None if value is None else _json(topic, value)
        if kind is ValueKind.BYTES and (value is None or isinstance(value, bytes | str)):
            return value.encode() if isinstance(value, str) else value
        raise ValueError(f"{topic} takes {_WANTED[kind]} (topics.emitted says {kind}), not {type(value).__name__}")


_WANTED = {
    ValueKind.REQUEST: "an InferenceRequest",
    ValueKind.RESULT: "an InferenceResult",
    ValueKind.JSON: "what JSON can hold",
    ValueKind.BYTES: "bytes or text",
}


def _json(topic: str, value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the value for {topic} cannot be written as JSON: {error}") from error
