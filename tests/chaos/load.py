"""The load of the chaos suite: events at a steady rate, in storms and in overload, and the settings of its workers."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tests.chaos.checker import CLIENT, DROPPED
from tests.chaos.mix import Event, Fate, Mix, Storm, events, schema_variants, with_repeats
from tests.chaos.tally import DELAYS, ONCE, RETRIED, ROUTES, WINDOW_SECONDS, Again, Answered, Topics
from tests.integration.avro_ends import Registry

PARTITIONS = 12
SHADOWED = 0.25
"""Share of the records whose shadow is asked for: by the same model, which Triton may choose or a route may name."""
CATCH_UP = 2.0
"""How many times the rate is sent at most, to make up for a pause."""
TICK_SECONDS = 0.02


def pipeline_settings(topics: Topics, group: str, replication_factor: int = 1) -> dict[str, Any]:
    """The ``pipeline.yaml`` of workers under test. Addresses come from their environment.

    Args:
        topics: of the run.
        group: consumer group, and the settings' ``name``.
        replication_factor: of the topics, which the workers create.
    """
    return {
        "name": group,
        "kafka": {"session_timeout_seconds": 4, "transaction_timeout_seconds": 6},
        "registry": {"timeout_seconds": 2},
        "topics": {
            "requests": [topics.requests],
            "results": topics.results,
            "dead_letters": topics.dead_letters,
            "shadow": topics.shadows,
            "retry": topics.retry,
            "partitions": PARTITIONS,
            "replication_factor": replication_factor,
        },
        "worker": {"drain_timeout_seconds": 3},
        "routes": [_route(name, ordering, topics) for name, ordering in ROUTES.items()],
    }


def _route(name: str, ordering: str, topics: Topics) -> dict[str, Any]:
    # A server that is stopped or cut off without a word costs an attempt each time-out. No fault of a schedule lasts
    # for all of them together, and none of the poison is of a kind that is tried again.
    patience = {
        "timeout_seconds": 10,
        "retries": {"max_attempts": 1000, "initial_backoff_seconds": 0.1, "max_backoff_seconds": 1},
    }
    if name == RETRIED:
        patience = {
            "timeout_seconds": 60,
            "retries": {"max_attempts": 2, "initial_backoff_seconds": 0.05, "delays": list(DELAYS)},
        }
    # So few that they are read back in no time, and far more than are repeated in the window.
    once = {"window_seconds": WINDOW_SECONDS, "max_ids": 5_000}
    return {
        "name": name,
        "model": "delay",
        "match": {"type": [name]},
        "ordering": ordering,
        "also_to": [{"topic": topics.twins, "write": "result"}],
        "shadow": {"version": "1", "share": SHADOWED},
        "batch": {"max_records": 16, "max_delay_seconds": 0.02},
        "max_concurrency": 4,
        "idempotency": once if name == ONCE else None,
        **patience,
    }


class Load:
    """A thread that sends events at a steady rate, and pauses while too many are unanswered.

    Args:
        bootstrap_servers: of the cluster.
        registry_url: of the registry, which must be up when this is made.
        topic: the request topic, which exists.
        rng: makes everything that is random here.
        rate: records a second.
        answered: how many inputs have been answered so far.
        max_unanswered: the load pauses at so many.
        variant_every: after so many records each the next of the schema's variants joins the mix.
        limit: how many records to send in all; None: until ``stop``.
        repeats: whether some events are sent again.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        registry_url: str,
        topic: str,
        rng: random.Random,
        rate: float,
        answered: Callable[[], int],
        max_unanswered: int = 4000,
        variant_every: int = 20_000,
        limit: int | None = None,
        repeats: bool = False,
    ) -> None:
        registry = Registry(registry_url)
        mixes = [Mix(registry.register_request_schema(topic, schema), schema, rate) for schema in schema_variants()]
        self._storms: list[Storm] = []
        self._events = events(mixes, rng, variant_every, self._storms)
        if repeats:
            self._events = with_repeats(self._events, random.Random(rng.getrandbits(32)), rate)
        self._answered_ids = Answered()
        self._topic = topic
        self._rate = rate
        self._answered = answered
        self._max_unanswered = max_unanswered
        self._times = 1.0
        self._limit = limit
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._producer = Producer(
            {
                **CLIENT,
                "bootstrap.servers": bootstrap_servers,
                "enable.idempotence": True,  # implies acks=all
                "delivery.timeout.ms": 900_000,  # an outage must not lose what was handed over
                "request.timeout.ms": 10_000,
                "partitioner": "murmur2_random",
                "linger.ms": 20,
            }
        )
        self._thread = threading.Thread(target=self._run, name="load")
        self.sent = 0
        """Records handed to the producer."""
        self.delivered = 0
        """Records that the brokers have acknowledged."""
        self.fates: Counter[Fate] = Counter()
        """What must become of those sent."""
        self.repeats = 0
        """How many of those sent repeat another."""
        self.paused_seconds = 0.0
        """Time in which nothing was sent because too many were unanswered."""

    def start(self) -> None:
        self._thread.start()

    @property
    def poison(self) -> int:
        """How many of those sent must become dead letters at once."""
        return self.fates[Fate.POISON]

    @property
    def owed(self) -> int:
        """How many of those sent must have an outcome."""
        return self.sent - self.fates[Fate.DROPPED]

    @contextlib.contextmanager
    def storm(self, storm: Storm) -> Iterator[None]:
        """Half of the records are of this kind meanwhile."""
        self._storms.append(storm)
        try:
            yield
        finally:
            self._storms.remove(storm)

    @contextlib.contextmanager
    def overload(self, times: float, max_unanswered: int) -> Iterator[None]:
        """So many times the rate meanwhile, and at most so many unanswered."""
        usual = self._max_unanswered
        self._times, self._max_unanswered = times, max_unanswered
        try:
            yield
        finally:
            self._times, self._max_unanswered = 1.0, usual

    @property
    def running(self) -> bool:
        """Whether it goes on sending."""
        return self._thread.is_alive()

    def stop(self, seconds: float = 60.0) -> None:
        """Sends no more, and waits until all is delivered.

        Raises:
            AssertionError: it is not, after so many seconds.
            KafkaException: a record could not be delivered.
        """
        self._stopping.set()
        self.wait(seconds)

    def wait(self, seconds: float) -> None:
        """Until ``limit`` records, or what was sent before ``stop``, are delivered. Raises as ``stop`` does."""
        deadline = time.monotonic() + seconds
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"{self.sent} records are sent after {seconds:.0f} s, not {self._limit}"
        left = self._producer.flush(max(0.0, deadline - time.monotonic()))
        if self._failure is not None:
            raise self._failure
        assert left == 0, f"{left} records are not delivered after {seconds:.0f} s"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()
        if error is not None:
            self._producer.purge()  # what a failed test has not delivered must not hold up its end
        self._producer.flush(10)

    def _run(self) -> None:
        due, before, times = 0.0, time.monotonic(), self._times
        try:
            while not self._stopping.wait(TICK_SECONDS) and self._failure is None and self.sent != self._limit:
                now = time.monotonic()
                if times != self._times:  # what an overload could not send is not made up for after it
                    times, due = self._times, float(self.sent)
                rate = times * self._rate
                due += (now - before) * rate
                room = self._max_unanswered - (self.owed - self._answered())
                most = rate * CATCH_UP * (now - before)
                count = max(0, min(int(due) - self.sent, int(most) + 1, room))
                if room <= 0:
                    self.paused_seconds += now - before
                if self._limit is not None:
                    count = min(count, self._limit - self.sent)
                self._send(count)
                self._producer.poll(0)
                before = now
        except BaseException as error:  # noqa: BLE001 - raised by stop and wait
            self._failure = error

    def _send(self, count: int) -> None:
        for event in itertools.islice(self._events, count):
            now_ms = time.time_ns() // 1_000_000
            fate = self._fate(event, now_ms)
            self._producer.produce(
                self._topic,
                event.value,
                event.key,
                on_delivery=self._report,
                timestamp=now_ms,
                headers=[DROPPED] if fate is Fate.DROPPED else None,
            )
            self.sent += 1
            self.fates[fate] += 1

    def _fate(self, event: Event, now_ms: int) -> Fate:
        """Of an event that is sent now: it may repeat another."""
        if not event.once_id:
            return event.fate
        again = self._answered_ids.take(event.once_id, now_ms, event.fate is Fate.ANSWERED)
        self.repeats += again is not Again.FIRST
        return Fate.DROPPED if again is Again.DUPLICATE else event.fate

    def _report(self, error: KafkaError | None, record: Message) -> None:
        if error is None:
            self.delivered += 1
        else:
            self._failure = self._failure or KafkaException(error)
