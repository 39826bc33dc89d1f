"""Which records of a range are replayed. Pure: the same record is always chosen, or never."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.patterns import Patterns, headers_match, key_matches
from headrace.pipeline.records import InferenceRequest, Modality, SourceRecord

NAMES = ("modality", "type", "source", "key", "header.NAME", "sample")
_HEADER = "header."


@dataclass(frozen=True, slots=True)
class Chosen:
    """All that is given must hold; of several values of one name any; texts may have the wildcards ``*`` and ``?``.

    Attributes:
        modalities: of any part of the event.
        types, sources: of the event.
        keys: of the record, undecodable bytes escaped.
        headers: name and value; of one that stands more than once the last counts.
        sample: share of the events, 0 to 1: always the same ones, by a hash of their id, so that a larger sample holds
            the smaller one, and two runs have the same.
    """

    modalities: frozenset[Modality] = frozenset()
    types: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    sample: float = 1.0


def chosen(options: Sequence[str]) -> Chosen:
    """What ``--filter NAME=VALUE``, given any number of times, says.

    Raises:
        ConfigError: a name is unknown or a value is not one of its name's.
    """
    found = _Found()
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not value:
            raise ConfigError(f"--filter {option}: write NAME=VALUE; names: {', '.join(NAMES)}")
        found.add(name, value)
    return Chosen(
        frozenset(found.modalities),
        tuple(found.texts["type"]),
        tuple(found.texts["source"]),
        tuple(found.texts["key"]),
        tuple(found.headers),
        found.sample or 1.0,
    )


@dataclass(slots=True)
class _Found:
    modalities: set[Modality] = field(default_factory=set)
    texts: dict[str, list[str]] = field(default_factory=lambda: {"type": [], "source": [], "key": []})
    headers: list[tuple[str, str]] = field(default_factory=list)
    sample: float = 0.0

    def add(self, name: str, value: str) -> None:
        if name in self.texts:
            self.texts[name].append(value)
        elif name == "modality":
            self.modalities.add(_modality(value))
        elif name == "sample":
            self.sample = max(self.sample, _share(value))  # the larger holds the smaller
        elif name.startswith(_HEADER) and len(name) > len(_HEADER):
            self.headers.append((name.removeprefix(_HEADER), value))
        else:
            raise ConfigError(f"--filter {name}: there is no such name; names: {', '.join(NAMES)}")


def _modality(value: str) -> Modality:
    try:
        return Modality(value.upper())
    except ValueError:
        raise ConfigError(f"--filter modality={value}: it is one of {', '.join(Modality)}") from None


def _share(value: str) -> float:
    try:
        share = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise ConfigError(f"--filter sample={value}: give a share above 0, such as 0.05 or 5%, and at most 1 or 100%")
    return share


class Choice:
    """Takes records or not.

    Args:
        wanted: what to take.
        decode: a record's request, None if it cannot be decoded; only asked if content matters.
    """

    def __init__(self, wanted: Chosen, decode: Callable[[SourceRecord], InferenceRequest | None]) -> None:
        self._wanted = wanted
        self._decode = decode
        self._types = Patterns(wanted.types)
        self._sources = Patterns(wanted.sources)
        self._keys = Patterns(wanted.keys)
        names = dict.fromkeys(name for name, _ in wanted.headers)
        self._headers = [(name, Patterns([value for each, value in wanted.headers if each == name])) for name in names]
        self._by_content = bool(wanted.modalities or wanted.types or wanted.sources) or wanted.sample < 1

    @property
    def everything(self) -> bool:
        """Nothing is left out."""
        return self._wanted == Chosen()

    def takes(self, record: SourceRecord) -> bool:
        """Whether the record is replayed. One that cannot be decoded is not, if its content matters."""
        if not (key_matches(self._keys, record.key) and headers_match(self._headers, record.headers)):
            return False
        if not self._by_content:
            return True
        request = self._decode(record)
        return (
            request is not None
            and self._types.match(request.type)
            and self._sources.match(request.source)
            and (not self._wanted.modalities or any(part.modality in self._wanted.modalities for part in request.parts))
            and sampled(request.id, self._wanted.sample)
        )


def sampled(event_id: str, share: float) -> bool:
    """Whether an event is in a sample of this share, 0 to 1, of all events."""
    if share >= 1:
        return True
    digest = hashlib.blake2b(event_id.lower().encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64
