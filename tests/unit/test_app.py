"""What the composition root hands on."""

from __future__ import annotations

import pytest

from headrace.connectors.kafka.consumer_settings import ConsumerSettings
from headrace.pipeline import app
from headrace.pipeline.budget import Budget
from headrace.pipeline.config import Settings, TopicSettings
from headrace.pipeline.health import Health


async def test_consumer_is_told_how_large_records_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[ConsumerSettings] = []
    monkeypatch.setattr(app, "GroupConsumer", lambda settings, budget: told.append(settings))
    connections = app.KafkaTritonConnections(Settings(topics=TopicSettings(max_message_bytes=12_345_678)))
    _, transactions = connections.open(Budget(1, 1), Health())
    await transactions.close()
    await connections.inference.close()
    assert [settings.max_message_bytes for settings in told] == [12_345_678]
