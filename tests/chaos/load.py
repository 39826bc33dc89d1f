"""The load of the chaos suite: seeded events of four routes, poison among them, and the workers' settings for it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import random
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from types import TracebackType
from typing import Any, NamedTuple, Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tests.chaos.checker import CLIENT
from tests.chaos.tally import DELAYS, RETRIED, ROUTES, Topics
from tests.integration.avro_ends import SCHEMAS, Registry, delayed, encode

PARTITIONS = 12
KEYS = 10_000
KEYLESS = 0.1
"""Share of records without a key."""
QUICK_MS = {0: 0.85, 2: 0.15}
"""Delays of most records, and how many have which. Few, for records of different delays share no infer call."""
SLOW_MS = (20, 100, 500, 3000)
INSTANCES_BY_DELAY = 0.25
"""Each of the slow delays keeps so many of the model's four instances busy, whatever the rate: one in all."""
VARIANTS = 8
POISONED = 0.01
SHADOWED = 0.25
"""Share of the records whose shadow is asked for: by the same model, which Triton may choose or a route may name."""
UNKNOWN_SCHEMA_ID = 2_000_000_000
FAILS_SECONDS = 2
"""What fails for a while does so for this long at most. It is less than the delays together, so it has a result in the
end, unless a wall clock that jumps cuts the delays short."""
CATCH_UP = 2.0
"""How many times the rate is sent at most, to make up for a pause."""
TICK_SECONDS = 0.02
BLOCK = 50
"""So many records in a row are of the same variant of the schema."""
_ID = "00000000-0000-4000-8000-000000000000"
_NUMBERS = (-1.25, -2.5)


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
    return {
        "name": name,
        "model": "delay",
        "match": {"type": [name]},
        "ordering": ordering,
        "also_to": [{"topic": topics.twins, "write": "result"}],
        "shadow": {"version": "1", "share": SHADOWED},
        "batch": {"max_records": 16, "max_delay_seconds": 0.02},
        "max_concurrency": 4,
        **patience,
    }


class Fate(Enum):
    """What becomes of an event."""

    ANSWERED = "answered"
    POISON = "poison"
    """A dead letter at once."""
    PUT_OFF = "put off"
    """It fails for up to ``FAILS_SECONDS``, is put off if it comes so early, and is answered then."""
    EXHAUSTED = "exhausted"
    """It is put off by each delay, and a dead letter in the end."""


class Template(NamedTuple):
    """A value but for its id (36 characters) and tensor (8 bytes), which come after ``head`` and ``middle``.

    ``head`` None: a tombstone.
    """

    head: bytes | None
    middle: bytes = b""
    tail: bytes = b""
    fate: Fate = Fate.ANSWERED

    def value(self, event_id: bytes, tensor: bytes) -> bytes | None:
        return None if self.head is None else b"".join((self.head, event_id, self.middle, tensor, self.tail))


class Mix:
    """Templates of one variant of the schema, and how often each is to be taken. Pure.

    Args:
        schema_id: of the variant.
        schema: the variant.
        rate: records a second, for which the slow ones are sized.
    """

    def __init__(self, schema_id: int, schema: str, rate: float) -> None:
        self._schema_id = schema_id
        self._schema = schema
        slow = {delay: INSTANCES_BY_DELAY / (rate * delay / 1000) for delay in SLOW_MS}
        quick = 1 - POISONED - sum(slow.values())
        assert quick > 0, f"at {rate} records a second the slow ones are all there are"
        delays = {delay: share * quick for delay, share in QUICK_MS.items()} | slow
        shares = {
            self._template(route, delay): share / len(ROUTES) for route in ROUTES for delay, share in delays.items()
        }
        self.poison = self._poison()
        shares |= dict.fromkeys(self.poison, POISONED / len(self.poison))
        self.templates = list(shares)
        self._weights = list(itertools.accumulate(shares.values()))

    def draw(self, rng: random.Random, count: int) -> list[Template]:
        return rng.choices(self.templates, cum_weights=self._weights, k=count)

    @functools.cached_property
    def failing(self) -> Template:
        """Its call fails every time, and may be tried again."""
        return self._template(RETRIED, 0, fail="INTERNAL")._replace(fate=Fate.EXHAUSTED)

    @functools.lru_cache(maxsize=64)  # noqa: B019 - a mix lives as long as its run
    def failing_until(self, second: int) -> Template:
        """Its call fails until then, in seconds since 1970."""
        template = self._template(RETRIED, 0, fail="INTERNAL", fail_until_ms=1000 * second)
        return template._replace(fate=Fate.PUT_OFF)

    def _template(self, route: str, delay_ms: int, **parameters: str | int) -> Template:
        datum = delayed(delay_ms, *_NUMBERS)
        datum |= {"id": _ID, "type": route, "model": None}
        datum["parameters"] |= parameters
        datum |= {field["name"]: "x" for field in json.loads(self._schema)["fields"] if field["name"][:5] == "note_"}
        head, _, rest = encode(self._schema_id, datum, self._schema).partition(_ID.encode())
        middle, _, tail = rest.partition(struct.pack("<2f", *_NUMBERS))
        assert tail
        return Template(head, middle, tail)

    def _poison(self) -> list[Template]:
        """Not in the wire format, of an unknown schema, cut short, refused by the model (one a route), a tombstone."""
        good = self._template("by-key", 0)
        assert good.head is not None
        found = [
            good._replace(head=b"\x01" + good.head),
            good._replace(head=struct.pack(">bI", 0, UNKNOWN_SCHEMA_ID) + good.head[5:]),
            good._replace(tail=b""),
            *(self._template(route, 0, fail="INVALID_ARG") for route in ROUTES),
            Template(None),
        ]
        return [each._replace(fate=Fate.POISON) for each in found]


Storm = Callable[[Mix], Sequence[Template]]
"""What every second record is one of while it lasts."""


def poison_storm(mix: Mix) -> Sequence[Template]:
    """What cannot be processed, of all kinds."""
    return mix.poison


def retry_storm(mix: Mix) -> Sequence[Template]:
    """What fails and may be tried again: some for ever, some for one to two seconds."""
    return mix.failing, mix.failing_until(int(time.time()) + FAILS_SECONDS)


def schema_variants() -> Iterator[str]:
    """The request schema, and compatible ones with an optional field of their own."""
    text = (SCHEMAS / "inference_request.avsc").read_text("utf-8")
    yield text
    for number in range(1, VARIANTS):
        schema = json.loads(text)
        schema["fields"].append({"name": f"note_{number}", "type": ["null", "string"], "default": None})
        yield json.dumps(schema)


class Event(NamedTuple):
    """A record to send."""

    key: bytes | None
    value: bytes | None
    fate: Fate


def events(
    mixes: Sequence[Mix], rng: random.Random, variant_every: int, storms: Sequence[Storm] = ()
) -> Iterator[Event]:
    """Records without end, the same for the same seed but for the times in them and for what storms put there. Pure.

    Args:
        mixes: one a variant of the schema.
        rng: makes everything that is random here.
        variant_every: after so many records each the next variant joins.
        storms: those under way; looked at before each record. They share the half that is theirs.
    """
    storm_rng = random.Random(rng.getrandbits(32))  # of its own: a storm must not change what comes after it
    prefix = f"{rng.getrandbits(32):08x}-{rng.getrandbits(16):04x}-4{rng.getrandbits(12):03x}-8000-"
    for first in itertools.count(0, BLOCK):
        mix = mixes[rng.randrange(min(len(mixes), 1 + first // variant_every))]
        for number, drawn in enumerate(mix.draw(rng, BLOCK), first):
            event_id = f"{prefix}{number:012x}".encode()
            tensor = struct.pack("<2f", number & 0xFFFFFF, number >> 24)
            stormy = storms and number % 2
            template = storm_rng.choice(storm_rng.choice(storms)(mix)) if stormy else drawn
            dice = rng.random()
            # Some keys come far more often than others: else none would come again while it is still being answered.
            key = None if dice < KEYLESS else b"k%d" % (KEYS * ((dice - KEYLESS) / (1 - KEYLESS)) ** 3)
            yield Event(key, template.value(event_id, tensor), template.fate)


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
    ) -> None:
        registry = Registry(registry_url)
        mixes = [Mix(registry.register_request_schema(topic, schema), schema, rate) for schema in schema_variants()]
        self._storms: list[Storm] = []
        self._events = events(mixes, rng, variant_every, self._storms)
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
        self.paused_seconds = 0.0
        """Time in which nothing was sent because too many were unanswered."""

    def start(self) -> None:
        self._thread.start()

    @property
    def poison(self) -> int:
        """How many of those sent must become dead letters at once."""
        return self.fates[Fate.POISON]

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
                room = self._max_unanswered - (self.sent - self._answered())
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
        for key, value, fate in itertools.islice(self._events, count):
            self._producer.produce(self._topic, value, key, on_delivery=self._report)
            self.sent += 1
            self.fates[fate] += 1

    def _report(self, error: KafkaError | None, record: Message) -> None:
        if error is None:
            self.delivered += 1
        else:
            self._failure = self._failure or KafkaException(error)
