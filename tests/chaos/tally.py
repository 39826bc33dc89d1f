"""Inputs and outputs of a chaos run, condensed and counted. Pure: about 13 bytes an input, records in, numbers out."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

RETRIED = "retried"
DELAYS = ("1s", "2s")
"""Of the route ``RETRIED``, which puts off what fails."""
ROUTES = {"by-key": "key", "by-partition": "partition", "unordered": "none", RETRIED: "none"}
"""Routes, which are named as the type of the events that take them, and what each keeps in order."""
RESULT, TWIN, DEAD, SHADOW = range(4)
KINDS = ("result", "twin", "dead letter", "shadow")
EXAMPLES = 20
_CODES = ("", "EMPTY_VALUE", "NOT_WIRE_FORMAT", "UNKNOWN_SCHEMA", "CORRUPT", "INVALID_INPUT", "RETRIES_EXHAUSTED")
_ROUTE_NAMES = ("", *ROUTES)
_ORDERINGS = ("none", *ROUTES.values())


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of a run. Twins are what ``also_to`` writes: copies of the results. Shadows are of a sample alone."""

    requests: str
    results: str
    twins: str
    dead_letters: str
    shadows: str
    retry: str
    """What the delay topics' names begin with."""

    @classmethod
    def of(cls, prefix: str) -> Topics:
        return cls(*(f"{prefix}.{name}" for name in ("in", "out", "twin", "dead", "shadow", "retry")))

    @property
    def outputs(self) -> tuple[str, str, str, str]:
        """In the order of ``KINDS``."""
        return self.results, self.twins, self.dead_letters, self.shadows

    @property
    def delays(self) -> tuple[str, ...]:
        """The delay topics."""
        return tuple(f"{self.retry}.{delay}" for delay in DELAYS)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run came to: numbers of records, but for ``missing`` and ``torn`` (inputs), ``uncommitted`` and
    ``unended`` (partitions).

    Attributes:
        duplicates: outputs of a topic beyond the first for their input.
        missing: inputs without any output.
        torn: inputs with a result and no twin, a twin and no result, a dead letter beside either, or a shadow without
            a result.
        foreign: outputs whose position is no input's.
        order_violations: outputs after one of a later input that they had to come before.
        wrong: first outputs whose content is not that of their input: id, tensor, key, route; bytes and reason;
            or that are in the topic of another kind.
        uncommitted: committed offset is not the end (in a delay topic: not past the last record), or has metadata
            there.
        unended: an open transaction did not end in time, so what it hides is not counted.
        put_off: records in the delay topics.
        longest_stall_s: in seconds; the ``Watcher`` knows it.
        examples: up to 20 of each kind of error.
    """

    records: int
    results: int
    twins: int
    dead_letters: int
    shadows: int
    duplicates: int
    missing: int
    torn: int
    foreign: int
    order_violations: int
    wrong: int
    uncommitted: int
    unended: int
    put_off: int = 0
    longest_stall_s: float = 0.0
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def errors(self) -> dict[str, int]:
        """What must be 0 and is not."""
        counts = {name: getattr(self, name) for name in _ERRORS}
        return {name: count for name, count in counts.items() if count}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def explain(self) -> str:
        """For the message of a failed test."""
        counts = ", ".join(f"{name}={value}" for name, value in self.to_json().items() if name != "examples")
        lines = [f"{name}: {example}" for name, examples in self.examples.items() for example in examples]
        return "\n".join([counts, *lines])


_ERRORS = ("duplicates", "missing", "torn", "foreign", "order_violations", "wrong", "uncommitted", "unended")


class Asked(NamedTuple):
    """What must come of an input: its route ("" if it has none), a dead letter's code ("" for a result), and a hash
    of what must come back with it."""

    route: str
    code: str
    identity: int


class Said(NamedTuple):
    """What an output says: the position it answers, its code ("" for a result), its key, and the hash as above."""

    topic: str
    partition: int
    offset: int
    code: str
    key: bytes | None
    identity: int


class _Inputs:
    """A partition of the request topic, 13 bytes an offset."""

    __slots__ = ("counts", "identities", "kinds")

    def __init__(self) -> None:
        self.kinds = bytearray()  # 0: no record has this offset; else 1 + route + len(_ROUTE_NAMES) * code
        self.identities = array("q")
        self.counts = tuple(bytearray() for _ in KINDS)

    def add(self, offset: int, kind: int, identity: int) -> None:
        more = offset + 1 - len(self.kinds)
        if more > 0:
            self.identities.frombytes(bytes(8 * more))
            for each in (self.kinds, *self.counts):
                each.extend(bytes(more))
        self.kinds[offset] = kind
        self.identities[offset] = identity


class Tally:
    """Counts inputs and outputs. Pure. All inputs come first; outputs of a partition come in the order of its offsets.

    A duplicate is counted as such and nowhere else.
    """

    def __init__(self, requests: str) -> None:
        self._requests = requests
        self._inputs: dict[int, _Inputs] = {}
        self._records = 0
        self._outputs = [0] * len(KINDS)
        self._put_off = 0
        self._last: dict[tuple[int, int, int, bytes | None], int] = {}
        self._homes: set[tuple[int, int, bytes]] = set()
        self._errors = dict.fromkeys(_ERRORS, 0)
        self._examples: dict[str, list[str]] = {}

    def add_input(self, partition: int, offset: int, asked: Asked) -> None:
        inputs = self._inputs.get(partition)
        if inputs is None:
            inputs = self._inputs[partition] = _Inputs()
        kind = 1 + _ROUTE_NAMES.index(asked.route) + len(_ROUTE_NAMES) * _CODES.index(asked.code)
        inputs.add(offset, kind, asked.identity)
        self._records += 1

    def add_output(self, kind: int, partition: int, offset: int, said: Said) -> None:
        """Takes note of one output.

        Args:
            kind: ``RESULT``, ``TWIN``, ``DEAD`` or ``SHADOW``.
            partition: of the output topic.
            offset: there.
            said: its content.
        """
        self._outputs[kind] += 1
        inputs = self._inputs.get(said.partition) if said.topic == self._requests else None
        if inputs is None or not 0 <= said.offset < len(inputs.kinds) or not inputs.kinds[said.offset]:
            self._error("foreign", kind, partition, offset, said)
            return
        counts = inputs.counts[kind]
        if counts[said.offset]:
            self._error("duplicates", kind, partition, offset, said)
            return
        counts[said.offset] = 1
        code, route = divmod(inputs.kinds[said.offset] - 1, len(_ROUTE_NAMES))
        at_home = (kind == DEAD) == bool(said.code)
        if not at_home or said.code != _CODES[code] or said.identity != inputs.identities[said.offset]:
            self._error("wrong", kind, partition, offset, said)
        if not self._in_order(kind, partition, said, route):
            self._error("order_violations", kind, partition, offset, said)

    def add_put_off(self) -> None:
        """One more record in a delay topic."""
        self._put_off += 1

    def _in_order(self, kind: int, partition: int, said: Said, route: int) -> bool:
        """Whether no output of a later input in its lane came before.

        A key has one partition of each output topic: each further one counts as out of order once.
        """
        ordering = _ORDERINGS[route]
        if ordering == "none" or (ordering == "key" and said.key is None):
            return True
        lane = (kind, partition, said.partition, said.key if ordering == "key" else None)
        last = self._last.get(lane)
        if last is not None:
            self._last[lane] = max(last, said.offset)
            return said.offset > last
        self._last[lane] = said.offset
        if lane[3] is None:
            return True
        home = (kind, said.partition, lane[3])
        at_home = home not in self._homes
        self._homes.add(home)
        return at_home

    def add_partition_error(self, name: str, text: str) -> None:
        """One more ``uncommitted`` or ``unended`` partition."""
        self._errors[name] += 1
        self._example(name, text)

    def _error(self, name: str, kind: int, partition: int, offset: int, said: Said) -> None:
        self._errors[name] += 1
        code = f" ({said.code})" if said.code else ""
        self._example(
            name, f"{KINDS[kind]}{code} [{partition}]@{offset} of {said.topic}[{said.partition}]@{said.offset}"
        )

    def _example(self, name: str, text: str) -> None:
        examples = self._examples.setdefault(name, [])
        if len(examples) < EXAMPLES:
            examples.append(text)

    def verdict(self) -> Verdict:
        """The counts. To be called once, when everything has been added."""
        for partition, inputs in self._inputs.items():
            for offset, (kind, *counts) in enumerate(zip(inputs.kinds, *inputs.counts, strict=True)):
                result, twin, dead, shadow = counts
                if not kind or (result == twin and dead != result and shadow <= result):
                    continue
                has = [name for name, count in zip(KINDS, counts, strict=True) if count]
                name = "torn" if has else "missing"
                self._errors[name] += 1
                self._example(name, f"{self._requests}[{partition}]@{offset} has {' and '.join(has) or 'no output'}")
        results, twins, dead_letters, shadows = self._outputs
        return Verdict(
            self._records,
            results,
            twins,
            dead_letters,
            shadows,
            **self._errors,
            put_off=self._put_off,
            examples=self._examples,
        )
