"""A processor over one partition of a fake broker, and its outputs decoded."""

from __future__ import annotations

from typing import Any

from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.budget import Budget
from headrace.pipeline.config import Settings
from headrace.pipeline.envelope import DeadLetterDecoder, RequestDecoder, ResultDecoder
from headrace.pipeline.flow import Flow
from headrace.pipeline.journey import PartTask
from headrace.pipeline.processor import Processor
from headrace.pipeline.records import (
    DeadLetter,
    Headers,
    InferenceResult,
    OutputRecord,
    PartOutput,
    RecordBatch,
    TopicPartition,
)
from headrace.pipeline.replay.rules import ReplayRules
from headrace.pipeline.retrying import delay_topics
from headrace.pipeline.setup import ContractIds, emitted_kinds
from headrace.pipeline.user_code import UserCode
from tests.unit.fakes import (
    DEAD_LETTER_SCHEMA,
    REQUEST_SCHEMA,
    RESULT_SCHEMA,
    FakeBroker,
    FakeSource,
    LoopClock,
    request_value,
)

P0 = TopicPartition("requests", 0)
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TOPICS = {"requests": ["requests"], "results": "results", "dead_letters": "dead"}
ROUTE = {"name": "text", "model": "echo", "match": {"modality": ["TEXT"]}, "reply_topics_allowed": ["replies"]}
PARTITIONS = {"requests": 1, "results": 4, "replies": 2, "dead": 1}


class Bench:
    """A processor over one partition; its outputs, decoded."""

    def __init__(self, *routes: dict[str, Any], rules: ReplayRules | None = None, **topics: Any) -> None:
        settings = Settings.model_validate(
            {"name": "mill", "topics": {**TOPICS, **topics}, "routes": list(routes or (ROUTE,))}
        )
        self.delays = [TopicPartition(topic, 0) for topic in delay_topics(settings)]
        self.user_code = UserCode(30.0)
        decoder = RequestDecoder()
        decoder.add_schema(REQUEST_SCHEMA, schema_json(Contract.REQUEST))
        self.broker = FakeBroker()
        self.batches: list[RecordBatch] = []
        self.flow = Flow(Budget(1000, 10**9), self.batches.append, 10.0)
        self.source = FakeSource(self.broker, Budget(1000, 10**9))
        ids = ContractIds(REQUEST_SCHEMA, RESULT_SCHEMA, DEAD_LETTER_SCHEMA)
        self.processor = Processor(
            settings,
            "mill-0",
            decoder,
            ids,
            {**PARTITIONS, **dict.fromkeys(emitted_kinds(settings), 4)},
            self.flow,
            LoopClock(),
            self.user_code,
            rules,
        )

    async def open(
        self, *records: tuple[bytes | None, bytes | None, Headers], partition: TopicPartition = P0
    ) -> dict[str, list[PartTask]]:
        """Each of key, value and headers; the tasks by route."""
        if not self.source.started:
            await self.source.start(self.flow)
            await self.source.assign(P0, *self.delays)
        for key, value, headers in records:
            self.broker.send(partition, key, value, headers)
        self.source.poll()
        return await self.processor.open_batch(self.batches.pop())

    async def open_text(self, *headers: tuple[str, bytes], key: bytes | None = b"k", **fields: Any) -> PartTask:
        tasks = await self.open((key, request_value(**fields), headers))
        return tasks["text"][0]

    def committed(self) -> list[OutputRecord]:
        unit = self.flow.collect(1000)
        return list(unit.commit.outputs) if unit else []

    def output(self) -> OutputRecord:
        outputs = self.committed()
        assert len(outputs) == 1
        return outputs[0]

    def letter(self) -> DeadLetter:
        output = self.output()
        assert output.topic == "dead"
        return letter_of(output)


def letter_of(output: OutputRecord) -> DeadLetter:
    decoder = DeadLetterDecoder()
    decoder.add_schema(DEAD_LETTER_SCHEMA, schema_json(Contract.DEAD_LETTER))
    return decoder.decode(output.value)


def result_of(output: OutputRecord) -> InferenceResult:
    decoder = ResultDecoder()
    decoder.add_schema(RESULT_SCHEMA, schema_json(Contract.RESULT))
    return decoder.decode(output.value)


def answer(task: PartTask, text: str = "turned") -> PartOutput:
    return PartOutput(task.part.name, task.route, task.model, "3", text=text)
