"""What each error of Kafka becomes is what docs/errors.md says, by the classifiers and by what is done then."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest
from confluent_kafka import KafkaError, KafkaException
from prometheus_client import REGISTRY

from headrace.connectors.kafka import transaction
from headrace.connectors.kafka.admin import mapped
from headrace.connectors.kafka.errors import PASSING, Meaning, meaning_of
from headrace.connectors.kafka.reader import explained
from headrace.pipeline import errors
from headrace.pipeline.errors import ConfigError, FatalError, OutputRefusedError, UnavailableError
from headrace.pipeline.ports import CommitUnit, OffsetCommit
from headrace.pipeline.records import OutputRecord
from tests.docs.error_table import SECTIONS, Row, kind_of, told
from tests.unit.fake_coordinator import error
from tests.unit.fake_group_client import Bench as Consuming
from tests.unit.fake_group_client import FakeMessage, wait_until
from tests.unit.fakes import on_virtual_time
from tests.unit.processor_bench import Bench as Processing
from tests.unit.processor_bench import answer, letter_of
from tests.unit.transaction_bench import ONCE, P0
from tests.unit.transaction_bench import Bench as Transactions

CODES = {
    name: getattr(KafkaError, name)
    for name in dir(KafkaError)
    if name.strip("_").isupper() and isinstance(getattr(KafkaError, name), int) and name != "NO_ERROR"
}
"""Every one that the client library knows."""


def named(section: str, name: str) -> Row:
    (row,) = (row for row in SECTIONS[section] if row.name == name)
    return row


def codes(row: Row) -> set[str]:
    return {word for word in row.words if word in CODES}


# --- transactions ---------------------------------------------------------------------------------------------------

TRANSACTIONS = {row.lead[0]: row for row in SECTIONS["Kafka: transactions"] if row.lead}
SAID = {
    Meaning.RETRY: ("_TIMED_OUT", "retriable"),
    Meaning.ABORT: ("UNKNOWN_TOPIC_OR_PART", "abortable"),
    Meaning.STALE_GENERATION: ("ILLEGAL_GENERATION", "abortable"),
    Meaning.INDEFINITE: ("_FENCED", "fatal"),
    Meaning.MEMBER_FENCED: ("FENCED_INSTANCE_ID", "abortable"),
    Meaning.TOO_LARGE: ("MSG_SIZE_TOO_LARGE", ""),
    Meaning.FATAL: ("TOPIC_AUTHORIZATION_FAILED", "abortable"),
}
"""An error of each meaning, and what librdkafka says of it."""
BY_CODE = (Meaning.STALE_GENERATION, Meaning.MEMBER_FENCED, Meaning.TOO_LARGE, Meaning.FATAL)
"""Those that the code decides, whatever librdkafka says."""


def said(meaning: Meaning) -> KafkaError:
    code, kind = SAID[meaning]
    return error(CODES[code], kind)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "MAX_BACKOFF_SECONDS", 0.0005)
    monkeypatch.setattr(transaction, "LOST_SECONDS", 0.01)


def test_every_meaning_has_a_row_and_no_other() -> None:
    assert set(TRANSACTIONS) == {meaning.value for meaning in Meaning}


@pytest.mark.parametrize("meaning", Meaning)
def test_error_means_what_its_row_says(meaning: Meaning) -> None:
    assert meaning_of(said(meaning)) is meaning
    for code in codes(TRANSACTIONS[meaning.value]):
        assert meaning_of(error(CODES[code], "abortable")) is meaning


def test_codes_that_decide_are_those_of_the_rows() -> None:
    decided = {name for name, code in CODES.items() if meaning_of(error(code, "abortable")) is not Meaning.ABORT}
    assert decided == set().union(*(codes(TRANSACTIONS[meaning.value]) for meaning in BY_CODE))
    assert all(not codes(TRANSACTIONS[meaning.value]) for meaning in set(Meaning) - set(BY_CODE))


def unit(*values: bytes) -> CommitUnit:
    outputs = tuple(OutputRecord("results", None, value) for value in values)
    return CommitUnit(outputs, (OffsetCommit(P0, 1, "m1"),), len(values), lambda: True)


def retries(meaning: Meaning) -> float:
    return REGISTRY.get_sample_value("headrace_transaction_retries_total", {"reason": meaning.value}) or 0.0


@pytest.mark.parametrize("meaning", [meaning for meaning in Meaning if meaning is not Meaning.TOO_LARGE])
async def test_error_that_comes_once_and_for_ever_ends_as_its_row_says(
    meaning: Meaning, caplog: pytest.LogCaptureFixture
) -> None:
    row = TRANSACTIONS[meaning.value]
    before = retries(meaning)
    bench = Transactions()
    bench.coordinator.answer("commit", said(meaning))
    if row.kind == "retriable":
        assert await bench.commit()
        assert bench.visible == ONCE
        new_transaction, new_producer = bench.coordinator.count("abort"), bench.coordinator.count("begin") - 1
        assert (bool(new_transaction), bool(new_producer or new_transaction)) == (
            "new transaction" in row.tried,
            row.tried[0] != "same call",
        )
    else:
        with pytest.raises(FatalError) as ended:
            await bench.commit()
        assert (kind_of(ended.value), ended.value.exit_code) == (row.kind, row.exit_code)
        return
    if row.tried[0] != "same call":
        assert retries(meaning) == before + 1
        assert f"transaction of 1 records: {meaning.value}, " in caplog.text
    lasting = Transactions(timeout_seconds=0.05)
    lasting.coordinator.answer("commit", said(meaning), times=100_000)
    with pytest.raises(FatalError) as ended:
        await lasting.commit()
    assert ended.value.exit_code == row.exit_code


async def test_batch_that_is_too_large_is_written_all_the_same() -> None:
    row = TRANSACTIONS["too_large"]
    before = retries(Meaning.TOO_LARGE)
    bench = Transactions()
    bench.coordinator.largest_bytes = 2
    await bench.transactions.start()
    assert await bench.transactions.commit(unit(b"11", b"22"))
    assert bench.coordinator.outputs == [b"11", b"22"]
    assert (row.kind, row.tried, row.becomes) == ("retriable", ("new transaction",), "—")
    assert retries(Meaning.TOO_LARGE) == before + 1


async def test_record_that_is_too_large_alone_is_refused() -> None:
    bench = Transactions()
    bench.coordinator.largest_bytes = 2
    await bench.transactions.start()
    with pytest.raises(OutputRefusedError) as refused:
        await bench.transactions.commit(unit(b"11", b"333"))
    assert refused.value.index == 1


@on_virtual_time
async def test_refused_record_becomes_the_dead_letter_of_its_row() -> None:
    row = named("Kafka: transactions", "one record")
    bench = Processing()
    task = await bench.open_text()
    bench.processor.finish(task, answer(task))
    collected = bench.flow.collect(10)
    assert collected is not None
    (output,) = bench.flow.refuse(collected, OutputRefusedError(0, "too large")).commit.outputs
    letter = letter_of(output)
    assert (row.kind, row.letter) == ("poison", (letter.stage, letter.code))


# --- consuming ------------------------------------------------------------------------------------------------------


class FailedMessage(FakeMessage):
    def __init__(self, code: int) -> None:
        super().__init__(0, 0)
        self._code = code

    def error(self) -> KafkaError:
        return KafkaError(self._code, "why")


def consuming(*names: str) -> Consuming:
    """Whose client tells of these errors, one after the other."""
    bench = Consuming()
    left = deque(FailedMessage(CODES[name]) for name in names)
    poll = bench.client.poll
    bench.client.poll = lambda timeout: left.popleft() if left else poll(timeout)  # type: ignore[method-assign]
    bench.client.news_in_consume.clear()
    return bench


FENCED, REFUSED = (named("Kafka: consuming", name) for name in ("fenced", "refused"))


@pytest.mark.parametrize("row", [FENCED, REFUSED], ids=str)
async def test_error_of_the_consumer_ends_the_process_as_its_row_says(row: Row) -> None:
    assert codes(row)
    for name in codes(row):
        bench = consuming(name)
        await bench.consumer.start(bench.flow)
        with pytest.raises(FatalError) as ended:
            async with asyncio.timeout(5):
                await bench.consumer.wait_ended()
        told(row, ended.value)
        assert isinstance(ended.value, errors.FencedError) == (row is FENCED)


async def test_any_other_error_of_the_consumer_is_left_to_the_client(caplog: pytest.LogCaptureFixture) -> None:
    row = named("Kafka: consuming", "any other")
    others = sorted(CODES.keys() - codes(FENCED) - codes(REFUSED))
    bench = consuming(*others)
    await bench.consumer.start(bench.flow)
    await wait_until(lambda: caplog.text.count("consume: why") == len(others))
    await bench.consumer.stop()
    await bench.consumer.wait_ended()
    assert (row.kind, row.tried, row.becomes) == ("retriable", ("by the client",), "—")


# --- all other calls ------------------------------------------------------------------------------------------------

PASSES, IS_REFUSED, DIFFERS = (named("Kafka: all other calls", name) for name in ("passing", "refused", "not as set"))


@pytest.mark.parametrize("name", sorted(CODES))
def test_error_of_another_call_becomes_what_its_row_says(name: str) -> None:
    row = PASSES if name in codes(PASSES) else IS_REFUSED
    told(row, mapped(KafkaException(KafkaError(CODES[name], "why")), "nowhere:9092", "topics could not be listed"))


def test_codes_that_pass_are_those_of_the_row() -> None:
    passing = {name for name, code in CODES.items() if code in PASSING}
    assert codes(PASSES) == passing | {"UNKNOWN_TOPIC_OR_PART"}
    for name in passing:
        assert isinstance(explained(KafkaError(CODES[name]), "nowhere:9092"), UnavailableError)


def test_topic_that_is_not_as_set_ends_the_process_as_its_row_says() -> None:
    told(DIFFERS, ConfigError("topic mill has 1 partitions, fewer than the 4 set"))


# --- the process ----------------------------------------------------------------------------------------------------


def test_every_class_that_ends_a_process_has_its_row_and_exit_code() -> None:
    found = {row.name: row.exit_code for row in SECTIONS["The process"]}
    assert found.pop("unexpected") == FatalError.exit_code
    assert found == {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, FatalError)
    }
