"""What goes wrong and when in a chaos run. Pure: the seed decides, so a run that failed can be had again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

SLOTS = (0, 1, 2, 3)
"""Of the workers that are there all the time."""
STORM_SLOTS = (4, 5)
"""Of those that come and go."""
NODES = (1, 2, 3)
CLOCK_SLOT = 3
"""The worker whose wall clock can be moved."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    Attributes:
        needs: what it has for itself while it lasts; ``worker`` stands for one of the slots.
        seconds: how long it lasts, shortest and longest.
        room: how long what it needs takes to recover before it may be used for the next one, in seconds.
        weight: how often it is dealt, compared with the others.
    """

    needs: str
    seconds: tuple[float, float]
    room: float = 4.0
    weight: int = 1


KINDS: dict[str, Kind] = {
    # workers: `session_timeout_seconds` is 4, `max_poll_interval_seconds` 20
    "worker_kill": Kind("worker", (0.2, 3), weight=3),
    "worker_terminate": Kind("worker", (1, 4), weight=2),
    "worker_freeze": Kind("worker", (6, 10), room=8, weight=2),
    "worker_freeze_short": Kind("worker", (1, 3)),
    "worker_stall_loop": Kind("worker", (2, 6)),
    "worker_stall_poll": Kind("worker", (22, 25), room=8),
    "worker_clock": Kind("clock", (3, 8)),
    "worker_storm": Kind("storm", (6, 10), room=6),
    # brokers
    "leader_kill": Kind("brokers", (2, 6), room=12),
    "group_coordinator_kill": Kind("brokers", (2, 6), room=12),
    "transaction_coordinator_kill": Kind("brokers", (2, 6), room=12),
    "broker_terminate": Kind("brokers", (1, 4), room=12),
    "broker_freeze": Kind("brokers", (2, 8), room=8),
    # between workers and brokers
    "kafka_cut": Kind("kafka-net", (0.5, 2)),
    "kafka_refuse": Kind("kafka-net", (2, 6)),
    "kafka_delay": Kind("kafka-net", (3, 8)),
    "kafka_hang": Kind("kafka-net", (2, 9)),
    "kafka_lose_replies": Kind("kafka-net", (2, 9), weight=2),
    # between workers and Triton, and the other servers
    "triton_cut": Kind("triton", (0.5, 2)),
    "triton_delay": Kind("triton", (3, 8)),
    "triton_hang": Kind("triton", (2, 9)),
    "triton_restart": Kind("triton", (0.5, 3)),
    "registry_down": Kind("registry", (2, 8)),
    # what is sent
    "poison_storm": Kind("poison", (4, 8)),
    "retry_storm": Kind("clock", (4, 8)),  # a clock that jumps cuts delays short, and so changes what comes of it
    "overload": Kind("rate", (3, 5), room=20),
}

STREAM_KINDS = ("triton_hang", "triton_restart", "registry_down", "poison_storm", "retry_storm", "overload")
"""What must not stop the stream. Each comes early in the first deck, so that a short run has them all."""
EARLY = 18
"""So many cards of the first deck at most come before each of them, but for one another."""


class Fault(NamedTuple):
    """One thing that goes wrong.

    Attributes:
        at: when, in seconds from the beginning.
        kind: which of ``KINDS``.
        needs: what it has for itself: as in the kind, or ``worker-N``.
        seconds: how long.
        slot: of the worker, where it is one's.
        dice: seed of whatever else is random in it.
    """

    at: float
    kind: str
    needs: str
    seconds: float
    slot: int | None
    dice: int


def schedule(seed: int, seconds: float, pause: tuple[float, float]) -> list[Fault]:
    """Faults for so many seconds, the last over at their end.

    Each kind comes as often as its weight says before any comes again (dealt from a shuffled deck). They overlap, but
    two that need the same thing do not.

    Args:
        seed: decides everything.
        seconds: the length of the run.
        pause: shortest and longest time from the begin of one fault to that of the next, in seconds.
    """
    rng = random.Random(seed)
    free_at: dict[str, float] = {}
    faults: list[Fault] = []
    now = rng.uniform(*pause)
    deck = _deck(rng)
    held: list[str] = []
    while now < seconds:
        for place in range(len(held) + 1):
            if place == len(held):
                held.append(next(deck))  # not before: a card that is drawn is dealt, sooner or later
            name = held[place]
            fault = _dealt(rng, name, now, free_at)
            if fault is None or now + fault.seconds > seconds:
                continue
            del held[place]
            faults.append(fault)
            free_at[fault.needs] = now + fault.seconds + KINDS[name].room
            break
        now += rng.uniform(*pause)
    return faults


def _deck(rng: random.Random) -> Iterator[str]:
    cards = [name for name, kind in KINDS.items() for _ in range(kind.weight) if name not in STREAM_KINDS]
    rng.shuffle(cards)
    for name in STREAM_KINDS:
        cards.insert(rng.randrange(EARLY), name)
    while True:
        yield from cards
        rng.shuffle(cards)


def _dealt(rng: random.Random, name: str, now: float, free_at: dict[str, float]) -> Fault | None:
    """A fault of this kind, or None if what it needs is not free."""
    kind = KINDS[name]
    slot = None
    needs = kind.needs
    if needs == "worker":
        free = [each for each in SLOTS if free_at.get(f"worker-{each}", 0) <= now]
        if not free:
            return None
        slot = rng.choice(free)
        needs = f"worker-{slot}"
    elif free_at.get(needs, 0) > now:
        return None
    return Fault(now, name, needs, rng.uniform(*kind.seconds), slot, rng.getrandbits(32))
