"""Texts with the wildcards ``*`` and ``?``: what routes match with, and what ``headrace tail`` filters by."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

from headrace.pipeline.records import Headers


class Patterns:
    """A list of texts with ``*`` and ``?``, any of which may match. No texts: everything matches."""

    __slots__ = ("_exact", "_wild", "anything")

    def __init__(self, patterns: Sequence[str]) -> None:
        self.anything = not patterns
        self._exact = frozenset(pattern for pattern in patterns if not _has_wildcard(pattern))
        wild = [_translate(pattern) for pattern in patterns if _has_wildcard(pattern)]
        self._wild = re.compile("|".join(wild)) if wild else None

    def match(self, text: str) -> bool:
        """Whether the whole text, case and all, is one of the patterns."""
        return self.anything or text in self._exact or (self._wild is not None and self._wild.match(text) is not None)


def _has_wildcard(pattern: str) -> bool:
    return "*" in pattern or "?" in pattern


def _translate(pattern: str) -> str:
    return fnmatch.translate(pattern.replace("[", "[[]"))  # only * and ? are wildcards here


def key_matches(patterns: Patterns, key: bytes | None) -> bool:
    """Whether a record's key, undecodable bytes escaped, is one of the patterns; none is only if everything is."""
    return patterns.anything or (key is not None and patterns.match(key.decode(errors="backslashreplace")))


def headers_match(wanted: Sequence[tuple[str, Patterns]], headers: Headers) -> bool:
    """Whether each of these headers is there and matches; of one that stands more than once the last counts."""
    if not wanted:
        return True
    found = dict(headers)
    return all(
        (value := found.get(name)) is not None and patterns.match(value.decode(errors="replace"))
        for name, patterns in wanted
    )
