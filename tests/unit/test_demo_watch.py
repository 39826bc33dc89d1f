from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.connectors.embedded.state import Member
from headrace.pipeline.demo.watch import WorkerWatch
from headrace.pipeline.errors import StackError


class FakeWorkers:
    """Two worker processes; a test says what becomes of them."""

    def __init__(self) -> None:
        self.now = [Member(f"worker {slot}", 10 + slot, "running", "", f"worker-{slot}.log") for slot in (0, 1)]
        self.codes = {0: 0, 1: 0}

    def members(self) -> tuple[Member, ...]:
        return tuple(self.now)

    def stop(self) -> dict[int, int]:
        return self.codes

    def becomes(self, slot: int, state: str = "running", pid: int | None = None) -> None:
        self.now[slot] = replace(self.now[slot], state=state, pid=pid or self.now[slot].pid)


@pytest.fixture
def workers() -> FakeWorkers:
    return FakeWorkers()


@pytest.fixture
def watch(workers: FakeWorkers) -> WorkerWatch:
    return WorkerWatch(workers, lambda _: True)


def test_workers_that_end_as_told_are_no_crash(watch: WorkerWatch) -> None:
    assert watch.look() == []
    assert watch.all_back()
    assert watch.stop() == []
    assert watch.crashes == 0


def test_killed_workers_own_restart_is_no_crash_but_a_second_is(watch: WorkerWatch, workers: FakeWorkers) -> None:
    watch.killed("worker 1")
    workers.becomes(1, pid=20)
    assert watch.look() == ["worker 1 is started again (pid 20), in the same slot"]
    assert watch.crashes == 0
    workers.becomes(1, pid=30)
    assert "ended by itself" in watch.look()[0]
    assert watch.crashes == 1


def test_worker_that_ends_by_itself_is_a_crash(watch: WorkerWatch, workers: FakeWorkers) -> None:
    watch.killed("worker 1")
    workers.becomes(0, pid=20)
    assert watch.look() == ["worker 0 ended by itself and is started again"]
    assert watch.crashes == 1


def test_worker_that_nothing_can_mend_ends_the_run(watch: WorkerWatch, workers: FakeWorkers) -> None:
    workers.becomes(0, "failed")
    with pytest.raises(StackError, match=r"worker-0\.log"):
        watch.look()


@pytest.mark.parametrize("code", [0, 1, 139])
def test_worker_that_had_ended_before_the_stop_is_a_crash(watch: WorkerWatch, workers: FakeWorkers, code: int) -> None:
    workers.becomes(0, "restarting")
    workers.codes[0] = code
    assert watch.stop() == [f"worker 0 ended by itself (exit status {code})"]
    assert watch.crashes == 1


def test_worker_that_does_not_end_as_told_is_a_crash(watch: WorkerWatch, workers: FakeWorkers) -> None:
    workers.codes = {0: 137, 1: 1}
    assert watch.stop() == [
        "worker 0 was told to end, and had to be killed",
        "worker 1 was told to end, and failed (exit status 1)",
    ]
    assert watch.crashes == 2


def test_killed_worker_that_is_not_started_again_is_a_crash(watch: WorkerWatch, workers: FakeWorkers) -> None:
    watch.killed("worker 1")
    workers.becomes(1, "restarting")
    workers.codes[1] = 137
    assert not watch.all_back()
    assert watch.stop() == ["worker 1 was killed, and did not get ready again"]
    assert watch.crashes == 1


def test_killed_worker_is_back_once_it_is_ready(workers: FakeWorkers) -> None:
    asked: list[str] = []
    answers = iter([False, True])

    def is_ready(member: Member) -> bool:
        asked.append(member.name)
        return next(answers)

    watch = WorkerWatch(workers, is_ready)
    watch.killed("worker 1")
    assert not watch.all_back()
    assert asked == []  # it is the old process still
    workers.becomes(1, pid=20)
    watch.look()
    assert not watch.all_back()
    assert watch.all_back()
    assert watch.all_back()
    assert asked == ["worker 1", "worker 1"]
    assert watch.stop() == []
