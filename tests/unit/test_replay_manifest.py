"""A run and its progress as records."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.ports import StartPosition
from headrace.pipeline.replay.manifest import (
    Progress,
    ProgressDecoder,
    Run,
    RunDecoder,
    RunState,
    check_run_id,
    encode_progress,
    encode_run,
)
from headrace.pipeline.replay.settings import RECORD_BYTES
from tests.unit.replay_bench import PLAN
from tests.unit.strategies import PROGRESSES, RUNS

SCHEMA_ID = 7


def decoder_of(schema: str) -> RunDecoder:
    decoder = RunDecoder()
    decoder.add_schema(SCHEMA_ID, schema)
    return decoder


@settings(deadline=None)  # a busy machine
@given(RUNS)
def test_run_is_read_as_it_was_written(run: Run) -> None:
    assert decoder_of(schema_json(Contract.REPLAY_RUN)).decode(encode_run(run, SCHEMA_ID)) == run


@pytest.mark.parametrize(
    ("symbols", "expected"),
    [
        ('"UNKNOWN", "RUNNING", "STOPPED", "COMPLETE", "PAUSED"', RunState.COMPLETE),
        ('"UNKNOWN", "RUNNING", "STOPPED", "PAUSED", "COMPLETE"', RunState.RUNNING),
    ],
)
def test_state_that_a_later_release_added_is_of_a_run_that_is_not_over(symbols: str, expected: RunState) -> None:
    """A symbol's place is what is written: with the second of these schemas our bytes of COMPLETE are PAUSED."""
    newer = schema_json(Contract.REPLAY_RUN).replace('"UNKNOWN", "RUNNING", "STOPPED", "COMPLETE"', symbols)
    assert "PAUSED" in newer
    value = encode_run(Run(PLAN, RunState.COMPLETE, 1, results=3), SCHEMA_ID)
    found = decoder_of(newer).decode(value)
    assert (found.state, found.results) == (expected, 3)


@settings(deadline=None)  # a busy machine
@given(PROGRESSES)
def test_progress_is_read_as_it_was_written(progress: Progress) -> None:
    decoder = ProgressDecoder()
    decoder.add_schema(SCHEMA_ID, schema_json(Contract.REPLAY_PROGRESS))
    assert decoder.decode(encode_progress(progress, SCHEMA_ID)) == progress


def test_progress_of_a_thousand_partitions_fits_its_topic_whatever_is_done_in_them() -> None:
    """4,096 bytes of metadata is what the windows of offsets are made for."""
    full = {partition: StartPosition(2**62, "m" * 4096) for partition in range(1_000)}
    assert len(encode_progress(Progress("x" * 63, "w" * 36, positions=full), SCHEMA_ID)) < RECORD_BYTES


@pytest.mark.parametrize("run", ["a", "0", "20271231-235959-echo-v4", "a_b-c", "x" * 63])
def test_run_id_may_be_of_small_letters_digits_dashes_and_underscores(run: str) -> None:
    assert check_run_id(run) == run


@pytest.mark.parametrize("run", ["", "-a", "_a", "A", "a.b", "a b", "ä", "a\n", "x" * 64])
def test_run_id_that_names_cannot_have_is_refused(run: str) -> None:
    with pytest.raises(ConfigError, match="is no id of a run: lower-case letters, digits, - and _, at most 63 of them"):
        check_run_id(run)
