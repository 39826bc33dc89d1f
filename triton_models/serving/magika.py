"""What kind of file some bytes are, by Google's Magika (github.com/google/magika, Apache-2.0).

Features and rules are those of ``magika/magika.py`` 1.0.3 with its default mode, high confidence; here, of a batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Network = Callable[[NDArray[np.int32]], NDArray[np.float32]]
"""Features int32 [N, features] to probabilities [N, classes]."""

_FEW = {"empty": "empty", "text": "txt", "binary": "unknown"}


@dataclass(frozen=True, slots=True)
class Guess:
    """Labels, likeliest first, with their scores; the first is Magika's answer."""

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    mime_type: str


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Magika's configuration and what it knows of each label."""

    classes: tuple[str, ...]
    begin_bytes: int
    end_bytes: int
    block_bytes: int
    padding: int
    fewest_bytes: int
    threshold: float
    thresholds: Mapping[str, float]
    overwrite: Mapping[str, str]
    mime_types: Mapping[str, str]
    texts: frozenset[str]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """From ``config.json``, the model's configuration, and ``kinds.json``, the table of content types."""
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kinds: dict[str, dict[str, Any]] = json.loads((folder / "kinds.json").read_text(encoding="utf-8"))
        return cls(
            classes=tuple(config["target_labels_space"]),
            begin_bytes=config["beg_size"],
            end_bytes=config["end_size"],
            block_bytes=config["block_size"],
            padding=config["padding_token"],
            fewest_bytes=config["min_file_size_for_dl"],
            threshold=config["medium_confidence_threshold"],
            thresholds=config["thresholds"],
            overwrite=config["overwrite_map"],
            mime_types={label: kind["mime_type"] for label, kind in kinds.items()},
            texts=frozenset(label for label, kind in kinds.items() if kind["is_text"]),
        )


def identify(contents: Sequence[bytes], network: Network, knowledge: Knowledge, count: int) -> list[Guess]:
    """A guess for each content, of ``count`` labels at most; of one where the bytes are too few for the network."""
    features = [_features(content, knowledge) for content in contents]
    rows = [row for row, found in enumerate(features) if found is not None]
    guesses = [_few(content, knowledge) for content in contents]
    if rows:
        for row, scores in zip(rows, network(np.stack([f for f in features if f is not None])), strict=True):
            guesses[row] = _judged(scores, knowledge, count)
    return guesses


def _features(content: bytes, knowledge: Knowledge) -> NDArray[np.int32] | None:
    """The first and last bytes without the white space around them; None if these are too few."""
    begin = content[: knowledge.block_bytes].lstrip()[: knowledge.begin_bytes]
    end = content[-knowledge.block_bytes :].rstrip()[-knowledge.end_bytes :]
    if len(content) < knowledge.fewest_bytes or len(begin) < knowledge.fewest_bytes:
        return None
    found = np.full(knowledge.begin_bytes + knowledge.end_bytes, knowledge.padding, np.int32)
    found[: len(begin)] = np.frombuffer(begin, np.uint8)
    found[len(found) - len(end) :] = np.frombuffer(end, np.uint8)
    return found


def _few(content: bytes, knowledge: Knowledge) -> Guess:
    """For contents that the network is not asked about."""
    kind = "empty"
    if content:
        try:
            content[: knowledge.block_bytes].decode()
            kind = "text"
        except UnicodeDecodeError:
            kind = "binary"
    label = _FEW[kind]
    return Guess((label,), (1.0,), knowledge.mime_types[label])


def _judged(scores: NDArray[np.float32], knowledge: Knowledge, count: int) -> Guess:
    """Magika's answer, which is a generic label if the network is not sure; then the network's other guesses."""
    order = np.argsort(-scores, kind="stable")[:count]
    best, score = knowledge.classes[order[0]], float(scores[order[0]])
    answer = knowledge.overwrite.get(best, best)
    if score < knowledge.thresholds.get(best, knowledge.threshold):
        answer = "txt" if answer in knowledge.texts else "unknown"
    others = [(knowledge.classes[index], float(scores[index])) for index in order]
    ranked = [(answer, score), *(other for other in others if other[0] != answer)][:count]
    return Guess(tuple(label for label, _ in ranked), tuple(score for _, score in ranked), knowledge.mime_types[answer])
