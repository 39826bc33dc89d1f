"""What is believed of a process that has read a stranger's file."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.connectors.video import messages
from headrace.connectors.video.messages import BadMessageError, Head, Refusal
from headrace.pipeline.config_video import VideoSettings
from headrace.pipeline.inference import plan_of
from headrace.pipeline.limits import MAX_FRAME_BYTES

GOOD = {"sizes": [10, 20], "seconds": [0.0, 1.5], "end_seconds": 2.0}


def answer(**changes: Any) -> Head | Refusal:
    return messages.answer_of(json.dumps(GOOD | changes).encode(), max_frames=2)


def body(message: bytes) -> bytes:
    assert messages.length_of(message[: messages.LENGTH_BYTES]) == len(message) - messages.LENGTH_BYTES
    return message[messages.LENGTH_BYTES :]


def test_messages_survive_the_way() -> None:
    plan = plan_of(VideoSettings(), 64)
    assert messages.plan_of(body(messages.request(plan))) == plan
    assert messages.answer_of(body(messages.head([1, 2], [0.0, 0.5], 1.0)), 2) == Head((1, 2), (0.0, 0.5), 1.0)
    assert messages.answer_of(body(messages.refusal("VIDEO_EMPTY", "none")), 2) == Refusal("VIDEO_EMPTY", "none")


def test_good_answer_is_taken() -> None:
    assert answer() == Head((10, 20), (0.0, 1.5), 2.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"sizes": [10], "seconds": [0.0, 1.5]},
        {"sizes": [], "seconds": []},
        {"sizes": [1] * 3, "seconds": [0.0] * 3},
        {"sizes": [10, 0]},
        {"sizes": [10, -1]},
        {"sizes": [10, MAX_FRAME_BYTES]},
        {"sizes": "ab"},
        {"sizes": [10, float("inf")]},
        {"seconds": [0.0, 10**400]},
        {"sizes": [10, None]},
        {"seconds": [1.5, 0.0]},
        {"seconds": [-1.0, 0.0]},
        {"seconds": [0.0, float("nan")]},
        {"end_seconds": float("inf")},
        {"end_seconds": 1.0},
        {"code": "VERY_BAD", "message": ""},
        {"code": ["BAD_VIDEO"], "message": ""},
        {"code": "BAD_VIDEO"},
    ],
)
def test_answer_that_cannot_be_is_not_believed(changes: dict[str, Any]) -> None:
    with pytest.raises(BadMessageError):
        answer(**changes)


def test_long_words_are_cut() -> None:
    found = answer(code="BAD_VIDEO", message="x" * 10_000)
    assert isinstance(found, Refusal)
    assert len(found.message) == messages.MAX_TEXT_CHARACTERS


def test_message_of_any_length_is_not_waited_for() -> None:
    with pytest.raises(BadMessageError, match="4,294,967,295"):
        messages.length_of(b"\xff" * 4)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(json.dumps).map(str.encode)
)
def test_any_bytes_are_an_answer_or_not_believed(data: bytes) -> None:
    with pytest.raises(BadMessageError):
        messages.answer_of(data, 2)
