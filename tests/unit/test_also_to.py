"""Second records, through the processor: what stands beside the result in its transaction."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from pydantic import ValidationError

from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.config import Settings
from headrace.pipeline.envelope import RequestDecoder
from headrace.pipeline.headers import delivery_of
from headrace.pipeline.limits import MAX_HOPS
from headrace.pipeline.records import InferenceRequest, Modality, NamedTensor, OutputRecord, PartOutput, Tensor
from headrace.pipeline.setup import topic_specs
from tests.unit.fakes import EPOCH_MS, REQUEST_SCHEMA, on_virtual_time, request, text_part
from tests.unit.processor_bench import ROUTE, TOPICS, TRACE, Bench, answer, letter_of, result_of

TENSOR = Tensor("FP32", (1,), b"\0\0\x80\x3f")


def bench_with(*also: dict[str, Any], **topics: Any) -> Bench:
    return Bench({**ROUTE, "also_to": list(also)}, **topics)


def next_event(output: OutputRecord) -> InferenceRequest:
    decoder = RequestDecoder()
    decoder.add_schema(REQUEST_SCHEMA, schema_json(Contract.REQUEST))
    return decoder.decode(output.value)


@on_virtual_time
async def test_copy_of_the_result_goes_along() -> None:
    bench = bench_with({"topic": "audit"})
    task = await bench.open_text()
    bench.processor.finish(task, answer(task))
    result, copy = bench.committed()
    assert (result.topic, copy.topic, copy.key) == ("results", "audit", b"k")
    assert result_of(copy) == result_of(result)


@on_virtual_time
async def test_json_record_has_the_mapped_fields_and_event_headers() -> None:
    fields = {"id": "request.id", "said": "result.outputs[0].text", "sure": "result.outputs[0].labels[0].score"}
    bench = bench_with({"topic": "audit", "write": "json", "fields": fields, "type": "note.seen"})
    task = await bench.open_text(("traceparent", TRACE))
    bench.processor.finish(task, answer(task, "turned ☔"))
    mapped = bench.committed()[1]
    assert json.loads(mapped.value or b"") == {"id": request().id, "said": "turned ☔", "sure": None}
    headers = dict(mapped.headers)
    assert headers["ce_type"] == b"note.seen"
    assert headers["content-type"] == b"application/json"
    assert headers["correlation_id"] == request().id.encode()
    assert (headers["traceparent"] or b"").startswith(TRACE[:35])


@on_virtual_time
async def test_next_stage_gets_the_text_as_an_event_of_its_own() -> None:
    bench = bench_with({"topic": "stage2", "write": "request", "type": "note.turned", "model": "embed"})
    task = await bench.open_text(
        ("reply_topic", b"replies"),
        ("reply_partition", b"1"),
        ("correlation_id", b"c"),
        ("deadline", b"%d" % (EPOCH_MS + 5000)),
        ("priority", b"7"),
    )
    bench.processor.finish(task, answer(task))
    output = bench.committed()[1]
    event = next_event(output)
    assert (event.type, event.source, event.model) == ("note.turned", "mill/text", "embed")
    assert [(part.name, part.modality, part.content) for part in event.parts] == [("text", Modality.TEXT, "turned")]
    asked = delivery_of(output.headers)
    assert (asked.reply_topic, asked.reply_partition) == (None, None)  # the first stage has answered
    assert (asked.correlation_id, asked.deadline_ms, asked.priority, asked.hops) == (b"c", EPOCH_MS + 5000, 7, 1)


@on_virtual_time
async def test_next_event_has_the_same_id_whenever_it_is_made() -> None:
    ids = set()
    for _ in range(2):
        bench = bench_with({"topic": "stage2", "write": "request"}, {"topic": "other", "write": "request"})
        task = await bench.open_text()
        bench.processor.finish(task, answer(task))
        ids.add(tuple(next_event(output).id for output in bench.committed()[1:]))
    assert len(ids) == 1
    first, second = ids.pop()
    assert len({request().id, first, second}) == 3
    assert uuid.UUID(first).version == 5


@on_virtual_time
async def test_next_stage_gets_the_tensors() -> None:
    bench = bench_with({"topic": "stage2", "write": "request", "parts": "tensors"})
    task = await bench.open_text()
    bench.processor.finish(task, PartOutput("text", "text", "echo", "3", (NamedTensor("EMBEDDING", TENSOR),)))
    (part,) = next_event(bench.committed()[1]).parts
    assert (part.name, part.modality, part.content) == ("EMBEDDING", Modality.TENSOR, TENSOR)


@on_virtual_time
async def test_tensors_of_several_parts_are_told_apart() -> None:
    bench = bench_with({"topic": "stage2", "write": "request", "parts": "tensors"})
    tasks = await bench.open((b"k", _two_parts(), ()))
    for task in tasks["text"]:
        bench.processor.finish(task, PartOutput(task.part.name, "text", "echo", "3", (NamedTensor("E", TENSOR),)))
    assert [part.name for part in next_event(bench.committed()[1]).parts] == ["a.E", "b.E"]


def _two_parts() -> bytes:
    from tests.unit.fakes import request_value

    return request_value(text_part(name="a"), text_part(name="b"))


@on_virtual_time
async def test_next_stage_gets_the_original_parts() -> None:
    bench = bench_with({"topic": "stage2", "write": "request", "parts": "original"})
    task = await bench.open_text()
    bench.processor.finish(task, answer(task))
    assert next_event(bench.committed()[1]).parts == request().parts


@on_virtual_time
async def test_nothing_said_is_no_event() -> None:
    bench = bench_with({"topic": "stage2", "write": "request"}, {"topic": "audit"})
    task = await bench.open_text()
    bench.processor.finish(task, answer(task, ""))
    assert [output.topic for output in bench.committed()] == ["results", "audit"]


@on_virtual_time
async def test_circle_of_stages_ends_as_a_dead_letter() -> None:
    bench = bench_with({"topic": "requests", "write": "request"})
    task = await bench.open_text(("hops", b"%d" % (MAX_HOPS - 1)))
    bench.processor.finish(task, answer(task))
    assert delivery_of(bench.committed()[1].headers).hops == MAX_HOPS
    task = await bench.open_text(("hops", b"%d" % MAX_HOPS))
    bench.processor.finish(task, answer(task))
    assert bench.letter().code == "TOO_MANY_HOPS"


@on_virtual_time
async def test_record_too_large_for_its_topic_makes_the_event_a_dead_letter_alone() -> None:
    fields = {"a": "result.outputs[0].text", "b": "result.outputs[0].text"}
    bench = bench_with({"topic": "audit", "write": "json", "fields": fields}, max_message_bytes=128 * 1024)
    task = await bench.open_text()
    bench.processor.finish(task, answer(task, "x" * 40_000))
    letter = letter_of(bench.output())
    assert (letter.stage, letter.code) == ("encode", "ALSO_TO_FAILED")
    assert "raise topics.max_message_bytes" in letter.message


@on_virtual_time
async def test_dead_letter_has_no_second_record() -> None:
    from headrace.pipeline.errors import PoisonError

    bench = bench_with({"topic": "audit"})
    task = await bench.open_text()
    bench.processor.finish(task, PoisonError("infer", "BAD_INPUT", "no"))
    assert bench.output().topic == "dead"


def settings_with(*also: dict[str, Any], **topics: Any) -> Settings:
    routes = [{**ROUTE, "also_to": list(also)}]
    return Settings.model_validate({"topics": {**TOPICS, **topics}, "routes": routes})


REFUSED: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "no fields": ([{"topic": "a", "write": "json"}], {}, "fields and `write: json` go together"),
    "fields of a result": ([{"topic": "a", "fields": {"x": "request.id"}}], {}, "fields and `write: json` go together"),
    "bad path": ([{"topic": "a", "write": "json", "fields": {"x": "request.idd"}}], {}, "fields.x: 'request.idd'"),
    "bytes": ([{"topic": "a", "write": "bytes"}], {}, "write is result, request or json"),
    "two kinds": ([{"topic": "a"}, {"topic": "a", "write": "request"}], {}, "a is to hold both result and request"),
    "kind emitted": ([{"topic": "a"}], {"emitted": {"a": "json"}}, "a is to hold both json and result"),
    "reply topic": ([{"topic": "results"}], {}, "results cannot be written to by also_to"),
    "dead letters": ([], {"emitted": {"dead": "json"}}, "dead cannot be written to by also_to"),
    "loop": ([{"topic": "requests"}], {}, "which would loop"),
}


@pytest.mark.parametrize(("also", "topics", "message"), REFUSED.values(), ids=REFUSED)
def test_settings_that_cannot_be_are_refused(also: list[dict[str, Any]], topics: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings_with(*also, **topics)
    assert message in str(caught.value)


def test_topics_written_to_are_made_like_the_others() -> None:
    settings = settings_with({"topic": "audit"}, emitted={"alerts": "json"})
    assert {spec.name for spec in topic_specs(settings)} >= {"audit", "alerts", "requests", "results", "dead"}
