"""What Triton's answers say about a call. Knows no client library: statuses are gRPC's names."""

from __future__ import annotations

import enum
from collections.abc import Mapping


class Meaning(enum.Enum):
    """What an answer says about the call: each becomes one kind of error. The last ones are codes of poison."""

    UNAVAILABLE = enum.auto()
    RETRIABLE = enum.auto()
    REFUSED = enum.auto()
    INVALID_INPUT = enum.auto()
    MODEL_NOT_FOUND = enum.auto()
    MODEL_UNSUPPORTED = enum.auto()


BY_WORDING: tuple[tuple[str, str, Meaning], ...] = (
    # Loading, unloaded, or the server is shutting down: its code is the one of a model that does not exist.
    ("NOT_FOUND", "has no available versions", Meaning.UNAVAILABLE),
    # Triton's own words. Any other are the model's, about a row of the call: the whole batch must not fail for it.
    ("NOT_FOUND", "Request for unknown model", Meaning.MODEL_NOT_FOUND),
    # The model's process died and Triton does not start another: nobody's record is at fault, it waits for a restart.
    ("INTERNAL", "is not healthy", Meaning.UNAVAILABLE),
    # A queue that is full, or that a request has waited in for too long: the model is there, and has too much to do.
    ("UNAVAILABLE", "Exceeds maximum queue size", Meaning.RETRIABLE),
    ("UNAVAILABLE", "Request timeout expired", Meaning.RETRIABLE),
    # Beyond what Triton, or a proxy in front of it, lets through: it is as large the next time.
    ("RESOURCE_EXHAUSTED", "message larger than max", Meaning.INVALID_INPUT),
    # gRPC's words for HTTP's 404 and 413: an ingress with nothing behind it, and one that lets no such body through.
    ("UNIMPLEMENTED", "http2 header with status", Meaning.UNAVAILABLE),
    ("UNKNOWN", "http2 header with status: 413", Meaning.INVALID_INPUT),
)
"""Status, part of the message, meaning: the wording decides before the status, first match first. Triton's are those of
2.51."""
BY_STATUS: Mapping[str | None, Meaning] = {
    "UNAVAILABLE": Meaning.UNAVAILABLE,
    "DEADLINE_EXCEEDED": Meaning.RETRIABLE,
    "RESOURCE_EXHAUSTED": Meaning.RETRIABLE,
    "INTERNAL": Meaning.RETRIABLE,
    "ABORTED": Meaning.RETRIABLE,
    "CANCELLED": Meaning.UNAVAILABLE,  # a server that shuts down ends calls so: nobody's record is at fault
    "UNKNOWN": Meaning.RETRIABLE,
    "DATA_LOSS": Meaning.RETRIABLE,
    "ALREADY_EXISTS": Meaning.RETRIABLE,
    "INVALID_ARGUMENT": Meaning.INVALID_INPUT,
    "OUT_OF_RANGE": Meaning.INVALID_INPUT,
    "FAILED_PRECONDITION": Meaning.INVALID_INPUT,
    "NOT_FOUND": Meaning.INVALID_INPUT,
    "UNIMPLEMENTED": Meaning.MODEL_UNSUPPORTED,
    "UNAUTHENTICATED": Meaning.REFUSED,
    "PERMISSION_DENIED": Meaning.REFUSED,
    None: Meaning.INVALID_INPUT,  # the client library refused the call before sending it
}
"""gRPC's status, meaning. docs/errors.md has both tables."""


def meaning_of(status: str | None, message: str) -> Meaning:
    """Of an answer that is an error. ``status`` may have gRPC's prefix; None: the client refused the call."""
    status = status and status.removeprefix("StatusCode.")
    for code, wording, meaning in BY_WORDING:
        if status == code and wording in message:
            return meaning
    return BY_STATUS.get(status, Meaning.RETRIABLE)


def is_answer(status: str | None, message: str) -> bool:
    """Whether the server has done with the call; else it may only have been given up on this side."""
    status = status and status.removeprefix("StatusCode.")
    if status in ("DEADLINE_EXCEEDED", "CANCELLED"):
        return False
    queue = (wording for code, wording, _ in BY_WORDING if code == "UNAVAILABLE")
    return status != "UNAVAILABLE" or any(wording in message for wording in queue)
