"""Seeded events of the chaos suite: of four routes, quick and slow, poison and repeats among them, and storms."""

from __future__ import annotations

import functools
import heapq
import itertools
import json
import random
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple

from tests.chaos.tally import ONCE, RETRIED, ROUTES, WINDOW_SECONDS
from tests.integration.avro_ends import SCHEMAS, delayed, encode

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
UNKNOWN_SCHEMA_ID = 2_000_000_000
FAILS_SECONDS = 2
"""What fails for a while does so for this long at most. It is less than the delays together, so it has a result in the
end, unless a wall clock that jumps cuts the delays short."""
REPEATED = 0.2
"""Share of the events of the route ``ONCE`` with a key which are sent again."""
TIMES = (1, 1, 1, 2, 3)
AFTER_SECONDS = (0.0, 0.0, 0.05, 1.0, 3.0, 10.0, 1.5 * WINDOW_SECONDS)
"""When, at most: at once, soon, or when the window has passed."""
MENDED = 0.5
"""Share of the repeats of poison that can be processed."""
BLOCK = 50
"""So many records in a row are of the same variant of the schema."""
_ID = "00000000-0000-4000-8000-000000000000"
_NUMBERS = (-1.25, -2.5)


class Fate(Enum):
    """What becomes of an event."""

    ANSWERED = "answered"
    POISON = "poison"
    """A dead letter at once."""
    PUT_OFF = "put off"
    """It fails for up to ``FAILS_SECONDS``, is put off if it comes so early, and is answered then."""
    EXHAUSTED = "exhausted"
    """It is put off by each delay, and a dead letter in the end."""
    DROPPED = "dropped"
    """It repeats an event that is answered, and has no outcome."""


class Template(NamedTuple):
    """A value but for its id (36 characters) and tensor (8 bytes), which come after ``head`` and ``middle``.

    ``head`` None: a tombstone.
    """

    head: bytes | None
    middle: bytes = b""
    tail: bytes = b""
    fate: Fate = Fate.ANSWERED
    once: bool = False
    """Whether a repeat of it is known as such."""

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
        self.mended = self._template(ONCE, 0)
        """What repeats poison, and can be processed."""
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
        return Template(head, middle, tail, once=route == ONCE)

    def _poison(self) -> list[Template]:
        """Not in the wire format, of an unknown schema, cut short, refused by the model (one a route), a tombstone."""
        good = self._template(ONCE, 0)._replace(once=False)
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
    once_id: bytes = b""
    """Its id, if a repeat of it is known as such."""
    mended: bytes | None = None
    """A value of the same id that can be processed; of those alone."""


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
            under_way = tuple(storms) if number % 2 else ()  # another thread begins and ends them
            template = storm_rng.choice(storm_rng.choice(under_way)(mix)) if under_way else drawn
            dice = rng.random()
            # Some keys come far more often than others: else none would come again while it is still being answered.
            key = None if dice < KEYLESS else b"k%d" % (KEYS * ((dice - KEYLESS) / (1 - KEYLESS)) ** 3)
            event = Event(key, template.value(event_id, tensor), template.fate)
            if template.once and key is not None:
                event = event._replace(once_id=event_id, mended=mix.mended.value(event_id, tensor))
            yield event


def with_repeats(source: Iterator[Event], rng: random.Random, rate: float) -> Iterator[Event]:
    """The same events in the same order, and in between some of them again, of the same id and key. Pure.

    Args:
        source: events without end.
        rng: makes everything that is random here.
        rate: records a second, by which repeats are placed.
    """
    waiting: list[tuple[int, int, Event]] = []
    numbers = itertools.count()  # what is due together comes in its order
    for place in itertools.count():
        if waiting and waiting[0][0] <= place:
            yield heapq.heappop(waiting)[2]
            continue
        event = next(source)
        if event.once_id and rng.random() < REPEATED:
            for _ in range(rng.choice(TIMES)):
                mend = event.fate is Fate.POISON and rng.random() < MENDED
                again = event._replace(value=event.mended, fate=Fate.ANSWERED) if mend else event
                after = rate * rng.choice(AFTER_SECONDS) * rng.uniform(0.8, 1.0)
                heapq.heappush(waiting, (place + 1 + int(after), next(numbers), again))
        yield event
