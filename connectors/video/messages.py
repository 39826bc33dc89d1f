"""What a worker and its decoding process say to each other over a socket.

Each message is a length (4 bytes, little-endian) and that much JSON. A request is a plan, and comes with the video as
an open file. An answer is a `Head`, and is followed by the images. Nothing in an answer is believed before it is
checked: the process that sends it has read a stranger's file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from headrace.pipeline.limits import MAX_FRAME_BYTES
from headrace.pipeline.ports import SamplingPlan

LENGTH_BYTES = 4
MAX_MESSAGE_BYTES = 1024 * 1024
MAX_TEXT_CHARACTERS = 500

READY = "READY"
FAILED = "FAILED"
"""Codes of the first message of a process."""
CODES = frozenset(
    {
        "BAD_VIDEO",
        "UNSUPPORTED_CODEC",
        "VIDEO_EMPTY",
        "VIDEO_TOO_LARGE",
        "VIDEO_TOO_LONG",
        "VIDEO_TOO_SLOW",
        "VIDEO_TRUNCATED",
    }
)
"""Of videos that cannot be sampled: codes of dead letters."""


class BadMessageError(Exception):
    """No decoding process in its right mind would say this."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there are no frames."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Head:
    """What the frames that follow are.

    Attributes:
        sizes: bytes of each image.
        seconds: when each is shown.
        end_seconds: when the last one is over.
    """

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    end_seconds: float


def request(plan: SamplingPlan) -> bytes:
    return _message(asdict(plan))


def plan_of(data: bytes) -> SamplingPlan:
    return SamplingPlan(**json.loads(data))


def refusal(code: str, message: str) -> bytes:
    return _message({"code": code, "message": message[:MAX_TEXT_CHARACTERS]})


def head(sizes: Sequence[int], seconds: Sequence[float], end_seconds: float) -> bytes:
    return _message({"sizes": sizes, "seconds": seconds, "end_seconds": end_seconds})


def length_of(data: bytes) -> int:
    """Raises BadMessageError if it is more than any message has."""
    length = int.from_bytes(data, "little")
    if length > MAX_MESSAGE_BYTES:
        raise BadMessageError(f"a message of {length:,} bytes")
    return length


def answer_of(data: bytes, max_frames: int) -> Head | Refusal:
    """Raises BadMessageError unless it is an answer that may be given."""
    try:
        fields = json.loads(data)
        if not isinstance(fields, dict):
            raise BadMessageError("no object")
        if "code" in fields:
            return _refusal(fields)
        return _head(fields, max_frames)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise BadMessageError(str(error)[:MAX_TEXT_CHARACTERS]) from None


def _refusal(fields: Mapping[str, Any]) -> Refusal:
    code, message = fields["code"], fields["message"]
    if code not in CODES | {READY, FAILED}:
        raise BadMessageError(f"code {str(code)[:40]!r}")
    return Refusal(code, str(message)[:MAX_TEXT_CHARACTERS])


def _head(fields: Mapping[str, Any], max_frames: int) -> Head:
    made = Head(tuple(map(int, fields["sizes"])), tuple(map(float, fields["seconds"])), float(fields["end_seconds"]))
    if not 1 <= len(made.sizes) == len(made.seconds) <= max_frames:
        raise BadMessageError(f"{len(made.sizes)} frames of at most {max_frames}")
    if min(made.sizes) < 1 or sum(made.sizes) > MAX_FRAME_BYTES:
        raise BadMessageError(f"frames of {sum(made.sizes):,} bytes")
    times = (0.0, *made.seconds, made.end_seconds)
    if not all(map(math.isfinite, times)) or any(later < earlier for earlier, later in pairwise(times)):
        raise BadMessageError("times that run backwards")
    return made


def too_slow(timeout_seconds: float) -> str:
    """What is said of a video that ran out of time."""
    return f"it was not sampled in {timeout_seconds:g} s: send a shorter or smaller one, or raise video.timeout_seconds"


def _message(fields: Mapping[str, Any]) -> bytes:
    data = json.dumps(fields).encode()
    return len(data).to_bytes(LENGTH_BYTES, "little") + data
