"""One run against workers that are up: send at a steady rate, read what is committed, SIGKILL one worker on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence

from headrace.connectors.embedded.supervisor import is_answering
from headrace.connectors.embedded.workers import Workers
from headrace.connectors.kafka.producer import DeliveryReport, EventSender
from headrace.connectors.kafka.reader import Beginning, CommittedReader
from headrace.pipeline.config import Settings
from headrace.pipeline.demo.check import Position
from headrace.pipeline.demo.events import Encoded
from headrace.pipeline.demo.observe import Observations
from headrace.pipeline.demo.stats import Kill
from headrace.pipeline.demo.view import Scene, View, WorkerLine
from headrace.pipeline.demo.watch import WorkerWatch
from headrace.pipeline.errors import StackError
from headrace.pipeline.headers import request_headers
from headrace.pipeline.outcomes import OutcomeDecoder
from headrace.pipeline.records import Provenance

TICK_SECONDS = 0.01
"""Longest wait for an output record before the next look at what is due."""
SCENE_SECONDS = 0.25
STALLED_SECONDS = 60.0
"""Without any new outcome for so long the run is over and the rest is missing."""
END_SECONDS = 20.0
"""For reading the output topics to their end, once the workers have stopped."""
VICTIM_SLOT = 1


class Drive:
    """Sends, reads and watches, in one thread.

    Args:
        settings: where Kafka is, and the topics' names.
        workers: the processes that do the work; one of them is killed.
        decoder: of the output topics' records.
        view: what people see.
        zero: when the demo began, on the monotonic clock: what notes are timed from.
        rate: events a second.
        kill: whether a worker is killed halfway.
    """

    def __init__(
        self,
        settings: Settings,
        workers: Workers,
        decoder: OutcomeDecoder,
        view: View,
        *,
        zero: float,
        rate: float,
        kill: bool,
    ) -> None:
        self.observations = Observations()
        self.watch = WorkerWatch(workers, is_answering)
        self._settings = settings
        self._workers = workers
        self._decoder = decoder
        self._view = view
        self._zero = zero
        self._rate = rate
        self._kill_wanted = kill
        self._sent = 0
        self._total = 0
        self._began = 0.0
        self._progress_at = 0.0
        self._scene_at = 0.0
        self._recovered = False
        self._seen: set[Provenance] = set()
        self._stopped = False

    def run(self, events: Sequence[Encoded]) -> None:
        """Send them all and read until each is answered, or no answer comes any more; then stop the workers, read on.

        Raises:
            UnavailableError: Kafka or the registry went away.
            StackError: a worker cannot be kept running.
        """
        self._total = len(events)
        with (
            EventSender(self._settings.kafka, self._settings.topics.max_message_bytes) as sender,
            self._reader() as reader,
            self._view,
        ):
            self._began = self._progress_at = self._scene_at = time.monotonic()
            while not self._finished():
                self._send_due(events, sender)
                sender.poll()
                self._read(reader, TICK_SECONDS)
                self._kill_one_halfway()
                self._look()
            sender.flush()
            self._note(f"{self._how_it_ended()}: workers stop, output topics are read to their end", "")
            for fault in self.watch.stop():
                self._note(fault, "bold red")
            self._stopped = True
            self._read_to_end()
            self._view.show(self._scene(), last=True)

    def _finished(self) -> bool:
        if self._sent < self._total:
            return False
        if time.monotonic() - self._progress_at > STALLED_SECONDS:
            return True
        return self.observations.answered == self._total and self.watch.all_back()

    def _how_it_ended(self) -> str:
        if missing := self._total - self.observations.answered:
            return f"{missing} not answered, and no new answer for {STALLED_SECONDS:g} s"
        return "all answered"

    def _send_due(self, events: Sequence[Encoded], sender: EventSender) -> None:
        due = min(self._total, int((time.monotonic() - self._began) * self._rate) + 1)
        while self._sent < due:
            self._send(events[self._sent], sender)
            self._sent += 1
            self._progress_at = time.monotonic()

    def _send(self, encoded: Encoded, sender: EventSender) -> None:
        event, sent_seconds = encoded.event, time.monotonic()

        def delivered(report: DeliveryReport) -> None:
            position = Position(report.topic, report.partition, report.offset)
            self.observations.delivered(encoded, position, sent_seconds)

        sender.send(
            self._settings.topics.requests[0],
            encoded.value,
            key=event.key,
            headers=request_headers(event.request),
            on_delivery=delivered,
        )

    def _read(self, reader: CommittedReader, timeout_seconds: float) -> None:
        records = [record for record in reader.read(timeout_seconds) if record.provenance not in self._seen]
        now = time.monotonic()
        before = self.observations.answered
        for outcome in self._decoder.decode(records):
            self._seen.add(outcome.record.provenance)
            self.observations.seen(outcome, now)
        if self.observations.answered > before:  # whatever else comes, duplicates say, must not keep the run going
            self._progress_at = now

    def _reader(self) -> CommittedReader:
        topics = self._settings.topics
        return CommittedReader(self._settings.kafka, (topics.results, topics.dead_letters), Beginning())

    def _read_to_end(self) -> None:
        """From the beginning, by a new reader: the ends that the old one has met may lie before the last commits."""
        deadline = time.monotonic() + END_SECONDS
        with self._reader() as reader:
            while not reader.at_end:
                if time.monotonic() > deadline:
                    raise StackError(f"the output topics could not be read to their end in {END_SECONDS:g} s")
                self._read(reader, 1.0)

    def _kill_one_halfway(self) -> None:
        if not self._kill_wanted or self.observations.kill or self._sent < self._total // 2:
            return
        slot = self._victim()
        name = self._worker_name(slot)
        pid = self._workers.process(slot).pid
        began = time.monotonic()
        self._workers.kill(slot)
        self.observations.kill = Kill(began, round(time.time() * 1000), name)
        self.watch.killed(f"worker {slot}")
        owned = sum(owner == name for owner in self.observations.owners().values())
        self._note(f"SIGKILL to worker {slot} (pid {pid}), owner of {owned} partitions", "bold red")

    def _victim(self) -> int:
        """A worker that owns partitions: killing one that owns none would show nothing."""
        owners = set(self.observations.owners().values())
        return VICTIM_SLOT if self._worker_name(VICTIM_SLOT) in owners else 0

    def _worker_name(self, slot: int) -> str:
        return f"{self._settings.name}-{slot}"

    def _look(self) -> None:
        """A few times a second: are the workers well, has the recovery come, and the picture."""
        now = time.monotonic()
        if now < self._scene_at:
            return
        self._scene_at = now + SCENE_SECONDS
        for note in self.watch.look():
            self._note(note)
        scene = self._scene()
        recovery = scene.figures.recovery
        if recovery is not None and recovery.partitions and recovery.seconds is not None and not self._recovered:
            self._recovered = True
            self._note(f"every partition flows again, {recovery.seconds:.1f} s after the SIGKILL", "bold green")
        self._view.show(scene)

    def _scene(self) -> Scene:
        now = time.monotonic()
        workers = tuple(
            WorkerLine(member.name, "stopped" if self._stopped else member.state, member.pid)
            for member in self._workers.members()
        )
        return Scene(now - self._zero, self._total, self.observations.figures(now), workers)

    def _note(self, text: str, style: str = "yellow") -> None:
        self._view.note(time.monotonic() - self._zero, text, style)
