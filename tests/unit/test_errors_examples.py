"""Each error of a record, a part, an answer or user code is made to happen, and is what docs/errors.md says."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, NoReturn, cast

import pytest

from headrace.connectors.video.decoder import Decoder
from headrace.pipeline.agents import InferenceApp
from headrace.pipeline.config_output import UserCodeSettings
from headrace.pipeline.errors import FatalError, RetriableError, UnavailableError
from headrace.pipeline.limits import MAX_HOPS
from headrace.pipeline.records import InferenceResult, OutputRecord, Provenance, SourceRecord
from headrace.pipeline.replay.rules import ReplayRules
from headrace.pipeline.retrying import resumed
from headrace.pipeline.user_agents import Handed, RecordStream, host
from headrace.pipeline.user_code import Record, RejectError
from headrace.pipeline.user_modules import load_modules
from tests.docs.error_table import OWN_CODE, SECTIONS, Row, kind_of
from tests.unit.dispatch_bench import Bench as Dispatch
from tests.unit.error_examples import ANSWERS, CONTENTS, RECORD, ROUTES, Outcome, outcome_of, soon
from tests.unit.fakes import EPOCH_MS, on_virtual_time, request_value
from tests.unit.processor_bench import ROUTE, Bench, answer, letter_of

DELAYED = {**ROUTE, "retries": {"delays": ["5s"], "jitter": 0}}


def rows(*sections: str) -> list[Row]:
    return [row for section in sections for row in SECTIONS[section]]


def outcome_of_output(output: OutputRecord) -> Outcome:
    """What a record has come to: a dead letter, or the next delay topic."""
    if output.topic == "dead":
        letter = letter_of(output)
        return Outcome("poison", letter.stage, letter.code)
    _, retry = resumed(SourceRecord(Provenance(output.topic, 0, 0, EPOCH_MS), None, output.value, output.headers))
    return Outcome("retriable", retry.stage, retry.code)


def run(scene: Callable[[], Coroutine[Any, Any, Outcome]]) -> Outcome:
    """On a loop whose time is the test's."""
    found: list[Outcome] = []

    @on_virtual_time
    async def play() -> None:
        found.append(await scene())

    play()
    return found[0]


def as_told(row: Row, found: Outcome) -> None:
    assert row.letter
    stage, code = row.letter
    assert (found.kind, found.stage, found.code) == (row.kind, stage, "TOO_ODD" if code == OWN_CODE else code)


# --- what goes through the processor --------------------------------------------------------------------------------


class Broken(ReplayRules):
    """Stands for a mistake of headrace's own."""

    def __init__(self) -> None:
        """Of no replay."""

    def apply(self, *_: Any) -> NoReturn:
        raise KeyError("a mistake")


async def refused(*headers: tuple[str, bytes], **options: Any) -> Outcome:
    """Of an event that does not come to a model."""
    bench = Bench(DELAYED, **options)
    assert await bench.open((b"k", request_value(), headers)) == {}
    return outcome_of_output(bench.output())


async def unanswered(text: str = "turned", *headers: tuple[str, bytes], code: Any = None, **options: Any) -> Outcome:
    """Of an event that is answered, and whose answer cannot be written."""
    bench = Bench({**DELAYED, **options.pop("route", {})}, **options)
    if code is not None:
        bench.user_code.after["text"].append(code)
    task = await bench.open_text(*headers)
    bench.processor.finish(task, answer(task, text))
    await asyncio.sleep(1)
    return outcome_of_output(bench.output())


class Mistaken:
    """What user code may give for a result's outputs."""

    def __len__(self) -> int:
        raise RuntimeError("a mistake")


def _spoils_the_result(record: Record) -> InferenceResult:
    assert record.result is not None
    return replace(record.result, outputs=cast("Any", Mistaken()))


LARGE = "x" * 70_000
SMALL_TOPICS = {"max_message_bytes": 128 * 1024}
NEXT_STAGE = {"also_to": [{"topic": "requests", "write": "request"}]}
BOTH = {"a": "result.outputs[0].text", "b": "result.outputs[0].text"}
AUDIT = {"also_to": [{"topic": "audit", "write": "json", "fields": BOTH}]}
PROCESSED: Mapping[tuple[str, str], Callable[[], Coroutine[Any, Any, Outcome]]] = {
    ("decode", "UNEXPECTED"): lambda: refused(rules=Broken()),
    ("route", "BAD_HEADER"): lambda: refused(("reply_topic", b"replies"), ("reply_partition", b"2")),
    ("encode", "RESULT_TOO_LARGE"): lambda: unanswered(LARGE, **SMALL_TOPICS),
    ("encode", "ALSO_TO_FAILED"): lambda: unanswered("x" * 40_000, route=AUDIT, **SMALL_TOPICS),
    ("encode", "TOO_MANY_HOPS"): lambda: unanswered("t", ("hops", b"%d" % MAX_HOPS), route=NEXT_STAGE),
    ("encode", "UNEXPECTED"): lambda: unanswered(code=_spoils_the_result),
}

# --- what goes through a dispatcher ---------------------------------------------------------------------------------


async def dispatched(
    set_up: Callable[[Dispatch], object], records: int = 1, version: str = "", **route: Any
) -> Outcome:
    """Of the last of some events for a model."""
    bench = Dispatch(batch={"max_records": 1}, max_concurrency=1, **route)
    set_up(bench)
    await bench.begin()
    for number in range(records):
        await bench.dispatcher.submit([bench.task(number, version=version)])
        await soon(lambda number=number: number in bench.outcomes)  # type: ignore[misc]  # it is called at once
    return outcome_of(bench.outcomes[records - 1])


def _raises(error: Exception) -> Callable[[Dispatch], None]:
    def set_up(bench: Dispatch) -> None:
        bench.client.script = lambda call: error

    return set_up


def _does_not_serve(version: str) -> Callable[[Dispatch], None]:
    return lambda bench: bench.client.not_ready.add(("echo", version))


def _cannot_say_what_it_takes(bench: Dispatch) -> None:
    async def signature(model: str, version: str = "") -> NoReturn:
        raise KeyError("a mistake")

    bench.client.signature = signature  # type: ignore[method-assign]


BREAKING: dict[str, Any] = {"breaker": {"failures": 1}, "retries": {"max_attempts": 1, "delays": ["5s"]}}
DISPATCHED: Mapping[tuple[str, str], Callable[[], Coroutine[Any, Any, Outcome]]] = {
    ("admit", "BREAKER_OPEN"): lambda: dispatched(_raises(RetriableError("busy")), 2, **BREAKING),
    ("prepare", "UNEXPECTED"): lambda: dispatched(_cannot_say_what_it_takes),
    ("infer", "UNEXPECTED"): lambda: dispatched(_raises(KeyError("a mistake"))),
    ("infer", "RETRIES_EXHAUSTED"): lambda: dispatched(_raises(RetriableError("busy"))),
    ("infer", "MODEL_UNAVAILABLE"): lambda: dispatched(_does_not_serve("")),
    ("infer", "MODEL_NOT_FOUND"): lambda: dispatched(_does_not_serve("7"), version="7"),
}

# --- all of them ----------------------------------------------------------------------------------------------------


def example(row: Row) -> Callable[[], Outcome]:
    assert row.letter
    stage, code = row.letter
    if scene := PROCESSED.get(row.letter) or DISPATCHED.get(row.letter):
        return lambda: run(scene)
    if stage == "prepare":
        return CONTENTS[row.name, code]
    return {"decode": RECORD, "route": ROUTES, "admit": ROUTES}.get(stage, ANSWERS)[code]


BY_TRITON = {("infer", "INVALID_INPUT"), ("infer", "MODEL_UNSUPPORTED")}
"""Which only the client of Triton makes: see test_errors_triton.py."""
LETTERS = [
    row
    for row in rows("The record", "Routes and deadlines", "Contents", "Models", "Results")
    if row.letter and row.letter not in BY_TRITON
]


@pytest.mark.parametrize("row", LETTERS, ids=str)
def test_error_becomes_the_dead_letter_of_its_row(row: Row) -> None:
    as_told(row, example(row)())


def test_every_example_has_a_row() -> None:
    shown = {row.letter for row in LETTERS}
    assert PROCESSED.keys() | DISPATCHED.keys() <= shown
    assert {("decode", code) for code in RECORD} <= shown
    assert ROUTES.keys() | ANSWERS.keys() <= {code for _, code in filter(None, shown)}
    assert CONTENTS.keys() <= {(row.name, row.letter[1]) for row in rows("Contents") if row.letter}


async def test_decoder_that_cannot_be_started_is_not_the_videos_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = (row for row in rows("Contents") if row.letter is None)
    assert (row.name, row.kind, row.tried) == ("video", "retriable", ("waited for",))

    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", refuse)
    with pytest.raises(UnavailableError):
        await Decoder.start()


# --- user code ------------------------------------------------------------------------------------------------------


def _failing(error: BaseException) -> Callable[[Record], None]:
    def hook(record: Record) -> None:
        raise error

    return hook


async def _too_long(record: Record) -> None:
    await asyncio.sleep(31)


def _nonsense(record: Record) -> Any:
    return "yes"


HOOKS: Mapping[str, list[Callable[[Record], Any]]] = {
    "headrace.RejectError": [_failing(RejectError("TOO_ODD", "one is odd"))],
    "headrace.RetriableError": [_failing(RetriableError("not now")), _failing(UnavailableError("it is down"))],
    "time-out": [_too_long],
    "any other exception": [
        _failing(KeyError("x")),
        _failing(TimeoutError("db")),
        _failing(FatalError("x")),
        _nonsense,
    ],
}
WHERE = ("before", "after", "agent")


def user_code_rows() -> list[Any]:
    return [
        pytest.param(row, hook, where, id=f"{row.name}-{number}-{where}")
        for row in rows("Your own code")
        for number, hook in enumerate(HOOKS.get(row.name, ()))
        for where in WHERE
        if not (where == "agent" and hook is _nonsense)  # what an agent returns means nothing
    ]


@pytest.mark.parametrize(("row", "hook", "where"), user_code_rows())
def test_error_of_user_code_becomes_what_its_row_says(row: Row, hook: Callable[[Record], Any], where: str) -> None:
    async def scene() -> Outcome:
        bench = Bench(DELAYED)
        hosted: asyncio.Task[None] | None = None
        match where:
            case "before":
                bench.user_code.before.append(hook)
            case "after":
                bench.user_code.after["text"].append(hook)
            case _:
                hosted = _host(bench, hook)
        tasks = await bench.open((b"k", request_value(), ()))
        for task in tasks.get("text", ()):
            bench.processor.finish(task, answer(task))
        await asyncio.sleep(60)
        if hosted:
            hosted.cancel()
        return outcome_of_output(bench.output())

    as_told(row, run(scene))


def _host(bench: Bench, hook: Callable[[Record], Any]) -> asyncio.Task[None]:
    """An agent over the route's results, as an app hosts it."""
    handed: asyncio.Queue[Handed] = asyncio.Queue()

    async def agent(records: RecordStream) -> None:
        async for record in records:
            if (waits := hook(record)) is not None:
                await waits

    async def call(record: Record) -> None:
        one = Handed(record, asyncio.get_running_loop().create_future())
        handed.put_nowait(one)
        await one.done

    async def stream() -> Any:
        while True:
            yield await handed.get()

    bench.user_code.agents["text"].append(call)
    return asyncio.create_task(host(agent, stream(), 1, bench.user_code.timeout_seconds))


def test_error_around_user_code_is_unexpected() -> None:
    (row,) = (row for row in rows("Your own code") if row.name == "unexpected")

    async def closed(record: Record) -> None:
        raise RuntimeError("the channel is closed")

    async def scene() -> Outcome:
        bench = Bench(DELAYED)
        bench.user_code.agents["text"].append(closed)
        task = await bench.open_text()
        bench.processor.finish(task, answer(task))
        await asyncio.sleep(1)
        return outcome_of_output(bench.output())

    as_told(row, run(scene))


async def test_error_of_user_code_without_a_record_ends_the_process() -> None:
    (row,) = (row for row in rows("Your own code") if row.name == "no record")

    async def fails_at_once(records: RecordStream) -> None:
        raise KeyError("x")

    async def nothing() -> Any:
        await asyncio.Event().wait()
        yield

    with pytest.raises(ExceptionGroup) as ended:
        await host(fails_at_once, nothing(), 1, 30.0)
    (error,) = ended.value.exceptions
    assert isinstance(error, FatalError)
    assert (kind_of(error), error.exit_code) == (row.kind, row.exit_code)


def test_module_that_cannot_be_loaded_ends_the_process() -> None:
    (row,) = (row for row in rows("Your own code") if row.name == "module")
    with pytest.raises(FatalError) as ended:
        load_modules(UserCodeSettings(modules=("no_such_module",)), cast("InferenceApp", None))
    assert (kind_of(ended.value), ended.value.exit_code) == (row.kind, row.exit_code)


def test_every_row_of_user_code_is_made_to_happen() -> None:
    assert {row.name for row in rows("Your own code")} == {*HOOKS, "unexpected", "no record", "module"}
