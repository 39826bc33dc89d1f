"""Settings of what is written beside results and dead letters: second records, and what user code emits."""

from __future__ import annotations

import enum
from typing import Self

from pydantic import Field, model_validator

from headrace.pipeline.config_base import ModuleName, Name, Section, TopicName
from headrace.pipeline.mapping import check_path


class ValueKind(enum.StrEnum):
    """What the values of a topic are."""

    RESULT = "result"
    REQUEST = "request"
    JSON = "json"
    BYTES = "bytes"


class NextParts(enum.StrEnum):
    """What the parts of a request for a next stage are made of."""

    TEXT = "text"
    TENSORS = "tensors"
    ORIGINAL = "original"


class AlsoTo(Section):
    """A second record of each event that is answered, in the same transaction as its result.

    The route of an event's first part decides, as it does for the reply topic. The record has the event's key.
    """

    topic: TopicName = Field(description="Where to.")
    write: ValueKind = Field(
        default=ValueKind.RESULT,
        description="`result`: a copy of the result. `request`: a new event, for a next stage. `json`: `fields`.",
    )
    fields: dict[str, str] = Field(
        default_factory=dict,
        description="For `json`: name → path to its value, from `request`, `result`, `record` or `headers`.",
    )
    parts: NextParts = Field(
        default=NextParts.TEXT,
        description="For `request`: its parts are the `text` or the `tensors` that the models gave, or the `original` "
        "event's. If that is nothing, nothing is written.",
    )
    type: str | None = Field(
        default=None, min_length=1, description="For `request` and `json`: event type; default the event's own."
    )
    model: Name | None = Field(default=None, description="For `request`: the model that the new event names.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.write is ValueKind.BYTES:
            raise ValueError("write is result, request or json: bytes are for user code to emit")
        if bool(self.fields) is not (self.write is ValueKind.JSON):
            raise ValueError("fields and `write: json` go together: give both or neither")
        for name, path in self.fields.items():
            try:
                check_path(path)
            except ValueError as error:
                raise ValueError(f"fields.{name}: {error}") from None
        return self


class UserCodeSettings(Section):
    """Your own Python in the worker: see docs/user-code.md."""

    modules: tuple[ModuleName, ...] = Field(
        default=(), description="Modules whose `setup(app)` adds hooks, agents, timers and pages, in this order."
    )
    path: str = Field(default="", description="Folder to look for them in first; default that of `pipeline.yaml`.")
    timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        le=200,  # below the worst drain
        description="Time limit of one hook's or one agent's work on one record; past it, it is a dead letter.",
    )
