from __future__ import annotations

from headrace.pipeline.offset_report import PartitionReport, report
from headrace.pipeline.offsets import NEAR, OffsetBitmap
from headrace.pipeline.overviews import CommittedOffset, TopicState
from headrace.pipeline.records import TopicPartition


def reported(committed: CommittedOffset | None, start: int = 0, end: int = 100_000) -> PartitionReport:
    where = TopicPartition("requests", 0)
    state = TopicState(1, 1, 1_000_000, {0: start}, {0: end})
    (found,) = report({"requests": state, "gone": None}, {where: committed} if committed else {})
    return found


def metadata(base: int, *done: range) -> str:
    bitmap = OffsetBitmap(base)
    for run in done:
        for offset in run:
            bitmap.add(offset)
    return bitmap.encode(base)


def test_partition_without_commit_owes_all_that_is_retained() -> None:
    found = reported(None, start=10, end=30)
    assert (found.committed, found.owed, found.done_above, found.format) == (None, 20, 0, "")


def test_what_is_done_above_is_not_owed() -> None:
    found = reported(CommittedOffset(10, metadata(10, range(12, 15), range(20, 21))), end=30)
    assert found.runs == ((12, 15), (20, 21))
    assert (found.format, found.done_above, found.owed) == ("h1", 4, 16)


def test_far_runs_are_shown_with_the_near_ones() -> None:
    far = range(NEAR + 500, NEAR + 900)
    found = reported(CommittedOffset(10, metadata(10, range(11, 13), far)))
    assert found.runs == ((11, 13), (far.start, far.stop))
    assert (found.format, found.done_above) == ("h2", 402)


def test_metadata_of_somebody_else_is_a_complaint_and_counts_as_none() -> None:
    found = reported(CommittedOffset(10, "reset by hand"), end=30)
    assert "reset by hand" in found.complaint
    assert (found.problem, found.format, found.owed) == ("", "", 20)


def test_metadata_that_a_worker_would_refuse_is_a_problem() -> None:
    found = reported(CommittedOffset(10, "h1:10:?"), end=30)
    assert "damaged" in found.problem
    assert (found.complaint, found.format, found.runs) == ("", "", ())


def test_offset_below_the_oldest_record_owes_only_what_is_retained() -> None:
    assert reported(CommittedOffset(10, ""), start=50, end=60).owed == 10


def test_what_is_done_beyond_the_end_that_was_seen_or_is_no_longer_retained_is_not_taken_off() -> None:
    """Ends are asked for before the committed offsets, which go on meanwhile; retention does not wait for the group."""
    assert reported(CommittedOffset(10, metadata(10, range(12, 30))), end=20).owed == 2
    assert reported(CommittedOffset(25, metadata(25, range(27, 30))), end=20).owed == 0
    assert reported(CommittedOffset(10, metadata(10, range(12, 30))), start=25, end=40).owed == 10
