"""An answer as comparators of the user's own see it, and as people do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.pipeline.present import finding
from headrace.pipeline.records import Label, NamedTensor, PartOutput, Segment, Tensor

FIELDS = ("model", "version", "labels", "text", "segments", "waiting_ms", "inference_ms")
"""Columns of ``store.ANSWERS`` that ``answer_of`` needs, beside the tensors."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one model said of one part of an event.

    Attributes:
        model, version: which model.
        labels: best first; empty if the model gives none.
        text: None if the model gives none.
        segments: spans of time and their labels.
        tensors: those of numbers, by name, row-major, float32 [n].
        waiting_ms, inference_ms: of the event.
    """

    model: str
    version: str
    labels: tuple[Label, ...]
    text: str | None
    segments: tuple[Segment, ...]
    tensors: Mapping[str, NDArray[np.float32]]
    waiting_ms: float
    inference_ms: float


def answer_of(row: Mapping[str, Any], tensors: Mapping[str, NDArray[np.float32]]) -> Answer:
    """An answer from its row's ``FIELDS``."""
    return Answer(
        row["model"],
        row["version"],
        tuple(Label(each["name"], each["score"]) for each in row["labels"] or ()),
        row["text"],
        tuple(Segment(each["start"], each["end"], each["label"]) for each in row["segments"] or ()),
        tensors,
        row["waiting_ms"],
        row["inference_ms"],
    )


def in_words(answer: Answer) -> str:
    """In one short line."""
    tensors = tuple(
        NamedTensor(name, Tensor("FP32", values.shape, values.astype("<f4").tobytes()))
        for name, values in answer.tensors.items()
    )
    return finding(
        PartOutput("", "", answer.model, answer.version, tensors, answer.labels, answer.segments, answer.text)
    )
